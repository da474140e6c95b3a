"""A static export: layers of a version as files that any file server serves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import BaseModel

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.errors import ConfigError, GraphUnavailable, StoreError, VersionError
from ..core.geometry import Geometry
from ..store.base import Store, open_store
from ..versions.columns import N_NODES, ROOT_ID, unsigned
from ..versions.folders import Folder
from ..versions.leftovers import WORK
from ..versions.lookup import VersionReader
from ..versions.manifest import manifest_path, not_found, parse_manifest
from ..versions.parquet_files import ParquetFiles
from ..versions.places import versions_folder
from .node_layers import NODE_LAYERS
from .shard_sizes import least_bytes
from .static_index import SKELETONS, Index, Shard, divided, make_shard, parts_of, row_dtype, sharded
from .static_plan import PLAN, StaticPlan, begin, digest, make_indexes
from .static_skeletons import Skeletons
from .version_nodes import Unit, drawn_rows, largest_by_id, read_unit, units_of

SEGMENTS = "segment_properties"
DEFAULT_LAYERS = (*NODE_LAYERS, SEGMENTS)
LAYERS = (*DEFAULT_LAYERS, SKELETONS)
"""Layers of an export. Skeletons are not a default layer, because they need the graph."""


class OtherExport(VersionError):
    """Another job is making the export."""


@dataclass(frozen=True)
class WantedExport:
    """A user's request for a static export.

    ``segments`` is how many of the version's largest roots are listed, or get skeletons.
    ``shard_size`` is in bytes.
    """

    dataset: Dataset
    version: int
    output: str
    layers: tuple[str, ...] = DEFAULT_LAYERS
    segments: int = 10_000
    shard_size: int = 50_000_000
    cell_nodes: int = 10_000


class WrittenPart(BaseModel):
    """A written part (shard) of an export: its file, if the part has rows, and counts of the content.

    ``largest`` is the maximum number of nodes per key; 1 for skeletons.
    """

    part: int
    path: str = ""
    bytes: int = 0
    keys: int = 0
    nodes: int = 0
    largest: int = 0


@dataclass(frozen=True)
class StaticExport:
    """The settings and plan of an export in progress; small enough to send to every worker."""

    dataset: Dataset
    geometry: Geometry
    versions: str
    url: str
    plan: StaticPlan

    @property
    def folder(self) -> Folder:
        """The folder of the export."""
        return Folder(self.url)

    @property
    def node_layers(self) -> list[str]:
        """The export's layers that draw nodes: those in `NODE_LAYERS`."""
        return [layer for layer in self.plan.layers if layer in NODE_LAYERS]

    @property
    def row_layers(self) -> list[str]:
        """The export's layers that are written from rows: all except `SEGMENTS`."""
        return [layer for layer in self.plan.layers if layer != SEGMENTS]

    @property
    def parts(self) -> int:
        """Number of parts; a part is one shard of one index."""
        return parts_of(self.plan.indexes)[-1]

    def open_store(self) -> Store:
        return open_store(self.dataset.store, self.dataset.l2cache_id)

    def open(self) -> ExportSource:
        """Return the source of the export's rows. Raises VersionError, see `ExportSource`."""
        return ExportSource(self)

    def index_of(self, part: int) -> tuple[Index, int]:
        """Return a tuple: the index to which a part belongs; the number of the part's shard."""
        firsts = parts_of(self.plan.indexes)
        place = int(np.searchsorted(firsts, part, side="right")) - 1
        return self.plan.indexes[place], self.plan.indexes[place].shard(part - firsts[place])

    def read_done(self, part: int) -> WrittenPart | None:
        """Return an earlier run's record of a part; None if the record is missing or the file incomplete."""
        written = self.folder.read_record(done_path(part), WrittenPart)
        there = written and (not written.path or self.folder.size(written.path) == written.bytes)
        return written if there else None


@dataclass
class PartWriter:
    """Writes parts (shards) of an export; ``progress`` is called after each skeleton."""

    run: StaticExport
    progress: Callable[[], object] | None = None
    skeletons: Skeletons | None = None

    def write(self, part: int, pieces: Iterable[np.ndarray]) -> WrittenPart:
        """Write a part's file from its rows, which may be in any order; write and return the part's record.

        A part without rows has a record but no file.
        Raises VersionError, and for skeletons GraphError, StoreError or RootError.
        """
        index, shard = self.run.index_of(part)
        rows = np.concatenate([np.empty(0, dtype=row_dtype(index.layer)), *pieces])
        written = WrittenPart(part=part)
        if len(rows):
            content, keys, largest = self._shard(index, rows)
            path = index.file(shard)
            self.run.folder.write(path, content)
            written = WrittenPart(
                part=part, path=path, bytes=len(content), keys=keys, nodes=len(rows), largest=largest
            )
        self.run.folder.write(done_path(part), written.model_dump_json().encode())
        return written

    def close(self) -> None:
        """Close connections."""
        if self.skeletons is not None:
            self.skeletons.close()

    def _shard(self, index: Index, rows: np.ndarray) -> Shard:
        least = least_bytes(index.sharding, self.run.plan.shard_size)
        if index.kind != SKELETONS:
            return make_shard(index, rows, self.run.geometry, least)
        if self.skeletons is None:
            self.skeletons = Skeletons(self.run.dataset, self.run.geometry)
        roots = np.sort(rows["id"])
        values = self.skeletons.read(roots, self.progress)
        return Shard(sharded(index.sharding, roots, values, least), len(roots), 1)


def done_path(part: int) -> str:
    """Return the path of the file which records that a part is written."""
    return f"{WORK}/part-{part:06d}.json"


def prepare(wanted: WantedExport) -> StaticExport:
    """Write the plan of an export, or read the plan that an earlier run wrote; return the export.

    Raises ConfigError, StoreError or VersionError, and for skeletons GraphError or RootError.
    """
    dataset, folder = wanted.dataset, Folder(wanted.output)
    check_bigtable(dataset.store)
    for layer in wanted.layers:
        if layer not in LAYERS:
            raise ConfigError(f"layer {layer!r}: expected one or more of {', '.join(LAYERS)}")
    with closing(open_store(dataset.store, dataset.l2cache_id)) as store:
        geometry, versions = store.geometry(), versions_folder(dataset, store)
    if geometry is None:
        raise StoreError(f"table {dataset.l2cache_id} has no geometry: expected an ingested table")
    content = versions.read(manifest_path(wanted.version))
    if content is None:
        raise not_found(versions, wanted.version)
    manifest = parse_manifest(content, wanted.version)
    if manifest.l2cache_id != dataset.l2cache_id:
        raise ConfigError(
            f"version {wanted.version} in {versions.url} is of table {manifest.l2cache_id!r}: "
            f"expected a version of the data set's table {dataset.l2cache_id!r}"
        )
    plan = StaticPlan(
        dataset=dataset.name,
        l2cache_id=dataset.l2cache_id,
        version=wanted.version,
        manifest=digest(content),
        layers=tuple(layer for layer in LAYERS if layer in wanted.layers),
        segments=wanted.segments,
        shard_size=wanted.shard_size,
        cell_nodes=wanted.cell_nodes,
    )
    reader = VersionReader(ParquetFiles(versions), manifest)

    def indexes() -> Iterator[Index]:
        yield from make_indexes(plan, reader, geometry)
        if SKELETONS in plan.layers:
            check_bigtable(dataset.graph_url, GraphUnavailable)
            with closing(Skeletons(dataset, geometry)) as skeletons:
                largest = largest_by_id(reader, plan.segments, [N_NODES])
                nodes = largest[N_NODES].to_numpy()
                yield skeletons.index(unsigned(largest[ROOT_ID]), nodes, plan.shard_size)

    return StaticExport(dataset, geometry, versions.url, wanted.output, begin(folder, plan, indexes))


@contextmanager
def alone(run: StaticExport) -> Iterator[None]:
    """Hold the export's lock during the block. Raises OtherExport if another job on this machine holds it."""
    with run.folder.locked(PLAN) as locked:
        if not locked:
            raise OtherExport(f"the export in {run.url} is being made by another job: wait for it")
        yield


class ExportSource:
    """Reads the nodes and roots of the version that is exported.

    Raises VersionError if the version is gone, was replaced since the plan was written, or cannot be read.
    """

    def __init__(self, run: StaticExport) -> None:
        folder, number = Folder(run.versions), run.plan.version
        content = folder.read(manifest_path(number))
        if content is None:
            raise not_found(folder, number)
        if digest(content) != run.plan.manifest:
            raise VersionError(
                f"version {number} in {run.versions} was replaced since this export began: export to an "
                "empty folder"
            )
        self.run, self.reader = run, VersionReader(ParquetFiles(folder), parse_manifest(content, number))

    @cached_property
    def units(self) -> list[Unit]:
        """The units of work for layers that draw nodes; a unit is a range of rows of a version's file."""
        return units_of(self.reader.manifest) if self.run.node_layers else []

    @property
    def count(self) -> int:
        """Number of units of work, including one for all skeletons, if these are exported."""
        return len(self.units) + (SKELETONS in self.run.plan.layers)

    def scan(self, unit: int) -> dict[str, np.ndarray]:
        """Return a dict: for each layer of the viewer, its rows from this unit of work, sorted by part.

        A part is a shard of an index. A unit is a range of rows of a version's file. If skeletons are
        exported, the last unit is different: it has the roots that get a skeleton.
        """
        run, parts = self.run, dict[str, list[np.ndarray]]()
        if unit == len(self.units):
            roots = unsigned(largest_by_id(self.reader, run.plan.segments, [])[ROOT_ID])
            rows = np.zeros(len(roots), dtype=row_dtype(SKELETONS))
            rows["id"] = roots
            return {SKELETONS: divided(rows, SKELETONS, run.plan.indexes, run.geometry)}
        voxel = math.prod(run.geometry.resolution)
        for table in read_unit(self.reader, self.units[unit], run.node_layers):
            for layer in run.node_layers:
                parts.setdefault(layer, []).append(drawn_rows(table, layer, voxel))
        return {
            layer: divided(np.concatenate(found), layer, run.plan.indexes, run.geometry)
            for layer, found in parts.items()
        }
