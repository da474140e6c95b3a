"""Segmentations: their bounds, and their chunks as arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.chunks import FileCounts
from ..core.errors import L2FeaturesError
from ..core.geometry import MAX_CHUNK_VOXELS, Chunk, Geometry, Triple, as_triple
from ..core.ids import IdLayout
from ..core.paths import GRAPHENE, parse_path
from ..core.transient import volume_error
from ..graph.agreement import graph_table, match_graph
from ..graph.server import graph_of

if TYPE_CHECKING:
    from ..config.datasets import Dataset
    from .opening import Opened

FAIL, BACKGROUND = "fail", "background"
"""What is done with files of 0 bytes."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ChunkLabels(NamedTuple):
    """Labels of a chunk, in Fortran order and of the full chunk size, and the files that they come from."""

    labels: npt.NDArray[np.unsignedinteger[Any]]
    files: FileCounts


@dataclass(frozen=True)
class VolumeInfo:
    """What a segmentation says of itself; ``chunk_size`` and ``layout`` only where it belongs to a graph."""

    resolution: tuple[float, float, float]
    voxel_offset: Triple
    voxel_size: Triple
    chunk_size: Triple | None
    layout: IdLayout | None


class Volume:
    """One open segmentation, read at one of its scales.

    ``mip`` or ``scale`` (nm) picks the scale: the first, or the graph's, where neither is given.
    ``empty_files`` says what a file of 0 bytes is: "fail", an error, or "background". Raises VolumeError
    where the segmentation cannot be opened, or is not one that can be read.
    """

    def __init__(
        self,
        cv_path: str,
        mip: int | None = None,
        scale: Sequence[float] | None = None,
        empty_files: str = FAIL,
    ) -> None:
        from .opening import open_layer

        self.cv_path, self.empty_files = cv_path, empty_files
        try:
            self.location = parse_path(cv_path)
            self._layer: Opened = open_layer(self.location, mip, scale)
        except L2FeaturesError:
            raise
        except Exception as error:  # cloud-volume and its backends share no base class
            raise volume_error(f"cannot open {cv_path}: {_reason(error)}", error) from error
        self.cv, self.mip = self._layer.cv, int(self._layer.cv.mip)

    @property
    def is_graphene(self) -> bool:
        return self.location.format == GRAPHENE

    def info(self) -> VolumeInfo:
        """Bounds and resolution, and the graph's chunks and ids where this is a ``graphene://`` volume."""
        bounds, chunk_size, layout = self.cv.bounds, None, None
        if self.is_graphene:
            graph = graph_of(self.cv, self.cv_path)
            chunk_size, layout = graph.chunk_size, graph.layout
        x, y, z = (float(r) for r in self.cv.resolution)
        return VolumeInfo((x, y, z), as_triple(bounds.minpt), as_triple(bounds.size3()), chunk_size, layout)

    def placeholder(self) -> str:
        """Return a line for a scale without any files, as far as that is cheap to know; else ""."""
        from .layer import listed

        folder = self._layer.folder
        scales = self.cv.meta.scales
        if folder is None or _holds_files(folder / scales[self.mip]["key"]):
            return ""
        filled = [i for i, scale in enumerate(scales) if _holds_files(folder / scale["key"])]
        others = listed([scales[i]["resolution"] for i in filled], filled) or "none"
        here = listed([scales[self.mip]["resolution"]], [self.mip])
        return f"{self.cv_path}: {here} has no files; scales with files: {others}"

    def read(self, chunk: Chunk, geometry: Geometry) -> ChunkLabels:
        """Labels of one chunk in Fortran order, of the full chunk size: 0 beyond the segmentation's bounds.

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
            message = f"chunk {chunk}: cannot read {self.cv_path}: {_reason(error)}"
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


def open_volume(dataset: Dataset) -> Volume:
    """Return the segmentation of a data set, at the scale that its entry names, or else at that of its graph.

    Raises VolumeError where it cannot be opened, ConfigError where its graph contradicts it, and GraphError
    where its graph cannot be asked.
    """
    table, mip = graph_table(dataset), dataset.mip
    served = dataset.cv_path.startswith(f"{GRAPHENE}://")
    if table is not None and mip is None and dataset.scale is None and not served:
        mip = table.mip
    volume = Volume(dataset.cv_path, mip, dataset.scale, dataset.empty_files)
    match_graph(dataset, volume, table)
    return volume


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _slices(low: Any, high: Any) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _reason(error: BaseException) -> str:
    """One line; the type's name only where the message may not say what failed."""
    text = " ".join(_ANSI.sub("", str(error)).split())
    if type(error).__name__ in ("ValueError", "StorageError") and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
