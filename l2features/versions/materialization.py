"""A version in progress: its preparation, and the records of written partitions (ranges of its ids)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import uuid4

from ..config.datasets import Dataset
from ..config.reach import check_bigtable
from ..core.chunks import ChunkBox, whole_box
from ..core.errors import ConfigError, GraphError, StoreError, VersionError
from ..core.geometry import Triple
from ..core.times import iso_text, parse_time, whole_ms
from ..ingest.source import open_dataset_graph
from ..store.base import Store, open_store
from .delta_table import check_delta
from .folders import Folder
from .leftovers import WORK, leftovers
from .manifest import Manifest, folder_name, read_manifest, version_numbers
from .partitions import Partition, PartitionWriter, Written, partitions
from .plan import (
    BLOCK,
    PARTITION_ROWS,
    ROOTS_PER_UNIT,
    SAMPLE,
    SAMPLE_EDGE,
    UNIT_ROWS,
    Plan,
    begin,
    bounds_of,
    chunk_bounds,
    evenly_spread,
    next_number,
    read_plan,
)
from .renewal import Changes, find_changes
from .units import Units, block_grid, block_of

SETTLED = timedelta(seconds=60)
"""Minimum age of a version's time: clocks differ, and an edit's timestamp precedes the end of its write."""
TODAY = "today"
"""The value of --timestamp that means the last midnight, UTC. A rerun on that day makes the same version."""
LATEST: Final = "latest"
"""The value of --base that means the newest version, if one exists."""
RENEWALS = 20
"""Maximum renewals of a fresh version; the next version is fresh again."""


@dataclass(frozen=True)
class Materialization:
    """A version in progress. `light` returns a copy that is small enough to send to every worker."""

    units: Units
    url: str
    job: str = field(default_factory=lambda: uuid4().hex)
    """Random id of this run of the job."""
    delta: bool = False
    """Whether the version is to be committed to the folder's Delta table."""

    @property
    def plan(self) -> Plan:
        return self.units.plan

    @property
    def folder(self) -> Folder:
        """The folder of all versions."""
        return Folder(self.url)

    def light(self) -> Materialization:
        """Return a copy without the plan's new and retired roots, since these can be large lists."""
        plan = self.plan.model_copy(update={"made": (), "retired": ()})
        return replace(self, units=replace(self.units, plan=plan))

    def whole(self) -> Materialization:
        """Return a copy with the new and retired roots, read from the plan's file. Raises VersionError."""
        plan = read_plan(self.folder, self.plan.number)
        if plan is None or not plan.same_work(self.plan):
            raise VersionError(
                f"the plan of version {self.plan.number} in {self.url} was replaced: run the command again"
            )
        return replace(self, units=replace(self.units, plan=plan))

    def open_store(self) -> Store:
        return open_store(self.units.dataset.store, self.units.dataset.l2cache_id)

    def writer(self) -> PartitionWriter:
        """Return the writer of the partitions."""
        return PartitionWriter(self.folder, self.units.geometry, self.plan.number)


@dataclass(frozen=True)
class WantedVersion:
    """What a user requests: the time, the folder, and the version to renew, if any."""

    dataset: Dataset
    timestamp: str
    output: str
    base: int | Literal["latest"] | None = None
    rebase: bool = False
    settled: timedelta = SETTLED
    delta: bool = False


def prepare(wanted: WantedVersion, choose_box: Callable[[Triple], ChunkBox] = whole_box) -> Materialization:
    """Return the version to make. Writes its plan, or continues the plan of an interrupted run.

    ``choose_box`` returns the chunks to include, given the grid's shape.
    Raises ConfigError, GraphError, StoreError, VersionError; VolumeError if a graph server cannot be opened.
    """
    dataset, folder = wanted.dataset, Folder(wanted.output)
    check_bigtable(dataset.store)
    check_bigtable(dataset.graph, GraphError)
    time = settled_time(wanted.timestamp, wanted.settled)
    with closing(open_store(dataset.store, dataset.l2cache_id)) as store:
        geometry = store.geometry()
    if geometry is None:
        raise StoreError(f"table {dataset.l2cache_id} has no geometry: expected an ingested table")
    box, base = choose_box(geometry.grid), _base(folder, wanted)
    plan = Plan(
        number=next_number(folder),
        timestamp=time,
        base=base,
        dataset=dataset.name,
        l2cache_id=dataset.l2cache_id,
        graph_id=dataset.graph_id,
        cv_path=dataset.cv_path,
        box=str(box),
        units=math.prod(block_grid(box, BLOCK)),
    )
    units = Units(dataset, geometry, time, plan)
    interrupted = _interrupted(folder, plan, wanted.base == LATEST and not wanted.rebase)
    if wanted.delta:
        check_delta((interrupted or plan).base)
    plan = interrupted or begin(
        folder, plan, lambda new: divided(replace(units, plan=_changed(folder, units, new)))
    )
    return Materialization(replace(units, plan=plan), wanted.output, delta=wanted.delta)


def _interrupted(folder: Folder, wanted: Plan, latest: bool) -> Plan | None:
    """Return the newest version's plan if that is the wanted version and it has `leftovers`; else None.

    Leftovers show that the version's job was interrupted after it wrote the manifest. With ``latest``, the
    user asked to renew the newest version. The bases of the two plans are then not compared: the interrupted
    job chose its base before its own version was the newest.
    """
    number = wanted.number - 1
    plan = read_plan(folder, number) if number else None
    if plan is None:
        return None
    if latest:
        wanted = wanted.model_copy(update={"base": plan.base})
    if not plan.same_work(wanted) or not leftovers(folder, read_manifest(folder, number)):
        return None
    return plan


def settled_time(timestamp: str, settled: timedelta = SETTLED) -> datetime:
    """Parse the timestamp of a version; ``today`` is the last midnight, UTC.

    Raises ConfigError unless the time lies at least ``settled`` in the past.
    """
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    time = midnight if timestamp == TODAY else whole_ms(parse_time(timestamp))
    if settled < timedelta(0):
        raise ConfigError(f"--settle_seconds {settled.total_seconds():g}: expected 0 or more")
    if time > now - settled:
        raise ConfigError(
            f"timestamp {timestamp!r}: expected a time at least {settled.total_seconds():g} s in the past "
            f"(before {iso_text(now - settled)}), since later edits may be incomplete"
        )
    return time


def _base(folder: Folder, wanted: WantedVersion) -> int | None:
    """Return the number of the version to renew; None if the new version is to be fresh."""
    if wanted.base is None:
        return None
    if not wanted.dataset.has_graph:
        raise ConfigError(
            f"data set {wanted.dataset.name!r} has no graph, so versions cannot be renewed: leave out --base"
        )
    number = max(version_numbers(folder), default=None) if wanted.base == LATEST else wanted.base
    if number is None:
        return None
    layers = len(read_manifest(folder, number).layers)
    return None if wanted.rebase or layers > RENEWALS else number


def _changed(folder: Folder, units: Units, plan: Plan) -> Plan:
    """Return the plan; for a renewal, with the roots that changed since the base version."""
    if plan.base is None:
        return plan
    base = read_manifest(folder, plan.base)
    _check_base(base, plan)
    with (
        closing(open_dataset_graph(units.dataset)) as graph,
        closing(open_store(units.dataset.store, units.dataset.l2cache_id)) as store,
    ):
        changes: Changes = find_changes(folder, base, graph, store, units.geometry, plan.timestamp)
    made = tuple(changes.made.tolist())
    return plan.model_copy(
        update={
            "made": made,
            "retired": tuple(changes.retired.tolist()),
            "units": -(-len(made) // ROOTS_PER_UNIT),
        }
    )


def _check_base(base: Manifest, plan: Plan) -> None:
    """Raise ConfigError unless the base version is of the same data as the plan, and older."""
    for name in ("dataset", "l2cache_id", "graph_id", "cv_path", "box"):
        was, now = getattr(base, name), getattr(plan, name)
        if was != now:
            raise ConfigError(f"--base {base.number} has {name} {was!r}: expected {now!r}")
    if base.timestamp >= plan.timestamp:
        raise ConfigError(
            f"--base {base.number} has timestamp {iso_text(base.timestamp, 'milliseconds')}: expected "
            f"a version older than {iso_text(plan.timestamp, 'milliseconds')}, the new version's timestamp"
        )


def divided(units: Units) -> Plan:
    """Return the plan with the bounds of its partitions and, for a fresh version, its block size.

    A sample of the plan's chunks or, in a renewal, of its new roots determines the number of partitions, the
    bounds by root and the block size (`_with_blocks`). The bounds by node divide the chunks evenly.
    A plan without work is returned unchanged.
    """
    plan = units.plan
    if plan.units == 0:
        return plan
    if plan.base is None:
        whole = plan.chunk_box(units.geometry)
        parts = math.prod(block_grid(whole, SAMPLE_EDGE))
        boxes = [block_of(whole, SAMPLE_EDGE, part) for part in evenly_spread(parts, SAMPLE)]
        with closing(units.open()) as source:
            roots = [source.nodes_in(box).roots for box in boxes]
        most = max(len(own) / len(box) for own, box in zip(roots, boxes, strict=True))
        plan, share = _with_blocks(plan, whole, most), len(whole) / sum(map(len, boxes))
    else:
        numbers = list(evenly_spread(plan.units, SAMPLE))
        with closing(units.open()) as source:
            roots = [source.nodes_of(unit).roots for unit in numbers]
        share = plan.units / len(numbers)
    count = max(1, math.ceil(sum(map(len, roots)) * share / PARTITION_ROWS))
    nodes = chunk_bounds(plan.chunk_box(units.geometry), units.geometry, count)
    return plan.model_copy(update={"root_bounds": bounds_of(roots, count), "node_bounds": nodes})


def _with_blocks(plan: Plan, box: ChunkBox, most: float) -> Plan:
    """Return the plan with its block size: `BLOCK`, halved until a block has at most `UNIT_ROWS` nodes.

    A block is assumed to have ``most`` nodes per chunk, the mean of the densest sampled box.
    """
    block = BLOCK
    while block > 1 and most * block**3 > UNIT_ROWS:
        block //= 2
    return plan.model_copy(update={"block": block, "units": math.prod(block_grid(box, block))})


# ------------------------------------------------------------------ what is done
def done_path(plan: Plan, partition: Partition) -> str:
    """Return the path of the file which records that a partition is written."""
    return f"{folder_name(plan.number)}/{WORK}/{partition.layout}-{partition.number:05d}.json"


def read_done(run: Materialization, partition: Partition) -> Written | None:
    """Return the record of a partition that an earlier run wrote; None unless all its files are complete."""
    written = run.folder.read_record(done_path(run.plan, partition), Written)
    there = written and all(run.folder.size(file.path) == file.bytes for file in written.files)
    return written if there else None


def put_done(run: Materialization, partition: Partition, written: Written) -> None:
    """Record that a partition is written."""
    run.folder.write(done_path(run.plan, partition), written.model_dump_json().encode())


def all_partitions(plan: Plan) -> list[Partition]:
    """Return the partitions to write; there are none if a renewal adds no rows."""
    return partitions(plan) if plan.units else []
