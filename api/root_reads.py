"""Reads of roots: concurrency limits, publishing of missing nodes, and waits until these are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from flask import Response, g

from l2features.core.ids import Ids, as_ids
from l2features.core.schema import SIZE
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.root_summaries import RootError, RootStatus

from .error_responses import ApiError
from .feature_reads import check_wait, publish, unless_unavailable
from .long_reads import LongReads
from .schemas import MissingQuery
from .served_datasets import ServedDataset
from .service import AppResources

CODES = {
    RootStatus.UNKNOWN: (404, "unknown_root"),
    RootStatus.NOT_A_ROOT: (404, "not_a_root"),
    RootStatus.TOO_LARGE: (413, "too_many_nodes"),
}
"""HTTP status and error code of the response, by the status of a root whose nodes cannot be returned."""


class RootAnswer(NamedTuple):
    """The result of a read: ids of nodes without features, and a function that makes the response."""

    missing: Ids
    respond: Callable[[], Response]


ReadRoots = Callable[[NeuronReader, Ids], RootAnswer]
ReadKept = Callable[[NeuronReader], RootAnswer | None]


class RootReads:
    """Reads roots with separate concurrency limits, so that a slow graph delays only reads of roots.

    If at most n reads may run at a time, up to n * ``queued`` more may wait for a permit.
    """

    def __init__(self, service: AppResources, queued: int = 0) -> None:
        self.settings, self.missing, self.waits = service.settings, service.missing, service.waits
        self.long = LongReads(service.settings, len(service.datasets.all()), queued)

    def answer(
        self,
        served: ServedDataset,
        query: MissingQuery,
        read: ReadRoots,
        root: int | None = None,
        kept: ReadKept = lambda _: None,
    ) -> Response:
        """Return the response to a read of several roots, or of the nodes of one ``root``.

        ``kept`` returns a stored result or None. If it returns None, ``read`` is called for the result.
        ``read`` receives the L2 ids of ``root``; if ``root`` is None, it receives no ids. Ids of missing
        nodes are published for computation. With ``query.wait``, waits for these nodes, then calls ``read``
        again. Raises ApiError.
        """
        check_wait(query.wait, self.settings.max_wait_s)
        with self._found(served, read, root, kept) as found:
            publish(served, self.missing, query, found.missing)
            if not (query.wait and len(found.missing)):
                return found.respond()
        with self.waits.request(served.name):
            _wait(served, found.missing, query.wait)
        with self._found(served, read, root) as found:
            return found.respond()

    @contextmanager
    def _found(
        self, served: ServedDataset, read: ReadRoots, root: int | None, kept: ReadKept = lambda _: None
    ) -> Iterator[RootAnswer]:
        """Yield the result of ``kept`` or, if that is None, of ``read``; hold permits until the block ends.

        Raises ApiError 404 or 413 for a root whose nodes cannot be returned, 429 at a concurrency limit, and
        503 at the deadline.
        """
        with self.long.request(served.name) as long, ExitStack() as permits:
            try:
                if found := long.run(lambda: kept(served.neurons())):
                    yield found
                    return
                neurons, ids = served.neurons(), as_ids([])
                if root is not None:
                    ids = long.run(lambda: neurons.l2_ids(root))
                    g.ids = len(ids)
                    permits.enter_context(self.long.limiter.ids(g.ids))
                found = long.run(lambda: read(neurons, ids))
            except RootError as error:
                raise refused(error, self.settings.max_root_nodes) from error
            yield found


def refused(error: RootError, most_nodes: int | None) -> ApiError:
    """Return the error for a root whose nodes cannot be returned; ``most_nodes`` is the limit."""
    status, code = CODES[error.status]
    large = error.status == RootStatus.TOO_LARGE
    value, limit = (error.size, most_nodes) if large else (error.root, None)
    return ApiError(status, code, str(error), field="root_id", value=value, limit=limit)


def _wait(served: ServedDataset, ids: Ids, seconds: float) -> None:
    """Wait until the features of these ids are computed, the time is up, or the store is unavailable."""
    reader = served.opened().reader
    with unless_unavailable(served):
        reader.wait(reader.read(ids, [SIZE]), [SIZE], seconds)
