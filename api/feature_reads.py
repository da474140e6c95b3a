"""Reads of nodes' features, and their responses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from flask import Response, g

from l2features.core.errors import StoreUnavailable
from l2features.core.ids import Ids
from l2features.query.answers import arrow_stream, arrow_table, json_parts, parquet
from l2features.query.reader import Answer, Reader, Status

from . import metrics
from .error_responses import ApiError
from .missing import MissingIds
from .response_bodies import ARROW, JSON, body_response
from .schemas import AttributesQuery, FeaturesQuery, MissingQuery, is_false, is_true
from .served_datasets import ServedDataset

log = logging.getLogger("l2features.api")


class Read:
    """A request for the features of nodes, with parsed parameters."""

    def __init__(
        self, served: ServedDataset, missing: MissingIds, query: AttributesQuery, mimetype: str
    ) -> None:
        self.served, self.missing, self.query, self.mimetype = served, missing, query, mimetype
        self.with_status = is_true(query.with_status) or mimetype != JSON
        self.reader: Reader = served.opened().reader

    def answer(self, ids: Ids) -> Answer:
        """Return the features of the ids; publish the ids of missing nodes for computation."""
        return self.found(self.reader.read(ids, self.query.names, self.with_status))

    def found(self, answer: Answer) -> Answer:
        """Publish the missing ids of an answer for computation; return the answer."""
        g.ids = len(answer.rows)
        publish(self.served, self.missing, self.query, answer.missing)
        return answer

    def waited(self, answer: Answer) -> Answer:
        """Wait until no id is missing, but ``query.wait`` seconds at most; return the updated answer.

        If the store becomes unavailable, stops waiting and returns ``answer`` unchanged.
        """
        with unless_unavailable(self.served):
            return self.reader.wait(answer, self.query.names, self.query.wait, self.with_status)
        return answer

    def response(self, answer: Answer) -> Response:
        return features_response(self.served, answer, self.query, self.mimetype)


def features_response(served: ServedDataset, answer: Answer, query: FeaturesQuery, mimetype: str) -> Response:
    """Return the features in ``answer`` as an HTTP response of type ``mimetype``.

    Counts the ids by status in the metrics.
    """
    for known in np.flatnonzero(counts := np.bincount(answer.status)).tolist():
        metrics.IDS.labels(served.name, Status(known).name.lower()).inc(int(counts[known]))
    rows, geometry, names = answer.rows, served.opened().reader.geometry, query.names
    if mimetype == JSON:
        status, reasons = (answer.status, answer.reasons) if is_true(query.with_status) else (None, None)
        as_str = is_true(query.int64_as_str)
        parts = json_parts(rows, geometry, names, int64_as_str=as_str, status=status, reasons=reasons)
        return body_response(parts, JSON)
    table = arrow_table(rows, geometry, names, answer.status, answer.reasons)
    return body_response([arrow_stream(table) if mimetype == ARROW else parquet(table)], mimetype)


@contextmanager
def unless_unavailable(served: ServedDataset) -> Iterator[None]:
    """Log and suppress StoreUnavailable in the block: the wait for missing nodes then ends early."""
    try:
        yield
    except StoreUnavailable as error:
        log.warning("wait for missing nodes ended early", extra={"dataset": served.name, "error": str(error)})


def publish(served: ServedDataset, missing: MissingIds, query: MissingQuery, ids: Ids) -> None:
    """Publish missing ids for computation; do nothing if the query has ``update_cache=false``."""
    if not is_false(query.update_cache):
        missing.publish_for(served.entry, ids)


def check_wait(seconds: float, limit: float) -> None:
    """Raise ApiError 422 for a ``wait`` parameter above the limit, both in seconds."""
    if seconds > limit:
        message = f"wait={seconds:g}: expected at most {limit:g} seconds"
        raise ApiError(422, "wait_too_long", message, field="wait", value=f"{seconds:g}", limit=limit)
