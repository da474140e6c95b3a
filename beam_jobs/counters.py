"""The counters and distributions of Beam jobs: their names, what they mean, and how a worker adds to them."""

from __future__ import annotations

from apache_beam.metrics import Metrics

NAMESPACE = "l2features"
COUNTERS = {
    "chunks": "chunks that were computed",
    "empty_chunks": "computed chunks without nodes",
    "chunks_done_before": "skipped chunks, which an earlier run has computed",
    "failed_chunks": "failed chunks, which the next run retries",
    "files_expected": "files of the segmentation in the computed chunks",
    "files_read": "files that were read",
    "files_missing": "files that were missing, including `files_forbidden`",
    "files_forbidden": "missing files for which the server returned HTTP 403",
    "files_empty": "files of 0 bytes",
    "saturated_area_nm2": "nodes whose area is stored as the type's maximum",
    "saturated_max_dt_nm": "nodes whose largest distance is stored as the type's maximum",
    "saturated_mean_dt_nm": "nodes whose mean distance is stored as the type's maximum",
    "saturated_chunk_intersect_count": "nodes with a count of voxels that is stored as the type's maximum",
    "nodes": "nodes computed, or read for a version",
    "rows_written": "nodes whose rows are durable",
    "orphan_supervoxels": "supervoxels without a parent; if a chunk has no others, check timestamp and graph",
    "read_ms": "time per chunk to read files",
    "map_ms": "time per chunk to map supervoxels to nodes",
    "compute_ms": "time per chunk to compute features",
    "write_ms": "time per chunk to write rows",
    "units": "blocks of chunks, or groups of changed roots, read for a version",
    "rows": "nodes and roots read for a static export",
    "files": "files written for a version or a static export",
    "audit_chunks": "chunks of the audit",
    "audit_unaudited": "chunks that could not be audited",
    "audit_files_missing": "chunks that were ingested with missing files",
    "audit_expected": "nodes of the graph in the audited chunks",
    "audit_present": "expected nodes that have a row, marked as empty or not",
    "audit_empty": "expected nodes whose row is marked as empty",
    "audit_missing": "expected nodes without a row",
    "audit_repaired": "missing nodes that `--repair` computed",
    "audit_superfluous": "rows of ids that the graph never had",
    "audit_other": "with `--timestamp`: rows of nodes that were not valid then",
    "messages_done": "messages that were applied",
    "messages_dead": "messages that became dead letters",
    "messages_retry": "messages that are retried",
    "dead_letters": "stored dead letters; `messages_dead` counts a message before its letter is stored",
    "ids_written": "ids whose features were computed and written",
    "ids_empty": "ids marked as empty, as their nodes have no voxels",
    "ids_present": "ids that had a row before",
    "ids_unknown": "ids that the graph does not have; if there are many, the graph lags or is wrong",
    "ids_failed": "ids whose computation failed and is retried",
    "ids_refused": "ids with a permanent error",
    "groups": "reads of a chunk for one or more ids",
    "graph_ms": "time of graph lookups",
    "lag_ms": "time from a message's publication until its rows are durable",
    "repeated": "repeated entries of a message, which are ignored",
}
"""The meaning of each counter; names that end in ``_ms`` are distributions, in milliseconds."""


def count(**counts: int) -> None:
    """Add to the job's counters."""
    for name, number in counts.items():
        Metrics.counter(NAMESPACE, name).inc(number)


def measure(**values: float) -> None:
    """Add values, rounded to whole numbers, to the job's distributions."""
    for name, value in values.items():
        Metrics.distribution(NAMESPACE, name).update(round(value))
