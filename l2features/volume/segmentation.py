"""Segmentations: their bounds, and their chunks as arrays or runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.chunks import NO_FILES, FileCounts
from ..core.errors import reason_of
from ..core.geometry import MAX_CHUNK_VOXELS, Bounds, Chunk, Geometry, Triple, as_triple
from ..core.transient import volume_error

if TYPE_CHECKING:
    from ..kernel.runs import Runs
    from .blocks import Block, Grid
    from .encodings import Encoding
    from .opening import LayerPlace

FAIL, BACKGROUND = "fail", "background"
"""Policies for files of 0 bytes."""
SLAB_THICKNESS = 64
"""Maximum voxels along z of a slab that combines layers of blocks. A thicker layer is a slab of its own."""


Labels = npt.NDArray[np.unsignedinteger[Any]]


class Slab(NamedTuple):
    """A part of a chunk, cut along z: its labels, and the counts of its files.

    The labels are runs, or an array (x, y, z) in Fortran order.
    """

    labels: Labels | Runs
    files: FileCounts


class File(NamedTuple):
    """A file's index in the grid, its labels or 32-bit words (None if missing or empty), and its counts."""

    cell: Any
    part: Labels | None
    counts: FileCounts


class Volume:
    """One open segmentation, read at one of its scales.

    Args:
        cv_path: path of the segmentation, also used in messages.
        mip: index of the scale, by default 0; ignored if ``scale`` is given.
        scale: the resolution of the scale in nm.
        empty_files: whether a file of 0 bytes is an error ("fail") or "background".
        layer: path and info of the layer to read, if known already; else both are found from ``cv_path``.

    Raises:
        VolumeError: the segmentation cannot be opened, or its format is not supported.
    """

    def __init__(
        self,
        cv_path: str,
        mip: int | None = None,
        scale: Sequence[float] | None = None,
        empty_files: str = FAIL,
        layer: LayerPlace | None = None,
    ) -> None:
        from .opening import LayerPlace, open_layer

        self.cv_path, self.empty_files = cv_path, empty_files
        try:
            self._layer = open_layer(layer or LayerPlace(cv_path), mip, scale)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            raise volume_error(f"cannot open {cv_path}: {reason_of(error)}", error) from error
        self.mip = self._layer.mip

    @property
    def bounds(self) -> Bounds:
        """Resolution, offset and size of the scale that is read."""
        scale = self._layer.scales[self.mip]
        x, y, z = (float(r) for r in scale["resolution"])
        offset, size = scale.get("voxel_offset", (0, 0, 0)), scale["size"]
        return Bounds((x, y, z), as_triple(offset), as_triple(size))

    def placeholder(self) -> str:
        """Return a warning if the scale is on this machine and has no files; else ""."""
        from .layer import listed

        folder, scales = self._layer.folder, self._layer.scales
        if folder is None or _holds_files(folder / scales[self.mip]["key"]):
            return ""
        filled = [i for i, scale in enumerate(scales) if _holds_files(folder / scale["key"])]
        others = listed([scales[i]["resolution"] for i in filled], filled) or "none"
        here = listed([scales[self.mip]["resolution"]], [self.mip])
        return f"{self.cv_path}: {here} has no files; scales with files: {others}"

    def slabs(self, chunk: Chunk, geometry: Geometry) -> Iterator[Slab]:
        """Yield the labels of a chunk in slabs along z. They share a buffer: use each before taking the next.

        Labels are 0 beyond the segmentation's bounds. Labels of compressed_segmentation files are `Runs`, in
        slabs of a few z planes. Raises VolumeError, naming the chunk, if the chunk cannot be read or decoded.
        """
        size = np.array(geometry.chunk_size)
        start = geometry.origins([chunk])[0]
        try:
            if int(np.prod(size, dtype=object)) > MAX_CHUNK_VOXELS:
                raise ValueError(
                    f"chunk size is {size.tolist()}, expected at most {MAX_CHUNK_VOXELS} voxels in a chunk"
                )
            stop = np.minimum(start + size, np.add(geometry.voxel_offset, geometry.voxel_size))
            yield from self._slabs(start, stop, size)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            self._layer.blocks.forget()
            message = f"chunk {chunk}: cannot read {self.cv_path}: {reason_of(error)}"
            raise volume_error(message, error) from error

    def _slabs(self, start: Any, stop: Any, size: Any) -> Iterator[Slab]:
        blocks, grid, dtype = self._layer.blocks, self._layer.blocks.grid, self._layer.dtype
        packed = self._layer.packed
        layers = 1 if packed else max(1, SLAB_THICKNESS // grid.step[2])
        thickest = 0 if packed else min(size[2], layers * grid.step[2])
        buffer = np.zeros((*size[:2], thickest), dtype, order="F")

        def background(low: int, high: int) -> Iterator[Slab]:
            if low < high:
                yield Slab(np.zeros((*size[:2], high - low), dtype, order="F"), NO_FILES)

        reached, end = start[2], min(stop[2], grid.offset[2] + grid.size[2])
        fetched = blocks.fetch(grid.cells(start, stop))
        for slab, group in groupby(fetched, lambda block: block.cell[2] // layers):
            low = max(grid.offset[2] + slab * layers * grid.step[2], start[2])
            high = min(grid.offset[2] + (slab + 1) * layers * grid.step[2], end)
            yield from background(reached, low)
            first, files = np.array([*start[:2], low]), self._files(group)
            if packed:
                shape = int(size[0]), int(size[1]), int(high - low)
                yield from _run_slabs(grid, packed, first, stop, shape, files)
            else:
                yield self._slab(buffer[..., : high - low], first, stop, files)
            reached = high
        yield from background(reached, start[2] + size[2])

    def _files(self, group: Iterable[Block]) -> Iterator[File]:
        """Decode and count fetched files.

        Raises ValueError for a broken file. Raises ValueError for an empty file, unless ``empty_files`` is
        "background".
        """
        for cell, name, (content, is_forbidden) in group:
            first, last = self._layer.blocks.grid.bounds(cell)
            if content:
                try:
                    part = self._layer.blocks.decode(content, as_triple(last - first))
                except ValueError as error:
                    raise ValueError(f"file {name}: {error}") from error
                yield File(cell, part, FileCounts(expected=1, read=1))
            elif content is None:
                yield File(cell, None, FileCounts(expected=1, missing=1, forbidden=int(is_forbidden)))
            elif self.empty_files == FAIL:
                raise ValueError(f"file {name} is empty: 'empty_files: {BACKGROUND}' reads it as background")
            else:
                yield File(cell, None, FileCounts(expected=1, empty=1))

    def _slab(self, labels: Labels, start: Any, stop: Any, files: Iterable[File]) -> Slab:
        """Return the slab whose first voxel is ``start``, made of files.

        The files are copied into ``labels``; a single file that fills the slab is used as it is.
        """
        counts = NO_FILES
        for cell, part, count in files:
            first, last = self._layer.blocks.grid.bounds(cell)
            low, high = np.maximum(first, start), np.minimum(last, [*stop[:2], start[2] + labels.shape[2]])
            where, counts = _slices(low - start, high - start), counts.plus(count)
            if part is None:
                labels[where] = 0
                continue
            part = part[_slices(low - first, high - first)]
            if part.shape == labels.shape:
                labels = np.asarray(part, labels.dtype, order="F")
            else:
                labels[where] = part
        return Slab(labels, counts)


def _run_slabs(
    grid: Grid, packed: Encoding, start: Any, stop: Any, shape: Triple, files: Iterable[File]
) -> Iterator[Slab]:
    """Yield the `Runs` of files with the same z index, in slabs of a few z planes.

    The first slab has the sum of all files' `FileCounts`; the other slabs have counts of 0.
    """
    from .layer_runs import LayerRuns

    layer, counts = LayerRuns(grid, packed, start, stop, shape), NO_FILES
    for cell, words, count in files:
        counts = counts.plus(count)
        if words is not None:
            layer.add(cell, words)
    for runs in layer.runs():
        yield Slab(runs, counts)
        counts = NO_FILES


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _slices(low: Any, high: Any) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
