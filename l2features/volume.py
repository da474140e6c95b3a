"""Segmentations: their bounds, and their chunks as arrays, read with cloud-volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import VolumeError
from .geometry import Chunk, Geometry, Triple
from .ids import IdLayout

TINY_BYTES = 64
"""No compressed form of nothing is larger."""
_OPTIONS: dict[str, Any] = {
    "bounded": False,
    "fill_missing": True,
    "progress": False,
    "parallel": 1,
    "cache": False,
}


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
            raise VolumeError(f"cannot open {cv_path}: {_reason(error)}") from error
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

    def read(self, chunk: Chunk, geometry: Geometry) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Labels of one chunk in Fortran order, of the full chunk size: 0 beyond the segmentation's bounds.

        Raises VolumeError, naming the chunk, where it cannot be read or decoded.
        """
        size = np.array(geometry.chunk_size)
        start = geometry.origins([chunk])[0]
        stop = np.minimum(start + size, np.add(geometry.voxel_offset, geometry.voxel_size))
        try:
            labels = self._cutout(start, stop)
        except Exception as error:  # decoders, file systems and HTTP share no base class
            raise VolumeError(f"chunk {chunk}: cannot read {self.cv_path}: {_reason(error)}") from error
        if labels.shape == tuple(size):
            return labels
        full = np.zeros(size, dtype=labels.dtype, order="F")
        full[tuple(slice(0, n) for n in labels.shape)] = labels
        return full

    def _cutout(self, start: Any, stop: Any) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Labels from voxel ``start`` to ``stop``: background where a file is missing, an error where it is
        there and empty, which cloud-volume takes for missing."""
        from cloudvolume.exceptions import EmptyVolumeException

        where = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        self.cv.image.fill_missing = False
        try:
            return np.asarray(self.cv[where])[..., 0]
        except EmptyVolumeException:
            self._refuse_empty_files(start, stop)
            self.cv.image.fill_missing = True
            return np.asarray(self.cv[where])[..., 0]

    def _refuse_empty_files(self, start: Any, stop: Any) -> None:
        from cloudfiles import CloudFiles
        from cloudvolume import Bbox
        from cloudvolume.datasource.precomputed.image.common import chunknames

        image, mip = self.cv.image, self.cv.mip
        if image.is_sharded(mip):
            return
        bounds, chunk_size = image.meta.bounds(mip), image.meta.chunk_size(mip)
        box = Bbox(start, stop).expand_to_chunk_size(chunk_size, image.meta.voxel_offset(mip))
        names = chunknames(Bbox.intersection(box, bounds), bounds, image.meta.key(mip), chunk_size)
        files = CloudFiles(image.meta.cloudpath)
        sizes = files.size(list(names))
        for file in files.get(
            [name for name, size in sizes.items() if size is not None and size < TINY_BYTES]
        ):
            if not file["content"]:
                raise ValueError(f"file {file['path']} is empty")


def _triple(values: Any) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
