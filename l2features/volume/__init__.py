"""Segmentations: opened, checked, and read chunk by chunk."""

from .segmentation import MAX_CHUNK_VOXELS, ChunkLabels, Volume, VolumeInfo, open_volume

__all__ = ["MAX_CHUNK_VOXELS", "ChunkLabels", "Volume", "VolumeInfo", "open_volume"]
