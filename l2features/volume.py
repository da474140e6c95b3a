"""Segmentations: their bounds, and their chunks as arrays, read with cloud-volume."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .chunks import FileCounts
from .config import Dataset
from .encoding import check_compressed_segmentation
from .errors import VolumeError
from .geometry import Chunk, Geometry, Triple
from .ids import IdLayout
from .transient import volume_error

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_OPTIONS: dict[str, Any] = {
    "bounded": False,
    "fill_missing": True,
    "progress": False,
    "parallel": 1,
    "cache": False,
}


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
    """One open segmentation (``precomputed://`` or ``graphene://``), read at its base resolution.

    Raises VolumeError where it cannot be opened.
    """

    def __init__(self, cv_path: str) -> None:
        from cloudvolume import CloudVolume

        self.cv_path = cv_path
        try:
            self.cv = CloudVolume(cv_path, **_OPTIONS)
            if self.is_graphene:
                self.cv.mip = self.cv.meta.watershed_mip
        except Exception as error:  # cloud-volume and its backends share no base class
            raise volume_error(f"cannot open {cv_path}: {_reason(error)}", error) from error
        if self.cv.dtype.kind != "u" or self.cv.num_channels != 1:
            raise VolumeError(
                f"{cv_path}: expected a segmentation (one channel of unsigned integers), "
                f"got {self.cv.num_channels} of {self.cv.dtype}"
            )

    @property
    def is_graphene(self) -> bool:
        return self.cv_path.startswith("graphene://")

    def info(self) -> VolumeInfo:
        """Bounds and resolution, and the graph's chunks and ids where this is a ``graphene://`` volume."""
        bounds, chunk_size, layout = self.cv.bounds, None, None
        if self.is_graphene:
            meta = self.cv.meta
            masks = meta.info["graph"]["spatial_bit_masks"]
            layout = IdLayout(
                {int(layer): int(bits) for layer, bits in masks.items()}, meta.n_bits_for_layer_id
            )
            chunk_size = _triple(meta.graph_chunk_size)
        x, y, z = (float(r) for r in self.cv.resolution)
        return VolumeInfo((x, y, z), _triple(bounds.minpt), _triple(bounds.size3()), chunk_size, layout)

    def read(self, chunk: Chunk, geometry: Geometry) -> ChunkLabels:
        """Labels of one chunk in Fortran order, of the full chunk size: 0 beyond the segmentation's bounds.

        Raises VolumeError, naming the chunk, where it cannot be read or decoded.
        """
        size = np.array(geometry.chunk_size)
        start = geometry.origins([chunk])[0]
        stop = np.minimum(start + size, np.add(geometry.voxel_offset, geometry.voxel_size))
        try:
            labels, files = self._cutout(start, stop)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            message = f"chunk {chunk}: cannot read {self.cv_path}: {_reason(error)}"
            raise volume_error(message, error) from error
        if labels.shape == tuple(size):
            return ChunkLabels(labels, files)
        full = np.zeros(size, dtype=labels.dtype, order="F")
        full[tuple(slice(0, n) for n in labels.shape)] = labels
        return ChunkLabels(full, files)

    def _cutout(self, start: Any, stop: Any) -> ChunkLabels:
        """Labels from voxel ``start`` to ``stop``: background where a file is missing, an error where it is
        empty or cut off, which cloud-volume would take for missing, or decode to anything."""
        from cloudvolume import Bbox

        image, mip = self.cv.image, self.cv.mip
        box = Bbox(start, stop)
        if image.is_sharded(mip):
            return ChunkLabels(np.asarray(self.cv[box])[..., 0], FileCounts())
        labels = np.zeros(stop - start, dtype=self.cv.dtype, order="F")
        files = image.download_files(box, mip)
        expected, read = len(files), 0
        for path in list(files):
            content, where = files.pop(path), Bbox.from_filename(path)
            if content is not None:
                read += 1
                part = self._decode(path, content, where.size3())
                common = Bbox.intersection(where, box)
                labels[(common - start).to_slices()] = part[(common - where.minpt).to_slices()]
        return ChunkLabels(labels, FileCounts(expected, read, missing=expected - read))

    def _decode(self, path: str, content: bytes, shape: Any) -> npt.NDArray[np.unsignedinteger[Any]]:
        from cloudvolume import chunks

        meta, mip = self.cv.image.meta, self.cv.mip
        block_size = meta.compressed_segmentation_block_size(mip) or (8, 8, 8)
        if not content:
            raise ValueError(f"file {path} is empty")
        if meta.encoding(mip) == "compressed_segmentation":
            check_compressed_segmentation(content, shape, self.cv.dtype.itemsize, block_size)
        part = chunks.decode(content, meta.encoding(mip), (*shape, 1), self.cv.dtype, block_size)
        return np.asarray(part)[..., 0]


def open_volume(dataset: Dataset) -> Volume:
    """The segmentation of a data set. Raises VolumeError where it cannot be opened."""
    return Volume(dataset.cv_path)


def _triple(values: Any) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


def _reason(error: BaseException) -> str:
    text = _ANSI.sub("", str(error)).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
