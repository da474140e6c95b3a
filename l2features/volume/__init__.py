"""Segmentations: opened, checked, and read chunk by chunk."""

from .segmentation import Slab, Volume

__all__ = ["Slab", "Volume"]
