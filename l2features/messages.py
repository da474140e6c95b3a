"""Pub/Sub messages: L2 ids whose features are asked for and not there yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from .ids import Ids, as_ids

MESSAGE_IDS = 100_000
"""Most ids of one message, 800 kB; Pub/Sub takes 10 MB."""
_WIRE = np.dtype("<u8")


class Message(NamedTuple):
    """What Pub/Sub carries: the payload and its attributes."""

    data: bytes
    attributes: Mapping[str, str]


def missing_message(ids: Ids, table_id: str, l2_cache_id: str) -> Message:
    """The message that asks for the features of ids, in their order: raw little-endian uint64.

    ``table_id`` is the data set's name, ``l2_cache_id`` the table of its features.
    Raises ValueError for no ids: an empty message would be delivered and mean nothing.
    """
    ids = as_ids(ids)
    if not len(ids):
        raise ValueError(f"no ids are missing in data set {table_id!r}: expected at least one")
    return Message(
        ids.astype(_WIRE, copy=False).tobytes(), {"table_id": table_id, "l2_cache_id": l2_cache_id}
    )


def message_slices(count: int, size: int = MESSAGE_IDS) -> Iterator[slice]:
    """Which of ``count`` ids each message takes, at most ``size`` of them; none for no ids."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
