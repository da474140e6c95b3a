"""Checks of a table as a whole: its storage, its row meta, its timestamp, and the records of its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from ..config.reach import check_bigtable
from ..core.chunks import whole_box
from ..core.errors import StoreError
from ..core.times import EXPECTED_TIME
from ..ingest.steps import SHARD_CHUNKS, shards
from ..store.base import DONE, FAILED
from ..store.notes import audit_text, last_audit
from .deployment import Deployment
from .findings import Finding, ok, problem, warning

MOST_CHUNKS = 100_000
"""Approximate maximum number of chunk records that are read. A larger grid is sampled."""


def table_check(deployment: Deployment) -> Iterator[Finding]:
    """Check that the table can be read, and report how it is stored."""
    store = deployment.store
    check_bigtable(store.url)
    store.ping()
    structure = store.structure()
    for text in structure.problems:
        yield problem(
            f"{store.url}, table {store.name}: {text}", "make a new table: l2features ingest --create"
        )
    store.first_ids(0, 100)  # raises StoreError for the key of a node that is not 20 digits
    if not structure.problems:
        yield ok(f"{store.url}, table {store.name}: {structure.text}; row keys are ids")


def meta_check(deployment: Deployment) -> Iterator[Finding]:
    """Check that the table's row ``meta`` names the data set's graph or, without a graph, its cv_path."""
    dataset, meta = deployment.dataset, deployment.meta
    if meta is None:
        yield warning(
            "the table has no row 'meta', like older tables of PCGL2Cache: its rows are served, but the "
            "time of its nodes is unknown",
            'l2features ingest --timestamp "…" writes it, with the time at which the rows were made',
        )
    elif meta.graph_id != dataset.graph_id:
        yield problem(
            f"the table is of graph {meta.graph_id!r}, but the data set has graph {dataset.graph_id!r}",
            "correct graph, cv_path or l2cache_id in the data sets file",
        )
    elif not dataset.has_graph and meta.cv_path != dataset.cv_path:
        yield problem(
            f"the table is of {meta.cv_path}, but the data set has cv_path {dataset.cv_path}",
            "correct cv_path or l2cache_id in the data sets file",
        )
    else:
        geometry = "with a geometry" if meta.geometry else "without a geometry, as PCGL2Cache writes it"
        yield ok(f"of graph {meta.graph_id!r}, {geometry}")


def timestamp_check(deployment: Deployment) -> Iterator[Finding]:
    """Check that the timestamp in the table's row ``meta`` is valid and in the past."""
    meta = deployment.meta
    if meta is None:
        yield warning("unknown: the table has no meta", "give audit and materialize a --timestamp")
        return
    try:
        time = meta.time
    except StoreError as error:
        yield problem(str(error), f"write the row meta with another timestamp: expected {EXPECTED_TIME}")
        return
    if time > datetime.now(UTC):
        yield warning(
            f"{meta.timestamp} UTC is in the future: edits until then make chunks inconsistent",
            "wait until then, and run l2features ingest --recompute",
        )
    else:
        yield ok(f"rows are of nodes valid at {meta.timestamp} UTC, and of later edits")


def coverage_check(deployment: Deployment) -> Iterator[Finding]:
    """Check that all chunks of the grid are recorded as done. A large grid is sampled."""
    box = whole_box(deployment.geometry.grid)
    step = -(-len(box) // MOST_CHUNKS)
    done = failed = looked = 0
    for first, last in shards(box):
        if first // SHARD_CHUNKS % step:
            continue
        chunk_ids = deployment.geometry.layout.chunk_id_array(box.positions(first, last))
        states = deployment.store.chunk_states(chunk_ids)
        done += int(np.count_nonzero(states == DONE))
        failed += int(np.count_nonzero(states == FAILED))
        looked += last - first
        if looked % 20_000 == 0:
            deployment.say(f"read the records of {looked} chunks")
    of = f"{looked} chunks" if step == 1 else f"{looked} sampled chunks, among {len(box)},"
    if not done and not failed:
        yield _unrecorded(deployment, f"none of {of} has a record, as in PCGL2Cache's tables")
    elif failed:
        yield problem(
            f"{done} of {of} are done, {failed} failed",
            "l2features status names the reasons; l2features ingest tries them again",
        )
    elif done < looked:
        yield warning(f"{done} of {of} are done, the others have no record", "l2features ingest continues")
    else:
        yield ok(f"all of {of} are done")


def _unrecorded(deployment: Deployment, text: str) -> Finding:
    """Return the finding for a table without chunk records: ok after a complete audit, else a warning."""
    audit = last_audit(deployment.store)
    if audit and audit.complete:
        return ok(f"{text}; {audit_text(audit)}")
    return warning(
        f"{text}: the complete chunks are unknown",
        "l2features audit counts the nodes without a row, and with --repair computes them",
    )
