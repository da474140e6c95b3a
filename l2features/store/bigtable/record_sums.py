"""Sum chunk records from their cells, without a Python object per record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import NamedTuple

import numpy as np
import orjson

from ...core.errors import StoreError
from .. import formats
from ..base import DONE, ChunkRecord
from ..chunk_totals import EPOCH, INTERVAL, ChunkTotals
from .cells import chunk_records_of, first_cells
from .row_arrays import AnyCells

_DONE, _REASON = DONE.encode(), b',"reason":'
"""State of a done chunk, and where a record's text is cut: from the reason on, most texts are equal."""
_NUMBERS, _REST = ("format", "nodes", "orphans"), ("reason", "files", "saturated")


class _Sums(NamedTuple):
    """Numbers from the records of done chunks: the nodes of each chunk, and the total of orphans.

    A pair (record, n) in ``alike`` stands for n chunks with equal counts of files and of saturated nodes.
    ``record`` has these counts; its nodes and orphans are 0.
    """

    nodes: list[int]
    orphans: int
    alike: list[tuple[ChunkRecord, int]]


def add_records(totals: ChunkTotals, part: AnyCells, where: str) -> None:
    """Add the chunk records in ``part`` to the totals.

    Raises UnknownFormat for a newer format, and StoreError for a malformed record.
    """
    part = first_cells(part, where)
    is_done = np.array([name == _DONE for name in part.names], dtype=bool)
    done = part.take(np.flatnonzero(is_done))
    sums = _sums(done.values, where)
    for record in chunk_records_of(part.take(np.flatnonzero(~is_done)) if sums else part, where):
        totals.add(record)
    if sums is None:
        return
    totals.done += len(done.ids)
    totals.nodes += sum(sums.nodes)
    totals.orphans += sums.orphans
    for record, count in sums.alike:
        totals.add_files(record.files, record.saturated, count)
    if len(done.times):
        totals.add_newest(EPOCH + timedelta(microseconds=int(done.times.max())))
    interval = INTERVAL // timedelta(microseconds=1)
    intervals, of_chunk, chunks = np.unique(done.times // interval, return_inverse=True, return_counts=True)
    # numpy adds Python's integers, which do not overflow
    nodes = np.array(sums.nodes, dtype=object)[np.argsort(of_chunk, kind="stable")]
    nodes = np.add.reduceat(nodes, np.cumsum(chunks) - chunks)
    for recent in zip(intervals.tolist(), chunks.tolist(), nodes, strict=True):
        totals.add_recent(*recent)


def _sums(texts: Sequence[bytes], where: str) -> _Sums | None:
    """Return the sums over done chunks; None if a record's text is not in this version's form."""
    parts = [text.partition(_REASON) for text in texts]
    try:
        numbers = orjson.loads(b"[%b]" % b",".join([begin + b"}" for begin, _, _ in parts]))
        if len(numbers) != len(parts) or not set(map(tuple, numbers)) <= {_NUMBERS}:
            return None
        versions, nodes, orphans = ([record[name] for record in numbers] for name in _NUMBERS)
        if not set(map(type, chain(versions, nodes, orphans))) <= {int}:
            return None
        if not set(versions) <= {formats.CHUNK_FORMAT}:
            return None
        alike = [(_record(end, where), count) for end, count in Counter(end for *_, end in parts).items()]
    except (ValueError, TypeError, StoreError):
        return None
    return _Sums(nodes, sum(orphans), alike)


def _record(end: bytes, where: str) -> ChunkRecord:
    """Parse ``end``, the text of a done chunk's record after ``"reason":``; set nodes and orphans to 0.

    Raises ValueError or StoreError for text that this version does not write.
    """
    content = json.loads(b'{"reason":' + end)
    if tuple(content) != _REST:
        raise ValueError(f"a chunk record ends with the keys {tuple(content)}, expected {_REST}")
    numbers = dict.fromkeys(("nodes", "orphans"), 0)
    return formats.chunk_record(0, DONE, lambda: (datetime.fromtimestamp(0, UTC), numbers | content), where)
