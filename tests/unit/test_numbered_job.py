"""Tests of jobs over numbered units of work, such as the partitions of a version."""

from __future__ import annotations

from typing import Any

import pytest

from l2features.core.geometry import Chunk
from l2features.local.numbered_job import UnitFailed, numbered_job

STORE: Any = None


def test_units_that_are_not_done_are_pending_and_one_that_kills_is_named() -> None:
    job = numbered_job(5, "shard", lambda: STORE, {1, 4}.__contains__, lambda: lambda chunk: chunk.x)
    assert len(job.box) == 5
    assert sorted(job.pending(STORE, 0, 5)) == [Chunk(0, 0, 0), Chunk(2, 0, 0), Chunk(3, 0, 0)]
    with pytest.raises(UnitFailed, match=r"^shard 3: killed$"):
        job.give_up(STORE, Chunk(3, 0, 0), "killed")
