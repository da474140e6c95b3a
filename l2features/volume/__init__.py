"""Segmentations: opened, checked, and read chunk by chunk."""

from .segmentation import ChunkLabels, Volume

__all__ = ["ChunkLabels", "Volume"]
