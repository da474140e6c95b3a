"""What a job is to the processes that run it on one machine: a pipeline of its own over chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import apache_beam as beam

from l2features.core.chunks import ChunkBox
from l2features.core.geometry import Chunk
from l2features.store.base import Store


@dataclass
class Progress:
    """How far a run is; each job adds what it did.

    ``done_before`` chunks were not to be done. ``first`` and ``last`` are when the first chunk was handed out
    and the last one was settled, on the clock of ``time.perf_counter``.
    """

    total: int
    done_before: int = 0
    first: float = 0.0
    last: float = 0.0
    stopped: bool = False

    def settled(self) -> None:
        """A chunk's result has come."""
        self.last = time.perf_counter()


class Job(Protocol):
    """What is done with chunks. It travels to every worker.

    ``durable`` says that a chunk's result comes when all that it stands for is written. A result is a
    NamedTuple, of which the first field is the chunk.
    """

    durable: bool

    @property
    def box(self) -> ChunkBox:
        """The chunks of the run."""

    def open_store(self) -> Store:
        """The table that it is about."""

    def shards(self) -> Iterator[tuple[int, int]]:
        """Parts of the order of chunks, as (first, last) positions."""

    def pending(self, store: Store, first: int, last: int) -> list[Chunk]:
        """The chunks of a shard that are to be done."""

    def warm_up(self) -> None:
        """Compile what the workers will load."""

    def build(self, pipeline: Any, chunks: beam.PTransform) -> Sequence[Any]:
        """Add the job to a pipeline; gives its PCollections of results."""

    def progress(self) -> Any:
        """A new `Progress` with a method ``add``, which takes a result."""

    def result(self, fields: Sequence[Any]) -> Any:
        """A result from its fields."""

    def give_up(self, store: Store, chunk: Chunk, reason: str) -> Any:
        """The result of a chunk that kills its workers."""
