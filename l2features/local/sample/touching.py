"""Pairs of supervoxels that touch across the faces of a sample's chunks."""

from __future__ import annotations

import numpy as np

from ...core.geometry import Chunk, Triple
from ...core.ids import Ids
from .segmentation_files import Labels, SampleChunk


class Touching:
    """Collects pairs of touching labels, chunk by chunk in the order of `sample_chunks`."""

    def __init__(self, grid: Triple) -> None:
        self.grid = grid
        self._faces: dict[tuple[int, Chunk], Labels] = {}
        """By axis and chunk: the last plane of labels of the chunk's lower neighbour along the axis."""
        self._pairs: list[Ids] = []

    def add(self, chunk: SampleChunk) -> None:
        """Find pairs across a chunk's lower faces; keep its upper faces for the chunks that come later."""
        for axis in range(3):
            before = self._faces.pop((axis, chunk.chunk), None)
            if before is not None:
                self._pairs.append(_touching(before, _plane(chunk.labels, 0, axis)))
            above = Chunk(*(n + (i == axis) for i, n in enumerate(chunk.chunk)))
            if above[axis] < self.grid[axis]:
                self._faces[axis, above] = _plane(chunk.labels, -1, axis)

    def pairs(self) -> Ids:
        """Return all pairs, (n, 2), each once."""
        return np.concatenate([np.empty((0, 2), dtype=np.uint64), *self._pairs])


def _plane(labels: Labels, index: int, axis: int) -> Labels:
    return np.moveaxis(labels, axis, 0)[index].copy()


def _touching(one: Labels, other: Labels) -> Ids:
    pairs = np.stack([one.ravel(), other.ravel()], axis=1)
    return np.unique(pairs[(pairs != 0).all(axis=1)], axis=0)
