"""Segmentations: opened, checked, and read chunk by chunk."""

from .segmentation import ChunkLabels, Volume, VolumeInfo, open_volume

__all__ = ["ChunkLabels", "Volume", "VolumeInfo", "open_volume"]
