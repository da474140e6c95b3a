"""The one table that says what an attribute is; every other form derives from it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

TABLE_NAME = re.compile(r"[_a-zA-Z0-9][-_.a-zA-Z0-9]{0,49}")
"""Name of a table of features."""


@dataclass(frozen=True)
class Attribute:
    """One feature of an L2 node, as it is stored.

    ``shape`` and ``dtype`` are those of one node's value, ``unit`` is its unit; ``served_dtype`` and
    ``served_unit`` are those of the value a client sees. ``optional`` attributes may be absent from a
    row that was computed. ``saturates`` says that a value beyond the type's range is stored as `largest`.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    unit: str
    served_unit: str
    served_dtype: np.dtype
    meaning: str
    optional: bool = False
    saturates: bool = False

    @property
    def largest(self) -> int | float:
        """The largest value that the stored type holds."""
        if self.dtype.kind == "f":
            return float(np.finfo(self.dtype).max)
        return int(np.iinfo(self.dtype).max)

    @property
    def key(self) -> bytes:
        """Column qualifier."""
        return self.name.encode()

    @property
    def nbytes(self) -> int:
        """Size of one value in bytes."""
        return int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize

    @property
    def field(self) -> tuple[str, np.dtype, tuple[int, ...]]:
        """Field of a structured dtype."""
        return (self.name, self.dtype, self.shape)


def _attribute(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    unit: str,
    served_unit: str,
    served_dtype: str,
    meaning: str,
    optional: bool = False,
    saturates: bool = False,
) -> Attribute:
    return Attribute(
        name, np.dtype(dtype), shape, unit, served_unit, np.dtype(served_dtype), meaning, optional, saturates
    )


ATTRIBUTES: tuple[Attribute, ...] = (
    _attribute("size_nm3", "<u4", (), "voxels", "nm^3", "<u8", "volume of the node in its chunk"),
    _attribute(
        "area_nm2",
        "<u4",
        (),
        "nm^2",
        "nm^2",
        "<u4",
        "area of the voxel faces between the node and any other label; the chunk border is not counted",
        saturates=True,
    ),
    _attribute(
        "max_dt_nm",
        "<u2",
        (),
        "nm",
        "nm",
        "<u2",
        "largest distance of a voxel of the node to the nearest voxel of another label",
        saturates=True,
    ),
    _attribute(
        "mean_dt_nm",
        "<f2",
        (),
        "nm",
        "nm",
        "<f4",
        "mean over the node's voxels of the distance to the nearest voxel of another label",
        saturates=True,
    ),
    _attribute(
        "rep_coord_nm",
        "<u2",
        (3,),
        "voxel index in the chunk",
        "nm",
        "<f8",
        "a voxel well inside the node and near its centre: the one with the largest dt * (1 - d / max d), "
        "d being its distance to the centroid",
    ),
    _attribute(
        "chunk_intersect_count",
        "<u2",
        (2, 3),
        "voxels",
        "voxels",
        "<u2",
        "voxels of the node on the chunk's lower (x, y, z) and upper (x, y, z) faces",
        saturates=True,
    ),
    _attribute(
        "pca",
        "<f2",
        (3, 3),
        "1",
        "1",
        "<f4",
        "principal axes of the node's voxels in nm space, one per row",
        optional=True,
    ),
    _attribute(
        "pca_val",
        "<f4",
        (3,),
        "nm",
        "nm",
        "<f4",
        "singular values of the node's centred voxel coordinates, of 10,000 voxels at most",
        optional=True,
    ),
)

SATURATING: tuple[Attribute, ...] = tuple(a for a in ATTRIBUTES if a.saturates)
"""Those whose values can exceed their type. A size cannot: a chunk has fewer than 2^31 voxels."""

NAMES: tuple[str, ...] = tuple(a.name for a in ATTRIBUTES)
SIZE = "size_nm3"
"""The attribute that every row has; 0 where the features could not be computed."""

FEATURES = np.dtype([("label", np.dtype("<u8")), *(a.field for a in ATTRIBUTES), ("has_pca", np.dtype("?"))])
"""One row of features: the label (an L2 id, where the labels are L2 ids), the attributes as they are
stored, and whether ``pca`` and ``pca_val`` are present (they are zero where absent)."""

PCA_MIN_VOLUME_NM3 = 10_000_000
"""0.01 um^3: smaller nodes have no ``pca`` and ``pca_val``."""

PCA_MAX_SAMPLES = 10_000
"""``pca_val`` of a larger node is scaled to this many voxels."""
