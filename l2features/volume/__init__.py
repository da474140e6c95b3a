"""Open segmentations, check them, and read their chunks."""

from .segmentation import Slab, Volume

__all__ = ["Slab", "Volume"]
