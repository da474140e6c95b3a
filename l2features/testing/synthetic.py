"""A synthetic proofread data set: a segmentation of supervoxels, a graph, edits, and the expected rows.

No service is needed: a graph's table is a list of `Cell`s. An `Edit` has the cells that it adds to the table,
and makes its message; the caller writes the cells and publishes the message. The same seed produces the same
data set. The voxels of a node need not be connected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import L2, IdLayout, Ids, as_ids
from ..graph.base import SUPERVOXEL
from ..kernel import compute_features
from ..local.sample.graph_cells import (
    BITS,
    CHILDREN,
    LAYER_SHIFT,
    PARENTS,
    Cell,
    Edit,
    graph_meta,
    n_layers,
    node_cells,
)

Labels = npt.NDArray[np.uint64]
__all__ = ["BITS", "CHILDREN", "LAYER_SHIFT", "PARENTS", "Cell", "Edit", "graph_meta"]
_BLOCK = (2, 2, 1)
"""Size in voxels of blocks whose voxels all belong to the same supervoxel."""


@dataclass(frozen=True)
class Spec:
    """Size of a data set: ``grid`` chunks of ``chunk_size`` voxels; the last ones along x are partial."""

    grid: Triple = (8, 8, 6)
    chunk_size: Triple = (32, 32, 16)
    resolution: tuple[float, float, float] = (16.0, 16.0, 40.0)
    voxel_offset: Triple = (1024, 512, 20)
    supervoxels_per_chunk: int = 6
    """Voronoi cells per chunk; chunk borders cut the cells into about three times as many supervoxels."""
    supervoxels_per_object: int = 12
    background: float = 0.15
    """Share of the supervoxels that become background."""
    seed: int = 1

    @property
    def geometry(self) -> Geometry:
        x, y, z = (n * step for n, step in zip(self.grid, self.chunk_size, strict=True))
        size = (x - self.chunk_size[0] // 4, y, z)
        layout = IdLayout({SUPERVOXEL: BITS, L2: BITS})
        return Geometry(self.resolution, self.voxel_offset, size, self.chunk_size, layout)


# ------------------------------------------------------------------ the segmentation
class Segmentation:
    """Supervoxels by chunk, and the object of each supervoxel. Each object becomes one root of the graph."""

    def __init__(self, spec: Spec) -> None:
        from scipy.spatial import KDTree

        self.geometry = spec.geometry
        random = np.random.default_rng(spec.seed)
        nm = np.multiply(self.geometry.voxel_size, spec.resolution)
        n_centres = self.geometry.n_chunks * spec.supervoxels_per_chunk
        n_objects = max(2, n_centres // spec.supervoxels_per_object)
        centres = random.uniform(0, 1, (n_centres, 3)) * nm
        self._tree = KDTree(centres)
        self._object = 1 + KDTree(random.uniform(0, 1, (n_objects, 3)) * nm).query(centres)[1].astype(
            np.uint64
        )
        self._object[random.uniform(0, 1, n_centres) < spec.background] = 0
        self.labels: dict[Chunk, Labels] = {}
        """The supervoxels (x, y, z) of each chunk, cut to the segmentation's bounds."""
        self.objects: dict[int, int] = {}
        """The object of each supervoxel."""
        for xyz in np.ndindex(*self.geometry.grid):
            self._make(Chunk(*xyz))

    def _make(self, chunk: Chunk) -> None:
        geometry = self.geometry
        start = np.multiply(chunk, geometry.chunk_size)
        shape = np.minimum(geometry.chunk_size, np.array(geometry.voxel_size) - start)
        axes = [start[i] + np.arange(0, shape[i], _BLOCK[i]) + _BLOCK[i] / 2 for i in range(3)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        nearest = self._tree.query(points.reshape(-1, 3) * geometry.resolution)[1]
        met, number = np.unique(nearest, return_inverse=True)
        first = geometry.layout.chunk_id(*chunk, layer=SUPERVOXEL)
        ids = np.uint64(first) + np.arange(1, len(met) + 1, dtype=np.uint64)
        ids[self._object[met] == 0] = 0
        labels = ids[number].reshape(points.shape[:3])
        for axis, step in enumerate(_BLOCK):
            labels = labels.repeat(step, axis=axis)
        self.labels[chunk] = np.asfortranarray(labels[tuple(slice(0, n) for n in shape)])
        self.objects |= {i: int(o) for i, o in zip(ids.tolist(), self._object[met], strict=True) if i}

    def write(self, folder: Path) -> str:
        """Write a precomputed volume; return its path for cloud-volume."""
        from cloudvolume import CloudVolume

        info = CloudVolume.create_new_info(
            num_channels=1,
            layer_type="segmentation",
            data_type="uint64",
            encoding="raw",
            resolution=[int(n) for n in self.geometry.resolution],
            voxel_offset=self.geometry.voxel_offset,
            volume_size=self.geometry.voxel_size,
            chunk_size=self.geometry.chunk_size,
        )
        path = f"precomputed://file://{folder.resolve()}"
        volume = CloudVolume(path, info=info, progress=False, bounded=True)
        volume.commit_info()
        for chunk, labels in self.labels.items():
            start = self.geometry.origins([chunk])[0]
            where = zip(start.tolist(), labels.shape, strict=True)
            volume[tuple(slice(a, a + n) for a, n in where)] = labels
        return path

    def true_row(self, node: int, supervoxels: Ids) -> np.ndarray:
        """Return the features (1,) of a node, computed from a mask of its supervoxels."""
        chunk = Chunk(*self.geometry.layout.chunk_coordinates(as_ids([node]))[0].tolist())
        return compute_features(self.mask(chunk, node, supervoxels), self.geometry.resolution)

    def mask(self, chunk: Chunk, node: int, supervoxels: Ids) -> Labels:
        """Return a chunk in which the voxels of these supervoxels have label ``node``, and all others 0."""
        labels = self.labels[chunk]
        mask = np.zeros(self.geometry.chunk_size, np.uint64, order="F")
        mask[tuple(slice(0, n) for n in labels.shape)][np.isin(labels, supervoxels)] = node
        return mask


# ------------------------------------------------------------------ the graph
class ProofreadGraph:
    """The current L2 nodes and their roots; ``children`` keeps all nodes that were ever made."""

    def __init__(self, geometry: Geometry, objects: Mapping[int, int], ms: int) -> None:
        self.geometry = geometry
        self.children: dict[int, Ids] = {}
        self.roots: dict[int, int] = {}
        """The root of each node that is valid."""
        self.nodes: dict[int, set[int]] = {}
        """The valid nodes of each root."""
        self._valid: dict[int, set[int]] = {}
        self._made: Counter[int] = Counter()
        self._operations = self._roots = 0
        self.first: tuple[Cell, ...] = tuple(self._ingest(objects, ms))
        """The cells that the graph's ingest wrote."""

    @property
    def layers(self) -> int:
        """The layer of the roots."""
        return n_layers(self.geometry)

    @property
    def chunk_ids(self) -> list[int]:
        """The chunks that have nodes, sorted."""
        return sorted(self._valid)

    def valid(self, chunk_id: int) -> list[int]:
        """The valid nodes of a chunk, sorted."""
        return sorted(self._valid.get(chunk_id, ()))

    def chunk_id(self, node: int) -> int:
        return int(self.geometry.layout.chunk_ids(as_ids([node]))[0])

    def merge(self, pairs: Sequence[tuple[int, int]], ms: int) -> Edit:
        """Merge two objects; each pair of nodes becomes one node. The nodes of a pair share a chunk."""
        (one,), (other,) = ({self.roots[node] for node in side} for side in zip(*pairs, strict=True))
        if one == other:
            raise ValueError(f"{pairs} are of the same object {one}: expected two objects")
        root = self._new_root(self.nodes.pop(one) | self.nodes.pop(other))
        parts = [np.concatenate([self.children[a], self.children[b]]) for a, b in pairs]
        made = [self._replace(pair, [part], [root], ms) for pair, part in zip(pairs, parts, strict=True)]
        return self._edit(made, [root], sorted([one, other]))

    def split(self, parts: Mapping[int, tuple[Ids, Ids]], ms: int) -> Edit:
        """Split an object in two.

        ``parts`` maps each divided node to the supervoxels of its two new nodes, one for each new object. A
        node that is not divided goes to the first new object if its chunk id is below that of the first node
        in ``parts``, else to the second.
        """
        (old,) = {self.roots[node] for node in parts}
        cut = self.chunk_id(next(iter(parts)))
        others = self.nodes.pop(old)
        before = {node for node in others if self.chunk_id(node) < cut}
        roots = [self._new_root(before), self._new_root(others - before)]
        made = [self._replace((node,), both, roots, ms) for node, both in parts.items()]
        return self._edit(made, roots, [old])

    def _ingest(self, objects: Mapping[int, int], ms: int) -> Iterator[Cell]:
        layout = self.geometry.layout
        supervoxels = as_ids(sorted(objects))
        chunks = layout.chunk_id_array(layout.chunk_coordinates(supervoxels)).tolist()
        members: dict[tuple[int, int], list[int]] = {}
        for supervoxel, chunk_id in zip(supervoxels.tolist(), chunks, strict=True):
            members.setdefault((objects[supervoxel], chunk_id), []).append(supervoxel)
        roots = {one: self._new_root(()) for one in sorted(set(objects.values()))}
        for (one, chunk_id), own in members.items():
            yield from self._new_node(chunk_id, as_ids(own), roots[one], ms)[1]

    def _new_root(self, nodes: Iterable[int]) -> int:
        self._roots += 1
        root = (self.layers << LAYER_SHIFT) + self._roots
        self.nodes[root] = set(nodes)
        self.roots |= dict.fromkeys(nodes, root)
        return root

    def _new_node(self, chunk_id: int, supervoxels: Ids, root: int, ms: int) -> tuple[int, list[Cell]]:
        """Add a node under ``root``; return its id, and the cells that link it to its supervoxels."""
        self._made[chunk_id] += 1
        node = chunk_id + self._made[chunk_id]
        self.children[node] = np.sort(supervoxels)
        self.roots[node] = root
        self.nodes[root].add(node)
        self._valid.setdefault(chunk_id, set()).add(node)
        return node, node_cells(node, self.children[node], ms)

    def _replace(
        self, old: Sequence[int], parts: Sequence[Ids], roots: Sequence[int], ms: int
    ) -> list[tuple[int, list[Cell]]]:
        """Replace a chunk's nodes ``old`` by one for each of ``parts``; return new nodes with their cells."""
        chunk_id = self.chunk_id(old[0])
        for node in old:
            self.nodes[self.roots.pop(node)].discard(node)
            self._valid[chunk_id].discard(node)
        return [self._new_node(chunk_id, part, root, ms) for part, root in zip(parts, roots, strict=True)]

    def _edit(
        self, made: Sequence[list[tuple[int, list[Cell]]]], new: Sequence[int], old: Sequence[int]
    ) -> Edit:
        self._operations += 1
        nodes = [node for replaced in made for node in replaced]
        ids = tuple(node for node, _ in nodes)
        cells = tuple(cell for _, cells in nodes for cell in cells)
        return Edit(self._operations, ids, tuple(new), tuple(old), cells)
