"""Segmentations: their bounds, and their chunks as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.chunks import FileCounts
from ..core.errors import reason_of
from ..core.geometry import MAX_CHUNK_VOXELS, Bounds, Chunk, Geometry, as_triple
from ..core.transient import volume_error

if TYPE_CHECKING:
    from .opening import Layer

FAIL, BACKGROUND = "fail", "background"
"""Policies for files of 0 bytes."""


class ChunkLabels(NamedTuple):
    """Labels of a chunk, in Fortran order and of the full chunk size, and counts of its files."""

    labels: npt.NDArray[np.unsignedinteger[Any]]
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

    def read(self, chunk: Chunk, geometry: Geometry) -> ChunkLabels:
        """Return the labels of one chunk, 0 beyond the segmentation's bounds.

        Raises VolumeError, naming the chunk, where it cannot be read or decoded.
        """
        size = np.array(geometry.chunk_size)
        start = geometry.origins([chunk])[0]
        stop = np.minimum(start + size, np.add(geometry.voxel_offset, geometry.voxel_size))
        try:
            if int(np.prod(size, dtype=object)) > MAX_CHUNK_VOXELS:
                raise ValueError(
                    f"chunks of {size.tolist()} voxels: expected at most {MAX_CHUNK_VOXELS} in all"
                )
            return self._cutout(start, stop, size)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            self._layer.blocks.forget()
            message = f"chunk {chunk}: cannot read {self.cv_path}: {reason_of(error)}"
            raise volume_error(message, error) from error

    def _cutout(self, start: Any, stop: Any, size: Any) -> ChunkLabels:
        blocks = self._layer.blocks
        cells = blocks.grid.cells(start, stop)
        labels = np.zeros(size, dtype=self._layer.dtype, order="F")
        read = missing = forbidden = empty = 0
        for cell, name, (content, is_forbidden) in blocks.fetch(cells):
            if content is None:
                missing, forbidden = missing + 1, forbidden + is_forbidden
                continue
            if not content:
                if self.empty_files == FAIL:
                    raise ValueError(
                        f"file {name} is empty: 'empty_files: {BACKGROUND}' reads it as background"
                    )
                empty += 1
                continue
            first, last = blocks.grid.bounds(cell)
            try:
                part = blocks.decode(content, as_triple(last - first))
            except ValueError as error:
                raise ValueError(f"file {name}: {error}") from error
            low, high = np.maximum(first, start), np.minimum(last, stop)
            labels[_slices(low - start, high - start)] = part[_slices(low - first, high - first)]
            read += 1
        return ChunkLabels(labels, FileCounts(len(cells), read, missing, forbidden, empty))


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _slices(low: Any, high: Any) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
