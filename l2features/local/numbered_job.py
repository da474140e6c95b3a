"""A job over numbered units of work: a `ChunkJob` in which the x of a chunk is the number of a unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from ..core.chunks import ChunkBox
from ..core.errors import VersionError
from ..core.geometry import Chunk
from ..store.base import Store
from .job_run import ChunkJob

R = TypeVar("R")


class UnitFailed(VersionError):
    """A unit of work killed or hung its workers."""


def nothing() -> None:
    """Do nothing; the ``warm_up`` of a job that has no code to compile."""


def numbered_job(
    count: int,
    what: str,
    open_store: Callable[[], Store],
    is_done: Callable[[int], bool],
    open_worker: Callable[[], Callable[[Chunk], R]],
    warm_up: Callable[[], None] = nothing,
) -> ChunkJob[R]:
    """Return a job over the units of work 0 to ``count`` - 1, without those for which ``is_done`` is true.

    Workers receive unit n as ``Chunk(n, 0, 0)``. A unit that keeps killing its workers ends the job with
    `UnitFailed`, in which ``what`` names the kind of unit.
    """
    box = ChunkBox((0, 0, 0), (count, 1, 1))

    def pending(_: Store, first: int, last: int) -> list[Chunk]:
        chunks = [Chunk(*xyz) for xyz in box.positions(first, last).tolist()]
        return [chunk for chunk in chunks if not is_done(chunk.x)]

    return ChunkJob(box, open_store, pending, warm_up, open_worker, partial(_give_up, what))


def _give_up(what: str, _: Store, chunk: Chunk, reason: str) -> NoReturn:
    raise UnitFailed(f"{what} {chunk.x}: {reason}")
