"""Lookups of a version's rows by root or node id; they read only row groups that can contain the ids."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..core.errors import ConfigError, LookupTooLarge, VersionTimeout
from ..core.ids import Ids, as_ids, sorted_unique
from .columns import L2_ID, NODE_COLUMNS, ROOT_COLUMNS, ROOT_ID, columns_of, node_schema, root_schema
from .manifest import Layout, Manifest, VersionFile
from .parquet_files import KEYS, Int64s, ParquetFiles

MOST_ROWS, MOST_GROUPS = 1_000_000, 512
"""Limits of one lookup: rows that are returned, and row groups that are read."""
WORKERS = 4
"""Row groups that are read at the same time, over all lookups of a process."""
FOREVER = float("inf")
LARGEST = np.uint64((1 << 63) - 1)
Names = Sequence[str] | None
"""Attributes, measures or columns; None for all."""


class FoundRows(NamedTuple):
    """A table with rows of a version, sorted by id. Id columns are uint64.

    The rows of `nodes_of` are sorted by root id, then by node id.
    ``row_groups`` is the number of row groups that were read.
    """

    table: Any
    row_groups: int


class KeyRanges(NamedTuple):
    """The files of one layout (such as ``by_root``) in one layer, with the range of keys of each file.

    The key is the column by which the rows are sorted first (`KEYS`). ``low`` and ``high`` (files,) are the
    smallest and largest key of each file.
    """

    files: Sequence[VersionFile]
    low: Int64s
    high: Int64s


class Piece(NamedTuple):
    """A row group to read: its smallest key ``low``, and the sorted keys ``wanted`` to look up in it."""

    low: int
    layer: int
    file: VersionFile
    group: int
    wanted: Int64s


class VersionReader:
    """Reads one version. Threads may share a reader.

    A lookup reads only row groups whose range of ids contains a requested id. It raises LookupTooLarge before
    it reads more than ``most_groups`` row groups or returns more than ``most_rows`` rows.

    All methods raise VersionError; for a file that differs from its manifest, the subclass DamagedVersion.
    Lookups raise ConfigError for an unknown column.
    """

    def __init__(
        self,
        files: ParquetFiles,
        manifest: Manifest,
        most_rows: int = MOST_ROWS,
        most_groups: int = MOST_GROUPS,
    ) -> None:
        self.files, self.manifest = files, manifest
        self.most_rows, self.most_groups = most_rows, most_groups
        layouts: tuple[Layout, ...] = ("by_root", "by_node", "roots")
        self._bounds = {
            layout: [_bounds(layer.of(layout)) for layer in manifest.layers] for layout in layouts
        }

    def nodes_of(
        self, roots: Ids, names: Names = None, limit: int | None = None, until: float = FOREVER
    ) -> FoundRows:
        """Return the nodes of roots, sorted by root and node. `node_columns` explains ``names``.

        At most the first ``limit`` rows are returned. Roots that are not in the version have no rows. Raises
        VersionTimeout if rows are still to be read after ``until`` (`time.monotonic`).
        """
        return self._found("by_root", roots, node_columns(names), limit, until)

    def nodes(
        self, l2_ids: Ids, names: Names = None, limit: int | None = None, until: float = FOREVER
    ) -> FoundRows:
        """Return nodes by id, sorted by id. The columns and the other arguments are those of `nodes_of`."""
        return self._found("by_node", l2_ids, node_columns(names), limit, until)

    def roots(
        self, roots: Ids, names: Names = None, limit: int | None = None, until: float = FOREVER
    ) -> FoundRows:
        """Return one row per root, sorted by root. `root_columns` explains ``names``.

        The other arguments are those of `nodes_of`.
        """
        return self._found("roots", roots, root_columns(names), limit, until)

    def batches(self, layout: Layout, columns: Sequence[str]) -> Iterator[Any]:
        """Yield all rows of a layout, one table per row group; ids are int64, as in files.

        The rows come layer by layer, in the order of ``manifest.layers``, and are sorted within a layer.
        ``columns`` must include ``root_id``.
        """
        for layer, _ in enumerate(self.manifest.layers):
            yield from self.layer_batches(layer, layout, columns)

    def layer_batches(self, layer: int, layout: Layout, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows of one layer that belong to the version, sorted, one table per row group."""
        for file in self.manifest.layers[layer].of(layout):
            yield from self.file_batches(layer, file, columns)

    def file_batches(
        self, layer: int, file: VersionFile, columns: Sequence[str], part: int = 0, parts: int = 1
    ) -> Iterator[Any]:
        """Yield the rows of a file that belong to the version, sorted, one table per row group.

        The file's row groups are split into ``parts`` ranges; only range ``part`` (from 0) is read.
        """
        gone, count = self._retired(layer)[0], len(self.files.footer(file).rows)
        groups = range(part * count // parts, (part + 1) * count // parts)
        for table in self.files.groups(file, groups, columns):
            yield _filtered(table, ~_in_any(table[ROOT_ID].to_numpy(), gone))

    # ------------------------------------------------------------------ lookups
    def _found(
        self, layout: Layout, ids: Ids, columns: Sequence[str], limit: int | None, until: float
    ) -> FoundRows:
        wanted = sorted_unique(as_ids(ids))
        keys = wanted[wanted <= LARGEST].astype(np.int64)
        pieces, read = self._pieces(layout, keys, until)
        tables, count = list[Any](), 0
        for table, then in self._read(pieces, columns, KEYS[layout], until):
            read += 1
            tables.append(table)
            count += len(table)
            if limit is not None and count >= limit and _complete(tables, KEYS[layout], then, limit):
                break
            if count > self.most_rows and (limit is None or limit > self.most_rows):
                raise LookupTooLarge("rows", count, self.most_rows)
        joined = _sorted(pa.concat_tables([_schema(layout, columns).empty_table(), *tables]), layout)
        return FoundRows(with_unsigned_ids(joined.slice(0, limit)), read)

    def _pieces(self, layout: Layout, keys: Int64s, until: float) -> tuple[list[Piece], int]:
        """Return a tuple: the row groups that may have these keys, sorted by smallest key; a count.

        To find them, this reads the files that list retired roots. Rows of these roots in older layers do not
        belong to the version. The count is the number of row groups read from these files.
        """
        candidates, read = list[tuple[int, VersionFile, Int64s]](), 0
        for layer, bounds in enumerate(self._bounds[layout]):
            places = np.flatnonzero(_overlaps(keys, bounds.low, bounds.high))
            if not len(places):
                continue
            gone, groups = self._retired(layer)
            left = keys[~_in_any(keys, gone)] if KEYS[layout] == ROOT_ID else keys
            read += groups
            places = places[_overlaps(left, bounds.low[places], bounds.high[places])]
            candidates += [(layer, bounds.files[place], left) for place in places.tolist()]
        _check_groups(len(candidates), self.most_groups)
        pieces = list[Piece]()
        for layer, file, left in candidates:
            _check_time(until)
            footer = self.files.footer(file)
            for group in np.flatnonzero(_overlaps(left, footer.low, footer.high)).tolist():
                pieces.append(Piece(int(footer.low[group]), layer, file, group, left))
        _check_groups(len(pieces), self.most_groups)
        return sorted(pieces, key=lambda piece: (piece.low, piece.layer, piece.file.path, piece.group)), read

    def _read(
        self, pieces: Sequence[Piece], columns: Sequence[str], key: str, until: float
    ) -> Iterator[tuple[Any, int | None]]:
        """Yield the wanted rows of each piece (row group), and the next piece's smallest key, if any."""
        thens = [*(piece.low for piece in pieces[1:]), None]
        for first in range(0, len(pieces), WORKERS):
            _check_time(until)
            window = pieces[first : first + WORKERS]
            if len(window) == 1:
                tables = iter([self._rows_of(window[0], columns, key)])
            else:
                tables = _pool().map(lambda piece: self._rows_of(piece, columns, key), window)
            yield from zip(tables, thens[first : first + WORKERS], strict=True)

    def _rows_of(self, piece: Piece, columns: Sequence[str], key: str) -> Any:
        (table,) = self.files.groups(piece.file, [piece.group], columns)
        wanted = _in_any(table[key].to_numpy(), [piece.wanted])
        if key != ROOT_ID:
            wanted &= ~_in_any(table[ROOT_ID].to_numpy(), self._retired(piece.layer)[0])
        return _filtered(table, wanted)

    def _retired(self, layer: int) -> tuple[list[Int64s], int]:
        """Return roots retired by later layers, a sorted array per file, and the count of row groups read."""
        found = [self.files.retired(file) for file in self.manifest.removing(layer)]
        return [roots for roots, _ in found], sum(read for _, read in found)


# ------------------------------------------------------------------ columns
def node_columns(names: Names) -> list[str]:
    """Return ``root_id``, ``l2_id`` and the columns that ``names`` select; None selects all.

    A name is an attribute or a column. Raises ConfigError for an unknown name.
    """
    return _columns(names, NODE_COLUMNS, (ROOT_ID, L2_ID))


def root_columns(names: Names) -> list[str]:
    """Return ``root_id`` and the columns that ``names`` select; None selects all.

    A name is a measure or a column. Raises ConfigError for an unknown name.
    """
    return _columns(names, ROOT_COLUMNS, (ROOT_ID,))


def with_unsigned_ids(table: Any) -> Any:
    """Return a table whose columns of ids are uint64."""
    for name in (ROOT_ID, L2_ID):
        if name in table.column_names:
            place = table.column_names.index(name)
            field = table.field(place).with_type(pa.uint64())
            table = table.set_column(place, field, table[name].cast(pa.uint64()))
    return table


def _columns(names: Names, known: Sequence[str], always: Sequence[str]) -> list[str]:
    if names is None:
        return list(known)
    listed = list(always)
    for name in names:
        try:
            listed += columns_of([name])
        except KeyError as error:
            raise _unknown(name, known) from error
        if listed[-1] not in known:
            raise _unknown(name, known)
    return list(dict.fromkeys(listed))


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(f"{name!r:.100} is not a column: expected one or more of {', '.join(known)}")


def _schema(layout: Layout, columns: Sequence[str]) -> Any:
    schema = root_schema() if layout == "roots" else node_schema()
    return pa.schema([schema.field(name) for name in columns])


# ------------------------------------------------------------------ rows
def _filtered(table: Any, wanted: npt.NDArray[np.bool_]) -> Any:
    """Return the wanted rows of a table, as a copy, so that the memory of the other rows is freed."""
    if wanted.all():
        return table
    return table.take(pa.array(np.flatnonzero(wanted)))


def _sorted(table: Any, layout: Layout) -> Any:
    """Return the rows sorted by the layout's keys. Rows of a single layer are sorted already."""
    key, second = table[KEYS[layout]].to_numpy(), None
    ordered = key[1:] > key[:-1]
    if layout == "by_root":
        second = table[L2_ID].to_numpy()
        ordered |= (key[1:] == key[:-1]) & (second[1:] > second[:-1])
    if ordered.all():
        return table
    return table.take(pa.array(np.lexsort((key,) if second is None else (second, key))))


def _complete(tables: Sequence[Any], key: str, then: int | None, limit: int) -> bool:
    """Return whether ``tables`` have the first ``limit`` rows of the result.

    ``then`` is the smallest key in the unread row groups; None if all are read. The rows of ``tables`` with
    smaller keys come before all unread rows. So do those with the key ``then``: all rows with the same key
    are in one layer, and the row groups of a layer are read in order.
    """
    if then is None:
        return True
    return sum(int((table[key].to_numpy() <= then).sum()) for table in tables) >= limit


def _overlaps(keys: Int64s, low: Int64s, high: Int64s) -> npt.NDArray[np.bool_]:
    """Return whether each range from ``low`` to ``high`` (included) has any of the sorted keys, (ranges,)."""
    return np.asarray(np.searchsorted(keys, low, "left") < np.searchsorted(keys, high, "right"))


def _in_any(values: Int64s, sorted_arrays: Sequence[Int64s]) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(values), dtype=bool)
    for known in sorted_arrays:
        if len(known):
            found |= known[np.searchsorted(known, values).clip(max=len(known) - 1)] == values
    return found


def _bounds(files: Sequence[VersionFile]) -> KeyRanges:
    ends = [file.node_range if file.layout == "by_node" else (file.min_root, file.max_root) for file in files]
    low, high = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    return KeyRanges(files, low, high)


def _check_groups(count: int, most: int) -> None:
    if count > most:
        raise LookupTooLarge("row groups", count, most)


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise VersionTimeout("the version was not read in time: ask for fewer ids")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, "version-reader")
