"""Split messages into parts, and batch the parts. A part has ids in one chunk of one data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..core.batches import batched
from ..core.geometry import Chunk, Geometry
from ..core.ids import Ids, group_starts, sorted_unique

BATCH_IDS = 20_000
"""Maximum nodes that are computed together: 6 MB of rows and supervoxels."""


class Delivery(NamedTuple):
    """A message as it was received.

    Attributes:
        key: identifies the message.
        attempts: number of earlier attempts.
        last: whether ids that are still missing from the graph are refused after this attempt.
        overdue: whether ids that failed are refused after this attempt.
        published: publication time in seconds since 1970; 0 if unknown.
    """

    key: str
    data: bytes
    attributes: Mapping[str, str]
    attempts: int = 0
    last: bool = True
    overdue: bool = False
    published: float = 0.0


class DatasetChunk(NamedTuple):
    """A chunk of a data set."""

    dataset: str
    x: int
    y: int
    z: int

    @property
    def chunk(self) -> Chunk:
        return Chunk(self.x, self.y, self.z)


class Member(NamedTuple):
    """Part of a message: at most `BATCH_IDS` sorted, unique ids in one chunk.

    ``key`` identifies the message. ``part`` is the part's number, unique in the message. ``published`` is
    the message's publication time in seconds since 1970; 0 if unknown.
    """

    key: str
    ids: Ids
    part: int = 0
    published: float = 0.0


def by_place(dataset: str, geometry: Geometry, ids: Ids) -> Iterator[tuple[DatasetChunk, Ids]]:
    """Yield pairs (chunk, ids) for sorted ids; a chunk with more than `BATCH_IDS` ids has several pairs."""
    if not len(ids):
        return
    chunks = geometry.layout.chunk_ids(ids)
    starts = group_starts(chunks)
    coordinates = geometry.layout.chunk_coordinates(ids[starts]).tolist()
    for xyz, share in zip(coordinates, np.split(ids, starts[1:]), strict=True):
        for first in range(0, len(share), BATCH_IDS):
            yield DatasetChunk(dataset, *xyz), share[first : first + BATCH_IDS]


def batches(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Yield the members in batches. The members of a batch have at most `BATCH_IDS` ids in total."""
    return batched(members, lambda member: len(member.ids), BATCH_IDS)


def all_ids(members: Sequence[Member]) -> Ids:
    """Return the ids of all members, sorted and unique."""
    return sorted_unique(np.concatenate([member.ids for member in members]))


def among(ids: Ids, others: Ids) -> Ids:
    """Return the ids that are also in ``others``; both are sorted and unique."""
    if not len(others):
        return others
    at = np.searchsorted(others, ids).clip(max=len(others) - 1)
    return ids[others[at] == ids]
