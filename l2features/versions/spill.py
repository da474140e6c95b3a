"""Intermediate rows of a version that is made without Beam: one file per unit of work, in a shared folder."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import VersionError, reason_of
from ..core.geometry import Chunk
from .folders import Folder
from .manifest import BY_ROOT
from .node_rows import NODE_ROW, labels
from .partitions import Partition, Written
from .plan import Plan

if TYPE_CHECKING:
    from .materialization import Materialization


@dataclass(frozen=True)
class Spill:
    """A folder that stores the rows of each unit twice: sorted by root and node, and sorted by node.

    A unit is the part of the work that a worker does at a time: a block of chunks, or some roots. A partition
    is a range of root or node ids, so its rows in a unit's file are adjacent in one of the two orders.
    """

    path: Path

    def has(self, unit: int) -> bool:
        """Return whether the rows of a unit exist."""
        return self._file(unit).exists()

    def put(self, unit: int, rows: np.ndarray) -> None:
        """Write the file of a unit, unless it exists; ``rows`` are sorted by root and node.

        Raises VersionError.
        """
        content = rows.tobytes() + rows[np.argsort(labels(rows))].tobytes()
        Folder(str(self.path)).create(self._file(unit).name, content)

    def rows(self, plan: Plan, partition: Partition) -> Iterator[np.ndarray]:
        """Yield the rows of a partition, unit by unit. Raises VersionError."""
        bounds = plan.root_bounds if partition.layout == BY_ROOT else plan.node_bounds
        for unit in range(plan.units):
            rows = mapped(self._file(unit), NODE_ROW)
            by_root, by_node = rows[: len(rows) // 2], rows[len(rows) // 2 :]
            own = by_root if partition.layout == BY_ROOT else by_node
            keys = own["root"] if partition.layout == BY_ROOT else own["features"]["label"]
            first, last = (
                0 if end == 0 else len(own) if end > len(bounds) else bisect_left(keys, bounds[end - 1])
                for end in (partition.number, partition.number + 1)
            )
            yield np.array(own[first:last])

    def open_worker(self, light: Materialization) -> Callable[[Chunk], None]:
        """Return a function that reads the rows of a unit and stores them in this folder.

        Its argument is a `Chunk` whose ``x`` is the unit's number. ``light`` may lack the plan's new and
        retired roots: they are read from the plan's file.
        """
        source = light.whole().units.open()

        def scan(chunk: Chunk) -> None:
            self.put(chunk.x, source.read(chunk.x))

        return scan

    def open_writer(self, run: Materialization, parts: Sequence[Partition]) -> Callable[[Chunk], Written]:
        """Return the function that writes a partition's files.

        It takes a `Chunk`, whose ``x`` is the partition's index in ``parts``.
        """
        from .materialization import put_done

        writer = run.writer()

        def write(chunk: Chunk) -> Written:
            part = parts[chunk.x]
            written = writer.write(part, lambda: self.rows(run.plan, part))
            put_done(run, part, written)
            return written

        return write

    def _file(self, unit: int) -> Path:
        return self.path / f"unit-{unit:08d}.rows"


def mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """Return the rows in a file as a memory map, which reads them when they are used. Raises VersionError."""
    try:
        return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
    except OSError as error:
        raise VersionError(f"cannot read {path}: {reason_of(error)}") from error
