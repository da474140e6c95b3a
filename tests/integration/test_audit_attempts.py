"""Tests of a chunk whose repair kills its process: other chunks' audit continues."""

from __future__ import annotations

from pathlib import Path

from l2features.audit.chunk_audit import REPAIR
from l2features.core.geometry import Chunk
from l2features.ingest.steps import ATTEMPTS, GIVEN_UP
from tests.support.audit_job import T0, at_t0, run_audit
from tests.support.ingest_jobs import open_sample

__all__ = ["at_t0"]


def test_a_repair_that_kills_is_given_up_and_then_tried_anew(at_t0: Path) -> None:
    """After `ATTEMPTS` killed repairs of a chunk, the next run gives up, and the one after it retries."""
    store, geometry = open_sample(at_t0)
    deadly, other = (geometry.chunk_id(Chunk(x, 0, 0)) for x in (0, 1))
    for chunk_id in (deadly, other):
        store.delete(chunk_id + 1, chunk_id + 1)
    for _ in range(ATTEMPTS):
        store.count_attempts(deadly, [REPAIR])
    flags = ("--timestamp", T0, "--repair", "--runner=FnApiRunner")
    given_up = run_audit(at_t0, *flags)
    assert given_up.returncode == 1
    assert "2 missing, of which 1 are repaired\n" in given_up.stdout
    assert f"error: chunk 0,0,0: {GIVEN_UP}" in given_up.stderr.splitlines()
    again = run_audit(at_t0, *flags)
    assert again.returncode == 0, again.stderr
    assert "1 missing, of which 1 are repaired\n" in again.stdout
    assert [store.count_attempts(chunk_id, [REPAIR]) for chunk_id in (deadly, other)] == [[1], [1]]
