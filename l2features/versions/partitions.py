"""Divide rows among partitions (ranges of root ids or of node ids), and write the files of a partition.

The bytes of the files do not depend on the order in which rows arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from ..core.errors import VersionError
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids
from ..neurons.neuron_summary import summarize
from ..query.reader import Status
from .columns import node_table, root_table, schema_of, signed
from .folders import Folder
from .manifest import BY_NODE, BY_ROOT, MISSING_NODES, RETIRED, ROOTS, Layout, VersionFile, folder_name
from .node_rows import NODE_ROW, labels, stated
from .open_files import GROUP_ROWS, OpenFile
from .plan import Plan

LAYOUTS: tuple[Layout, ...] = (BY_ROOT, BY_NODE)
Parts = Callable[[], Iterable[np.ndarray]]
"""A function that returns a partition's rows in several arrays. It may be called several times."""


class Sizes(NamedTuple):
    """Sizes of files and row groups, and limits for rows in memory.

    Args:
        file_rows: maximum rows of a file (about 260 MB).
        group_rows: rows of a row group; enough that one neuron is in few row groups.
        most_rows: maximum rows that are sorted at once; a larger partition is read several times.
        summary_rows: maximum nodes that are summarized at once; a larger root is summarized alone.
    """

    file_rows: int = 4_000_000
    group_rows: int = GROUP_ROWS
    most_rows: int = 5_000_000
    summary_rows: int = 100_000


DEFAULT_SIZES = Sizes()
SAMPLED = 16
"""Every 16th key of a large partition is used to divide it into ranges that are sorted one by one."""
_WEIGHTS = np.random.default_rng(0).integers(0, 1 << 64, NODE_ROW.itemsize, dtype=np.uint64)


class Partition(NamedTuple):
    """One of the ranges of root ids (layout ``by_root``) or node ids (``by_node``) that divide the rows."""

    layout: Layout
    number: int


class Written(BaseModel):
    """The files of a partition; for a partition of roots, also the counts of its roots and nodes.

    ``digest`` is a checksum of the rows, independent of their order. The digests of all partitions by root
    have the same sum as those of all partitions by node, unless the table's rows changed meanwhile.
    """

    layout: Layout
    files: tuple[VersionFile, ...] = ()
    digest: int = 0
    nodes: int = 0
    roots: int = 0
    missing: int = 0
    empty: int = 0


def partitions(plan: Plan) -> list[Partition]:
    """Return all partitions of a version."""
    roots = [Partition(BY_ROOT, i) for i in range(len(plan.root_bounds) + 1)]
    return roots + [Partition(BY_NODE, i) for i in range(len(plan.node_bounds) + 1)]


def key_of(rows: np.ndarray, layout: Layout) -> Ids:
    """Return the ids by which a layout is divided: roots or nodes."""
    return np.ascontiguousarray(rows["root"]) if layout == BY_ROOT else labels(rows)


def digest_of(rows: np.ndarray) -> int:
    """Return a sum over rows that depends on every byte of every row, but not on their order."""
    total = 0
    for first in range(0, len(rows), GROUP_ROWS):
        part = np.ascontiguousarray(rows[first : first + GROUP_ROWS])
        hashes = (part.view(np.uint8).reshape(len(part), -1) + np.uint64(1)) @ _WEIGHTS
        total += int(np.bitwise_xor(hashes, hashes >> np.uint64(29)).sum(dtype=np.uint64))
    return total


def divide(rows: np.ndarray, plan: Plan) -> Iterator[tuple[Partition, np.ndarray]]:
    """Yield pairs (partition, its rows); each row is in one partition of each layout."""
    for layout in LAYOUTS if len(rows) else ():
        bounds = plan.root_bounds if layout == BY_ROOT else plan.node_bounds
        which = np.searchsorted(as_ids(bounds), key_of(rows, layout), side="right")
        order = np.argsort(which, kind="stable")
        numbers, starts = np.unique(which[order], return_index=True)
        for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            yield Partition(layout, number), rows[places]


@dataclass
class PartitionWriter:
    """Writes partitions of one version."""

    folder: Folder
    geometry: Geometry
    number: int
    sizes: Sizes = DEFAULT_SIZES

    def write(self, partition: Partition, parts: Parts) -> Written:
        """Write the files of a partition. ``parts`` returns its rows, in arrays. Raises VersionError."""
        digest = 0
        with ExitStack() as stack:
            done = _Files(self, partition, stack)
            for rows in _sorted_ranges(parts, partition.layout, self.sizes.most_rows):
                digest += digest_of(rows)
                try:
                    self._nodes(done, rows)
                    if partition.layout == BY_ROOT:
                        self._roots(done, rows)
                except ValueError as error:
                    raise VersionError(
                        f"{partition.layout}, partition {partition.number}: {error}"
                    ) from error
            return done.written(digest % (1 << 64))

    def retired(self, roots: Ids) -> VersionFile:
        """Write the file of retired roots. Their rows in older files do not belong to this version."""
        path = f"{folder_name(self.number)}/{RETIRED}.parquet"
        with ExitStack() as stack:
            file = OpenFile(self.folder, path, RETIRED, stack, self.sizes.group_rows)
            file.write(pa.table([pa.array(signed(np.sort(roots)))], schema=schema_of(RETIRED)))
            return file.close()

    def _nodes(self, done: _Files, rows: np.ndarray) -> None:
        for first in range(0, len(rows), self.sizes.group_rows):
            group = rows[first : first + self.sizes.group_rows]
            found = stated(group)
            missing = np.ascontiguousarray(group["missing"])
            roots = np.ascontiguousarray(group["root"])
            done.put(done.partition.layout, node_table(roots, found.rows, missing, self.geometry))

    def _roots(self, done: _Files, rows: np.ndarray) -> None:
        roots, starts = np.unique(rows["root"], return_index=True)
        ends = np.append(starts[1:], len(rows))
        for first, last in _batches(ends, self.sizes.summary_rows):
            nodes = rows[starts[first] : ends[last - 1]]
            found, own = stated(nodes), np.append(starts[first:last], ends[last - 1]) - starts[first]
            summaries = summarize(found.rows, found.status, own, self.geometry)
            done.put(ROOTS, root_table(roots[first:last], summaries))
            missing = found.status == Status.MISSING
            if missing.any():
                ids = signed(np.ascontiguousarray(nodes["root"][missing])), signed(found.rows.ids[missing])
                done.put(MISSING_NODES, pa.table([pa.array(i) for i in ids], schema=schema_of(MISSING_NODES)))
            empty = int(np.count_nonzero(found.status == Status.EMPTY))
            done.counts.update(
                nodes=len(nodes), roots=last - first, missing=int(np.count_nonzero(missing)), empty=empty
            )


def _batches(ends: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, end) of roots, ``end`` excluded. Each has up to ``most`` nodes, or one root."""
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def _sorted_ranges(parts: Parts, layout: Layout, most: int) -> Iterator[np.ndarray]:
    """Yield the rows in one sorted array; more than ``most`` rows in several arrays of about ``most`` rows.

    Each array has a range of keys (roots or nodes), so all rows with the same key are in one array.
    """
    counts, keys = 0, list[Ids]()
    for part in parts():
        keys.append(key_of(part, layout)[-counts % SAMPLED :: SAMPLED])
        counts += len(part)
    n = -(-counts // most)
    sample = np.sort(np.concatenate([as_ids([]), *keys])) if n > 1 else as_ids([])
    bounds = np.unique(sample[np.arange(1, n) * len(sample) // max(n, 1)]) if n > 1 else as_ids([])
    for i in range(len(bounds) + 1):
        chosen = [part[np.searchsorted(bounds, key_of(part, layout), side="right") == i] for part in parts()]
        rows = np.concatenate([np.empty(0, dtype=NODE_ROW), *chosen])
        if not len(rows):
            continue
        keys_of_rows = (labels(rows), rows["root"]) if layout == BY_ROOT else (labels(rows),)
        yield rows[np.lexsort(keys_of_rows)]


@dataclass
class _Files:
    """The files of a partition in progress: the ``open`` file of each layout, and the ``full`` files."""

    writer: PartitionWriter
    partition: Partition
    stack: ExitStack
    open: dict[Layout, OpenFile] = field(default_factory=dict)
    full: list[VersionFile] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def put(self, layout: Layout, table: Any) -> None:
        """Append rows to the open file of a layout; begin a new file when it is full."""
        most = self.writer.sizes.file_rows
        while len(table):
            file = self.open.get(layout)
            if file is None or file.rows >= most:
                self._close(layout)
                file = self.open[layout] = self._new(layout)
            room = most - file.rows
            file.write(table.slice(0, room))
            table = table.slice(room)

    def _new(self, layout: Layout) -> OpenFile:
        number = sum(done.layout == layout for done in self.full)
        name = f"part-{self.partition.number:05d}-{number:03d}.parquet"
        path = f"{folder_name(self.writer.number)}/{layout}/{name}"
        return OpenFile(self.writer.folder, path, layout, self.stack, self.writer.sizes.group_rows)

    def written(self, digest: int) -> Written:
        """Close the open files; return all files of the partition, with the digest and the counts."""
        for layout in list(self.open):
            self._close(layout)
        files = sorted(self.full, key=lambda file: file.path)
        return Written(layout=self.partition.layout, files=tuple(files), digest=digest, **self.counts)

    def _close(self, layout: Layout) -> None:
        file = self.open.pop(layout, None)
        if file is not None:
            self.full.append(file.close())
