"""The table of attributes. Stored rows, JSON, Arrow, the OpenAPI document and the docs derive from it.

To add an attribute, add its entry to `ATTRIBUTES` and its computation to `l2features.kernel.attributes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .errors import ConfigError
from .geometry import Geometry
from .ids import Ids
from .serving import POSITION, VOLUME, Known, Serving, finite

TABLE_NAME = re.compile(r"[_a-zA-Z0-9][-_.a-zA-Z0-9]{0,49}")
"""Pattern of the name of a table of features."""


class Condition(NamedTuple):
    """The condition under which an optional attribute is absent; ``absent`` says it in words.

    ``flag`` names a boolean field of a record; the field is true if the attribute is present. Attributes with
    the same condition share the field.
    """

    flag: str
    absent: str


@dataclass(frozen=True)
class Attribute:
    """One attribute of an L2 node.

    ``dtype``, ``shape`` and ``unit`` describe the stored value. Clients receive the same value unless
    ``serving`` converts it. An attribute without a ``condition`` is present in every computed row. If an
    attribute ``saturates``, a value beyond the range of its type is stored as `largest`.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    unit: str
    meaning: str
    serving: Serving | None = None
    condition: Condition | None = None
    saturates: bool = False

    @property
    def optional(self) -> bool:
        """Whether a computed row may lack the attribute."""
        return self.condition is not None

    @property
    def largest(self) -> int | float:
        """The largest value of the stored type."""
        if self.dtype.kind == "f":
            return float(np.finfo(self.dtype).max)
        return int(np.iinfo(self.dtype).max)

    @property
    def key(self) -> bytes:
        """The attribute's column qualifier in Bigtable."""
        return self.name.encode()

    @property
    def nbytes(self) -> int:
        """Size of one stored value in bytes."""
        return int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize

    @property
    def served_unit(self) -> str:
        """Unit of the value that clients receive."""
        return self.serving.unit if self.serving else self.unit

    @property
    def served_dtype(self) -> np.dtype:
        """Type of the value that clients receive: that of ``serving``, or else the stored type.

        A stored float16, which few programs read, becomes float32.
        """
        return self.serving.dtype if self.serving else F4 if self.dtype == F2 else self.dtype

    def serve(self, stored: np.ndarray, ids: Ids, geometry: Geometry) -> tuple[np.ndarray, Known]:
        """Return the values that clients receive, (n, *shape), and a mask (n,) of the valid values.

        ``stored`` holds the stored values, (n, *shape).
        """
        if self.serving:
            return self.serving.convert(stored, ids, geometry)
        if self.dtype.kind == "f":
            return finite(stored, self.served_dtype)
        return np.ascontiguousarray(stored), np.ones(len(stored), dtype=bool)


U2, U4, F2, F4 = map(np.dtype, ("<u2", "<u4", "<f2", "<f4"))
LARGE = Condition("has_pca", "absent in nodes below 0.01 um^3")

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("size_nm3", U4, (), "voxels", "volume of the node in its chunk", serving=VOLUME),
    Attribute(
        "area_nm2",
        U4,
        (),
        "nm^2",
        "area of the voxel faces between the node and any other label; the chunk border is not counted",
        saturates=True,
    ),
    Attribute(
        "max_dt_nm",
        U2,
        (),
        "nm",
        "largest distance of a voxel of the node to the nearest voxel of another label",
        saturates=True,
    ),
    Attribute(
        "mean_dt_nm",
        F2,
        (),
        "nm",
        "mean over the node's voxels of the distance to the nearest voxel of another label",
        saturates=True,
    ),
    Attribute(
        "rep_coord_nm",
        U2,
        (3,),
        "voxel index in the chunk",
        "a voxel well inside the node and near its centre: the voxel with the largest dt * (1 - d / max d), "
        "where dt is its distance to the nearest other label and d its distance to the centroid",
        serving=POSITION,
    ),
    Attribute(
        "chunk_intersect_count",
        U2,
        (2, 3),
        "voxels",
        "voxels of the node on the chunk's lower (x, y, z) and upper (x, y, z) faces",
        saturates=True,
    ),
    Attribute(
        "pca",
        F2,
        (3, 3),
        "1",
        "principal axes of the node's voxels in nm space, one per row",
        condition=LARGE,
    ),
    Attribute(
        "pca_val",
        F4,
        (3,),
        "nm",
        "singular values of the node's centred voxel coordinates, of 10,000 voxels at most",
        condition=LARGE,
    ),
)

NAMES: tuple[str, ...] = tuple(a.name for a in ATTRIBUTES)
BY_NAME = {a.name: a for a in ATTRIBUTES}
COLUMN = {name: i for i, name in enumerate(NAMES)}
SATURATING = tuple(a for a in ATTRIBUTES if a.saturates)
"""Attributes that saturate. The size never does, because a chunk has fewer than 2^31 voxels."""
INT64 = tuple(a.name for a in ATTRIBUTES if a.served_dtype.kind in "ui" and a.served_dtype.itemsize == 8)
"""Attributes of 64-bit integers, which clients may request as strings."""
SIZE = "size_nm3"
"""The attribute of every stored row; 0 in a row that could not be computed."""

FLAGS = tuple(dict.fromkeys(a.condition.flag for a in ATTRIBUTES if a.condition))
FEATURES = np.dtype(
    [
        ("label", np.dtype("<u8")),
        *((a.name, a.dtype, a.shape) for a in ATTRIBUTES),
        *((flag, np.dtype("?")) for flag in FLAGS),
    ]
)
"""A record of features: the label (an L2 id), the stored attributes, and a flag per condition.

A flag is true where the attributes of its condition are present; absent attributes are zero.
"""

PCA_MIN_VOLUME_NM3 = 10_000_000
"""0.01 um^3: smaller nodes have no ``pca`` and ``pca_val``."""

PCA_MAX_SAMPLES = 10_000
"""The ``pca_val`` of a node with more voxels is scaled down, as if the node had this number of voxels."""


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is not an attribute."""
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"{name!r} is not an attribute: expected one or more of {', '.join(NAMES)}")
