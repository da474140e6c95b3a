"""The viewer's layers ``nodes`` and ``axes``: L2 nodes as points or lines, with their features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.geometry import Geometry
from ..core.ids import Ids
from ..core.rows import Rows, served_column
from ..core.schema import BY_NAME, PCA_MAX_SAMPLES, SIZE
from .annotations import COORDINATES, AnnotationLayer, Property, larger_first

F4, U1 = np.dtype("<f4"), np.dtype("u1")
ROOT = "root"
"""The relationship between a node and its root."""
POSITION, FACES, AXES, SPREADS = "rep_coord_nm", "chunk_intersect_count", "pca", "pca_val"
Values = npt.NDArray[np.floating | np.integer]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]


class _Drawn(NamedTuple):
    """A property of annotations, and the attribute from which ``compute`` derives the property's values."""

    shown: Property
    attribute: str
    compute: Callable[[np.ndarray], Values]


def _scaled(name: str, attribute: str, unit: str, scale: float) -> _Drawn:
    shown = Property(name, F4, f"{BY_NAME[attribute].meaning} ({unit})")
    return _Drawn(shown, attribute, lambda values: values.astype(np.float64) * scale)


def _touched(counts: np.ndarray) -> Values:
    return np.count_nonzero(counts.reshape(len(counts), 6), axis=1)


DRAWN = (
    _scaled("size_um3", SIZE, "um^3", 1e-9),
    _scaled("area_um2", "area_nm2", "um^2", 1e-6),
    _scaled("max_dt_nm", "max_dt_nm", "nm", 1.0),
    _scaled("mean_dt_nm", "mean_dt_nm", "nm", 1.0),
    _Drawn(Property("n_faces_touched", U1, "faces of its chunk that the node touches"), FACES, _touched),
)
PROPERTIES = larger_first([drawn.shown for drawn in DRAWN])


class ServedNodes(NamedTuple):
    """Nodes as clients receive them.

    Args:
        ids: (n,) the nodes.
        computed: (n,) whether a node has features.
        column: returns a tuple for an attribute's name: its values, (n, *shape); which nodes have it, (n,).
        voxel_nm3: volume of a voxel in nm^3.
    """

    ids: Ids
    computed: Mask
    column: Callable[[str], tuple[np.ndarray, Mask]]
    voxel_nm3: float


@dataclass(frozen=True)
class NodeLayer:
    """A layer of the viewer that draws nodes.

    ``attributes`` are the attributes that the layer needs. ``points`` returns a tuple: each node's point in
    nm, (n, 3), or the two ends of its line, (n, 6); which nodes have them, (n,).
    """

    annotations: AnnotationLayer
    attributes: tuple[str, ...]
    points: Callable[[ServedNodes], tuple[npt.NDArray[np.float64], Mask]]

    def records(self, rows: Rows, geometry: Geometry) -> tuple[np.ndarray, Ids]:
        """Return a tuple: the records of the nodes that the layer draws; the ids of these nodes.

        Both are in the order of the rows. A node without features has no record. A float property is NaN if
        its attribute is absent.
        """
        computed = rows.found & ~rows.not_computed
        column = partial(served_column, rows, geometry)
        records, places = self.drawn(ServedNodes(rows.ids, computed, column, math.prod(geometry.resolution)))
        return records, rows.ids[places]

    def drawn(self, nodes: ServedNodes) -> tuple[np.ndarray, Places]:
        """Return a tuple: the records of the nodes that the layer draws; the indices of these nodes.

        Both are in the order of the nodes.
        """
        points, drawn = self.points(nodes)
        places = np.flatnonzero(drawn & nodes.computed)
        taken = slice(None) if len(places) == len(drawn) else places  # a slice does not copy
        records = np.zeros(len(places), dtype=self.annotations.dtype)
        records[COORDINATES] = points[taken]
        for shown, attribute, compute in DRAWN:
            values, present = (found[taken] for found in nodes.column(attribute))
            records[shown.name] = compute(values)
            if shown.dtype.kind == "f" and not present.all():
                records[shown.name][~present] = np.nan
        return records, places


def _positions(nodes: ServedNodes) -> tuple[npt.NDArray[np.float64], Mask]:
    return nodes.column(POSITION)


def _lines(nodes: ServedNodes) -> tuple[npt.NDArray[np.float64], Mask]:
    """Return a tuple: the two ends of a line per node in nm, (n, 6); which nodes have a line, (n,).

    The line lies along the node's first principal axis; its middle is the representative coordinate. Its
    length is sqrt(12) times the node's standard deviation along the axis: a uniform rod of this length has
    the same deviation. ``pca_val`` is the deviation times sqrt(n - 1), where n is the number of voxels, at
    most `PCA_MAX_SAMPLES`.
    """
    (middle, placed), (axes, known) = (nodes.column(name) for name in (POSITION, AXES))
    spreads, measured = nodes.column(SPREADS)
    voxels = np.minimum(np.rint(nodes.column(SIZE)[0] / nodes.voxel_nm3), PCA_MAX_SAMPLES)
    half = np.sqrt(3 / np.maximum(voxels - 1, 1)) * spreads[:, 0]
    arm = axes[:, 0].astype(np.float64) * half[:, None]
    return np.concatenate([middle - arm, middle + arm], axis=1), placed & known & measured


_READ = tuple(dict.fromkeys((POSITION, *(drawn.attribute for drawn in DRAWN))))
NODE_LAYERS = {
    "nodes": NodeLayer(AnnotationLayer("POINT", PROPERTIES), _READ, _positions),
    "axes": NodeLayer(AnnotationLayer("LINE", PROPERTIES), (*_READ, AXES, SPREADS), _lines),
}
"""The layers of nodes, by the name of the layer's folder."""
