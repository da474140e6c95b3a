"""Intermediate rows of an export without Beam, as files in a folder that all workers share."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.geometry import Chunk
from ..versions.folders import Folder
from ..versions.spill import mapped
from .static_export import PartWriter, StaticExport, WrittenPart
from .static_index import row_dtype


@dataclass(frozen=True)
class RowFiles:
    """Files of an export's intermediate rows: one per unit and layer, sorted by part.

    A unit is what a worker reads at a time: some rows of a version's file, or all roots that get a skeleton.
    A part is what a writer writes at a time: one shard of one index.
    """

    path: Path
    layers: Sequence[str]

    def has(self, unit: int) -> bool:
        """Return whether the files of a unit of work exist."""
        return all(self._file(unit, layer).exists() for layer in self.layers)

    def put(self, unit: int, rows: dict[str, np.ndarray]) -> None:
        """Write a unit's rows, one file per layer. Files that exist are kept. Raises VersionError."""
        for layer in self.layers:
            found = rows.get(layer, np.empty(0, dtype=row_dtype(layer)))
            Folder(str(self.path)).create(self._file(unit, layer).name, found.tobytes())

    def rows(self, units: int, layer: str, part: int) -> Iterator[np.ndarray]:
        """Yield the rows of a part (a shard of an index), an array per unit of work. Raises VersionError."""
        for unit in range(units):
            rows = mapped(self._file(unit, layer), row_dtype(layer))
            first, last = (bisect_left(rows["part"], end) for end in (part, part + 1))
            yield np.array(rows[first:last])

    def open_worker(self, run: StaticExport) -> Callable[[Chunk], None]:
        """Return the function that reads a unit of work and stores its rows.

        It takes a `Chunk`, which only carries the number of the unit, as ``x``.
        """
        source = run.open()

        def scan(chunk: Chunk) -> None:
            self.put(chunk.x, source.scan(chunk.x))

        return scan

    def open_writer(
        self, run: StaticExport, units: int, progress: Callable[[], object]
    ) -> Callable[[Chunk], WrittenPart]:
        """Return the function that writes a part, which is one shard of an index.

        It takes a `Chunk`, which only carries the number of the part, as ``x``. ``units`` is the number of
        units of work that were stored; ``progress`` is called after each skeleton.
        """
        writer = PartWriter(run, progress)

        def write(chunk: Chunk) -> WrittenPart:
            layer = run.index_of(chunk.x)[0].layer
            return writer.write(chunk.x, self.rows(units, layer, chunk.x))

        return write

    def _file(self, unit: int, layer: str) -> Path:
        return self.path / f"unit-{unit:08d}.{layer}.rows"
