"""Messages in parts: the ids that they name, by data set and chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..core.geometry import Chunk, Geometry
from ..core.ids import Ids, sorted_unique

BATCH_IDS = 20_000
"""Most nodes that are computed together, 6 MB of rows and their supervoxels."""


class Delivery(NamedTuple):
    """A message as it came; ``key`` tells it from the others, ``attempts`` is how often it was tried before.

    After its ``last`` attempt ids that the graph does not know are refused, and where it is ``overdue``, what
    failed is refused too. It was ``published`` so many seconds after 1970, or 0 where that is not known.
    """

    key: str
    data: bytes
    attributes: Mapping[str, str]
    attempts: int = 0
    last: bool = True
    overdue: bool = False
    published: float = 0.0


class Place(NamedTuple):
    """A chunk of a data set."""

    dataset: str
    x: int
    y: int
    z: int

    @property
    def chunk(self) -> Chunk:
        return Chunk(self.x, self.y, self.z)


class Member(NamedTuple):
    """Ids of one chunk that a message names, sorted, unique and not too many for a batch.

    ``key`` and ``published`` are the message's, and ``part`` tells this part of it from the others.
    """

    key: str
    ids: Ids
    part: int = 0
    published: float = 0.0


def by_place(dataset: str, geometry: Geometry, ids: Ids) -> Iterator[tuple[Place, Ids]]:
    """Sorted ids of nodes of a data set by chunk, `BATCH_IDS` at most at a time."""
    if not len(ids):
        return
    chunks = geometry.layout.chunk_ids(ids)
    starts = np.flatnonzero(np.concatenate([[True], chunks[1:] != chunks[:-1]]))
    coordinates = geometry.layout.chunk_coordinates(ids[starts]).tolist()
    for xyz, own in zip(coordinates, np.split(ids, starts[1:]), strict=True):
        for first in range(0, len(own), BATCH_IDS):
            yield Place(dataset, *xyz), own[first : first + BATCH_IDS]


def batches(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Members whose ids are together not too many."""
    batch: list[Member] = []
    room = BATCH_IDS
    for member in members:
        if batch and len(member.ids) > room:
            yield batch
            batch, room = [], BATCH_IDS
        batch.append(member)
        room -= len(member.ids)
    if batch:
        yield batch


def all_ids(members: Sequence[Member]) -> Ids:
    """The ids that members name, sorted and unique."""
    return sorted_unique(np.concatenate([member.ids for member in members]))


def among(ids: Ids, others: Ids) -> Ids:
    """Those ids that are among others; both are sorted and unique."""
    if not len(others):
        return others
    at = np.searchsorted(others, ids).clip(max=len(others) - 1)
    return ids[others[at] == ids]
