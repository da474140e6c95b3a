"""Sorted rows of several layers or versions, side by side and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .lookup import VersionReader
from .manifest import Layout
from .parquet_files import Int64s


def aligned(streams: Sequence[Iterator[Int64s]]) -> Iterator[list[Int64s]]:
    """Cut streams of sorted rows at the same keys; for each range of keys, yield the rows of every stream.

    Args:
        streams: each yields consecutive arrays (n, columns); the first column is the key, unique within a
            stream.

    >>> [[part[:, 0].tolist() for part in parts] for parts in aligned([_rows([1, 5], [7]), _rows([2, 9])])]
    [[[1, 5], [2]], [[7], []], [[], [9]]]
    """
    left: list[Int64s | None] = [next(stream, None) for stream in streams]
    empty = [np.zeros((0, 1), dtype=np.int64) if part is None else part[:0] for part in left]
    while True:
        for i, stream in enumerate(streams):
            while (part := left[i]) is not None and not len(part):
                left[i] = next(stream, None)
        ends = [part[-1, 0] for part in left if part is not None]
        if not ends:
            return
        cuts = [0 if part is None else int(np.searchsorted(part[:, 0], min(ends), "right")) for part in left]
        yield [
            none if part is None else part[:cut] for part, cut, none in zip(left, cuts, empty, strict=True)
        ]
        left = [None if part is None else part[cut:] for part, cut in zip(left, cuts, strict=True)]


def _rows(*parts: Sequence[int]) -> Iterator[Int64s]:
    """Yield each list of keys as an array (n, 1)."""
    return (np.array(part, dtype=np.int64).reshape(-1, 1) for part in parts)


def merged(reader: VersionReader, layout: Layout, columns: Sequence[str]) -> Iterator[Int64s]:
    """Yield the rows of a version, sorted by their first column, in arrays (n, columns).

    The columns must be of integers. The first must be the layout's key; one must be ``root_id``.
    """
    layers = range(len(reader.manifest.layers))
    for parts in aligned([_layer(reader, layer, layout, columns) for layer in layers]):
        rows = np.concatenate([part for part in parts if part.shape[1] == len(columns)])
        yield rows[np.argsort(rows[:, 0], kind="stable")]


def _layer(reader: VersionReader, layer: int, layout: Layout, columns: Sequence[str]) -> Iterator[Int64s]:
    for table in reader.layer_batches(layer, layout, columns):
        yield np.stack([column.to_numpy() for column in table.columns], axis=1)
