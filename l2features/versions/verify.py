"""Check the files of a version against its manifest: bytes, rows, order, ranges and totals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from ..core.errors import DamagedVersion
from ..core.schema import SIZE
from .columns import L2_ID, MISSING, N_NODES, ROOT_ID, schema_of, unsigned
from .lookup import VersionReader
from .manifest import Layout, VersionFile
from .merging import merged
from .parquet_files import KEYS, Int64s

BLOCK = 4_000_000
"""Bytes that are hashed at a time."""
MOST_FINDINGS = 1_000
BY_BOTH = ("by_root", "missing_nodes")
"""Layouts whose rows are sorted by root and node."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
Progress = Callable[[int], object]


@dataclass
class Findings:
    """The problems of a version: a line for each of the first `MOST_FINDINGS`, and the count of all."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < MOST_FINDINGS:
            self.lines.append(line)

    def expect(self, what: str, found: int, expected: int) -> None:
        """Add a finding if a count is not as expected."""
        if found != expected:
            self.add(f"{what}: {found}, expected {expected}")

    @contextmanager
    def damage(self) -> Iterator[None]:
        """Add a finding if the block raises DamagedVersion, and suppress the error."""
        try:
            yield
        except DamagedVersion as error:
            self.add(str(error))


class Counts(NamedTuple):
    """Counts of the rows in a version's by_root or by_node files, and a checksum of their ids."""

    rows: int = 0
    missing: int = 0
    empty: int = 0
    digest: int = 0

    def plus(self, other: Counts) -> Counts:
        rows, missing, empty, digest = (a + b for a, b in zip(self, other, strict=True))
        return Counts(rows, missing, empty, digest % (1 << 64))


def verify_files(reader: VersionReader, found: Findings, progress: Progress) -> None:
    """Hash and check every file of a version, including those from older versions, and count its rows.

    Rows are counted only if no file has a problem. Problems are added to ``found``. ``progress`` receives the
    number of bytes of each read. Memory does not grow with the version's size.
    """
    intact = True
    for layer in reader.manifest.layers:
        for file in layer.files:
            before = found.count
            with found.damage():
                _check_hash(reader, file, found, progress)
                _check_order(reader, file, found)
            intact &= found.count == before
    if intact:
        with found.damage():
            _check_totals(reader, found)


def _check_hash(reader: VersionReader, file: VersionFile, found: Findings, progress: Progress) -> None:
    digest, size = sha256(), 0
    reader.files.footer(file)  # which raises for a missing, truncated or malformed file
    with reader.files.folder.open(file.path) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
            progress(len(block))
    found.expect(f"{file.path}: bytes", size, file.bytes)
    if digest.hexdigest() != file.sha256:
        found.add(f"{file.path}: sha256 is {digest.hexdigest()}, expected {file.sha256}")


def _check_order(reader: VersionReader, file: VersionFile, found: Findings) -> None:
    """Check a file's sort order, and the ranges of ids in its Parquet statistics and in the manifest."""
    columns = [name for name in (ROOT_ID, L2_ID) if name in schema_of(file.layout).names]
    footer, last = reader.files.footer(file), None
    roots, nodes = _Range(), _Range()
    for group, table in enumerate(reader.files.groups(file, range(len(footer.rows)), columns)):
        if not len(table):
            continue
        keys = table[KEYS[file.layout]].to_numpy()
        seconds = table[L2_ID].to_numpy() if file.layout in BY_BOTH else np.zeros_like(keys)
        if last is not None:
            keys, seconds = np.append(last[0], keys), np.append(last[1], seconds)
        bad = (keys[1:] < keys[:-1]) | ((keys[1:] == keys[:-1]) & (seconds[1:] <= seconds[:-1]))
        if bad.any():
            found.add(f"{file.path}: row group {group} is not sorted, or repeats a row")
        low, high = keys[0 if last is None else 1 :].min(), keys.max()
        if footer.low[group] != low or footer.high[group] != high:
            stated = f"{footer.low[group]} to {footer.high[group]}"
            found.add(f"{file.path}: row group {group} has ids {low} to {high}, but its statistics {stated}")
        last = keys[-1:], seconds[-1:]
        roots.add(table[ROOT_ID].to_numpy())
        nodes.add(table[L2_ID].to_numpy() if L2_ID in columns else keys[:0])
    if file.rows:
        found.expect(f"{file.path}: smallest root", roots.low, file.min_root)
        found.expect(f"{file.path}: largest root", roots.high, file.max_root)
    if file.rows and L2_ID in columns and file.min_node is not None and file.max_node is not None:
        found.expect(f"{file.path}: smallest node", nodes.low, file.min_node)
        found.expect(f"{file.path}: largest node", nodes.high, file.max_node)


class _Range:
    def __init__(self) -> None:
        self.low, self.high = (1 << 63) - 1, 0

    def add(self, ids: Int64s) -> None:
        if len(ids):
            self.low, self.high = min(self.low, int(ids.min())), max(self.high, int(ids.max()))


def _check_totals(reader: VersionReader, found: Findings) -> None:
    """Compare the version's rows with the manifest's totals, and find ids that occur twice."""
    expected = reader.manifest.totals
    by_root, by_node = _counts(reader, "by_root"), _counts(reader, "by_node")
    for layout, counts in (("by_root", by_root), ("by_node", by_node)):
        found.expect(f"nodes in {layout}", counts.rows, expected.nodes)
        found.expect(f"nodes without computed features in {layout}", counts.missing, expected.missing)
        found.expect(f"nodes that could not be computed in {layout}", counts.empty, expected.empty)
    if by_root.rows == by_node.rows and by_root.digest != by_node.digest:
        found.add("by_root and by_node differ in their nodes, or in the roots of these nodes")
    missing = sum(map(len, reader.batches("missing_nodes", [ROOT_ID])))
    found.expect("nodes in missing_nodes", missing, expected.missing)
    _check_unique(reader, "by_node", [L2_ID, ROOT_ID], found)
    nodes = _check_unique(reader, "roots", [ROOT_ID, N_NODES], found)
    found.expect("sum of n_nodes over the roots", nodes[1], expected.nodes)
    found.expect("roots", nodes[0], expected.roots)
    found.expect("roots of the nodes", _count_roots(reader), expected.roots)


def _counts(reader: VersionReader, layout: Layout) -> Counts:
    counts = Counts()
    for table in reader.batches(layout, [ROOT_ID, L2_ID, MISSING, SIZE]):
        missing = table[MISSING].to_numpy(zero_copy_only=False)
        empty = table[SIZE].is_null().to_numpy(zero_copy_only=False) & ~missing
        mixed = unsigned(table[ROOT_ID]) * _MIX ^ unsigned(table[L2_ID])
        digest = int((mixed * _MIX).sum(dtype=np.uint64))
        counts = counts.plus(Counts(len(table), int(missing.sum()), int(empty.sum()), digest))
    return counts


def _check_unique(
    reader: VersionReader, layout: Layout, columns: list[str], found: Findings
) -> tuple[int, int]:
    """Find ids that occur twice in ``columns[0]``; return a tuple: number of rows; sum of ``columns[1]``."""
    rows, total = 0, 0
    for part in merged(reader, layout, columns):
        keys = part[:, 0]
        for twice in np.unique(keys[1:][keys[1:] == keys[:-1]]).tolist():
            found.add(f"{layout}: {columns[0]} {twice} occurs twice in the version")
        rows, total = rows + len(part), total + int(part[:, 1].sum())
    return rows, total


def _count_roots(reader: VersionReader) -> int:
    """Return the number of distinct roots of the version's nodes.

    The roots of each layer are counted alone: its rows are sorted by root, and no root occurs in two layers.
    """
    count = 0
    for layer in range(len(reader.manifest.layers)):
        last = -1
        for table in reader.layer_batches(layer, "by_root", [ROOT_ID]):
            roots = np.append(last, table[ROOT_ID].to_numpy())
            count += int((roots[1:] != roots[:-1]).sum())
            last = roots[-1]
    return count
