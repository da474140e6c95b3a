"""Segmentations: their bounds, and their chunks as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.chunks import NO_FILES, FileCounts
from ..core.errors import reason_of
from ..core.geometry import MAX_CHUNK_VOXELS, Bounds, Chunk, Geometry, as_triple
from ..core.transient import volume_error

if TYPE_CHECKING:
    from .blocks import Block
    from .opening import Layer

FAIL, BACKGROUND = "fail", "background"
"""Policies for files of 0 bytes."""
SLAB_THICKNESS = 64
"""Voxels of a slab along z, if no block is thicker."""


Labels = npt.NDArray[np.unsignedinteger[Any]]


class ChunkLabels(NamedTuple):
    """Labels of a chunk or of a slab of it, in Fortran order, and counts of its files."""

    labels: Labels
    files: FileCounts


class Volume:
    """One open segmentation, read at one of its scales.

    Args:
        cv_path: its path, also its name in messages.
        mip: the number of the scale; the first, where ``scale`` is not given either.
        scale: the resolution of the scale in nm.
        empty_files: whether a file of 0 bytes is an error ("fail") or "background".
        layer: the path and the info to read instead, where these are known already.

    Raises:
        VolumeError: it cannot be opened, or is not one that can be read.
    """

    def __init__(
        self,
        cv_path: str,
        mip: int | None = None,
        scale: Sequence[float] | None = None,
        empty_files: str = FAIL,
        layer: Layer | None = None,
    ) -> None:
        from .opening import Layer, open_layer

        self.cv_path, self.empty_files = cv_path, empty_files
        try:
            self._layer = open_layer(layer or Layer(cv_path), mip, scale)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            raise volume_error(f"cannot open {cv_path}: {reason_of(error)}", error) from error
        self.mip = self._layer.mip

    @property
    def bounds(self) -> Bounds:
        """Return resolution, offset and size of the scale."""
        scale = self._layer.scales[self.mip]
        x, y, z = (float(r) for r in scale["resolution"])
        offset, size = scale.get("voxel_offset", (0, 0, 0)), scale["size"]
        return Bounds((x, y, z), as_triple(offset), as_triple(size))

    def placeholder(self) -> str:
        """Return a warning for a scale on this machine without any files; else ""."""
        from .layer import listed

        folder, scales = self._layer.folder, self._layer.scales
        if folder is None or _holds_files(folder / scales[self.mip]["key"]):
            return ""
        filled = [i for i, scale in enumerate(scales) if _holds_files(folder / scale["key"])]
        others = listed([scales[i]["resolution"] for i in filled], filled) or "none"
        here = listed([scales[self.mip]["resolution"]], [self.mip])
        return f"{self.cv_path}: {here} has no files; scales with files: {others}"

    def slabs(self, chunk: Chunk, geometry: Geometry) -> Iterator[ChunkLabels]:
        """Return the labels of one chunk in slabs along z, which share memory: use each before the next.

        They are 0 beyond the segmentation's bounds. Raises VolumeError, naming the chunk, where it cannot be
        read or decoded.
        """
        size = np.array(geometry.chunk_size)
        start = geometry.origins([chunk])[0]
        try:
            if int(np.prod(size, dtype=object)) > MAX_CHUNK_VOXELS:
                raise ValueError(
                    f"chunks of {size.tolist()} voxels: expected at most {MAX_CHUNK_VOXELS} in all"
                )
            stop = np.minimum(start + size, np.add(geometry.voxel_offset, geometry.voxel_size))
            yield from self._slabs(start, stop, size)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            self._layer.blocks.forget()
            message = f"chunk {chunk}: cannot read {self.cv_path}: {reason_of(error)}"
            raise volume_error(message, error) from error

    def _slabs(self, start: Any, stop: Any, size: Any) -> Iterator[ChunkLabels]:
        blocks, grid, dtype = self._layer.blocks, self._layer.blocks.grid, self._layer.dtype
        layers = max(1, SLAB_THICKNESS // grid.step[2])
        buffer = np.zeros((*size[:2], min(size[2], layers * grid.step[2])), dtype, order="F")

        def background(low: int, high: int) -> Iterator[ChunkLabels]:
            if low < high:
                yield ChunkLabels(np.zeros((*size[:2], high - low), dtype, order="F"), NO_FILES)

        reached, end = start[2], min(stop[2], grid.offset[2] + grid.size[2])
        fetched = blocks.fetch(grid.cells(start, stop))
        for slab, group in groupby(fetched, lambda block: block.cell[2] // layers):
            low = max(grid.offset[2] + slab * layers * grid.step[2], start[2])
            high = min(grid.offset[2] + (slab + 1) * layers * grid.step[2], end)
            yield from background(reached, low)
            yield self._slab(buffer[..., : high - low], np.array([*start[:2], low]), stop, group)
            reached = high
        yield from background(reached, start[2] + size[2])

    def _slab(self, labels: Labels, start: Any, stop: Any, group: Iterable[Block]) -> ChunkLabels:
        """Return blocks as the slab whose first voxel is at ``start``: in ``labels``, or the only block."""
        grid, counts = self._layer.blocks.grid, NO_FILES
        for cell, name, (content, is_forbidden) in group:
            first, last = grid.bounds(cell)
            low, high = np.maximum(first, start), np.minimum(last, [*stop[:2], start[2] + labels.shape[2]])
            where = _slices(low - start, high - start)
            if content:
                try:
                    part = self._layer.blocks.decode(content, as_triple(last - first))
                except ValueError as error:
                    raise ValueError(f"file {name}: {error}") from error
                counts = counts.plus(FileCounts(expected=1, read=1))
                part = part[_slices(low - first, high - first)]
                if part.shape == labels.shape:
                    labels = np.asarray(part, labels.dtype, order="F")
                else:
                    labels[where] = part
                continue
            labels[where] = 0
            if content is None:
                counts = counts.plus(FileCounts(expected=1, missing=1, forbidden=int(is_forbidden)))
            elif self.empty_files == FAIL:
                raise ValueError(f"file {name} is empty: 'empty_files: {BACKGROUND}' reads it as background")
            else:
                counts = counts.plus(FileCounts(expected=1, empty=1))
        return ChunkLabels(labels, counts)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _slices(low: Any, high: Any) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
