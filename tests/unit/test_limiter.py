"""Tests of a process's concurrency limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager

import pytest

from api.error_responses import ApiError
from api.limiter import Limiter


def limiter(
    max_requests: int = 4, share: int = 3, max_ids: int = 100, timeout_s: float = 0.05, queued: int = 0
) -> Limiter:
    return Limiter(max_requests, share, max_ids, timeout_s, 2, queued)


def test_one_request_too_many_is_refused_at_once() -> None:
    reads = limiter(max_requests=2)
    with reads.request("a"):
        with reads.request("b"), pytest.raises(ApiError) as refused, reads.request("c"):
            pass
        assert (refused.value.status, refused.value.retry_after) == (429, 2)
        assert refused.value.body.code == "too_many_requests"
        with reads.request("c"), pytest.raises(ApiError), reads.request("c"):
            pass


def test_requests_wait_in_the_queue_for_their_permits() -> None:
    reads, begun = limiter(max_requests=1, share=1, timeout_s=10, queued=1), time.monotonic()
    with ExitStack() as first:
        first.enter_context(reads.request("a"))
        threading.Timer(0.1, first.pop_all().close).start()
        with reads.request("a"):
            assert time.monotonic() - begun > 0.09


@contextmanager
def waiting(reads: Limiter, dataset: str) -> Iterator[Future[None]]:
    """Fill a queue of one place: one of two requests waits, and the other is refused at once.

    Yields the waiting request, which gets its permit at the end of the block.
    """

    def read() -> None:
        with reads.request(dataset):
            pass

    with ThreadPoolExecutor(2) as pool:
        with reads.request(dataset):
            both = {pool.submit(read) for _ in range(2)}
            refused = next(as_completed(both, timeout=10))
            assert isinstance(refused.exception(), ApiError)
            (left,) = both - {refused}
            yield left
        assert left.result() is None


def test_a_request_is_refused_at_once_if_the_queue_is_full() -> None:
    with waiting(limiter(max_requests=1, share=1, timeout_s=30, queued=1), "a") as left:
        assert not left.done()


def test_a_request_leaves_the_queue_after_the_time_out() -> None:
    reads = limiter(max_requests=1, share=1, queued=1)
    for _ in range(2):
        with reads.request("a"):
            begun = time.monotonic()
            with pytest.raises(ApiError) as refused, reads.request("a"):
                pass
            assert time.monotonic() - begun > 0.04
        assert (refused.value.status, refused.value.body.code) == (429, "too_many_requests")


def test_one_data_set_leaves_room_in_the_queue_for_others() -> None:
    reads = limiter(max_requests=2, share=1, timeout_s=30, queued=1)
    with waiting(reads, "hanging") as left, reads.request("healthy"):
        assert not left.done()


def test_one_data_set_leaves_room_for_others() -> None:
    reads = limiter()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(reads.request("hanging"))
        with pytest.raises(ApiError):
            stack.enter_context(reads.request("hanging"))
        stack.enter_context(reads.request("healthy"))


def test_a_failed_request_returns_its_permits() -> None:
    reads = limiter(max_requests=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="failed"), reads.request("a"), reads.ids(100):
            raise ValueError("failed")


def test_ids_wait_for_their_permits() -> None:
    reads, begun = limiter(timeout_s=10), time.monotonic()
    with ExitStack() as first:
        first.enter_context(reads.ids(80))
        threading.Timer(0.1, first.pop_all().close).start()
        with reads.ids(30):
            assert time.monotonic() - begun > 0.09
            with reads.ids(70):
                pass


def test_ids_whose_permits_do_not_come() -> None:
    reads = limiter()
    with reads.ids(80), pytest.raises(ApiError) as refused, reads.ids(30):
        pass
    assert (refused.value.status, refused.value.body.code) == (429, "too_many_ids")
    with reads.ids(100):
        pass


def test_more_ids_than_the_limit_run_alone() -> None:
    reads = limiter()
    with reads.ids(1000), pytest.raises(ApiError), reads.ids(1):
        pass
    with reads.ids(1):
        pass
