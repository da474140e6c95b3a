"""How much a process works on at the same time."""

from __future__ import annotations

import threading

import pytest

from api.errors import ApiError
from api.gate import Gate


def gate(max_requests: int = 4, share: int = 3, max_ids: int = 100, timeout_s: float = 0.05) -> Gate:
    return Gate(max_requests, share, max_ids, timeout_s, retry_after_s=2)


def test_a_request_too_many_is_turned_away_at_once() -> None:
    reads = gate(max_requests=2)
    turns = [reads.enter("a"), reads.enter("b")]
    with pytest.raises(ApiError) as refused:
        reads.enter("c")
    assert (refused.value.status, refused.value.retry_after) == (429, 2)
    assert refused.value.body.code == "too_many_requests"
    turns[0].leave()
    turns[0].leave()
    reads.enter("c")
    with pytest.raises(ApiError):
        reads.enter("c")


def test_one_data_set_leaves_room_for_others() -> None:
    reads = gate()
    for _ in range(3):
        reads.enter("hanging")
    with pytest.raises(ApiError):
        reads.enter("hanging")
    reads.enter("healthy")


def test_ids_wait_for_their_turn() -> None:
    reads = gate(timeout_s=10)
    first, second = reads.enter("a"), reads.enter("a")
    first.take(80)
    threading.Timer(0.1, first.leave).start()
    second.take(30)
    third = reads.enter("a")
    third.take(70)


def test_ids_whose_turn_does_not_come() -> None:
    reads = gate()
    reads.enter("a").take(80)
    with pytest.raises(ApiError) as refused:
        reads.enter("b").take(30)
    assert (refused.value.status, refused.value.body.code) == (429, "too_many_ids")


def test_more_ids_than_the_limit_have_their_turn_alone() -> None:
    reads = gate()
    big = reads.enter("a")
    big.take(1000)
    with pytest.raises(ApiError):
        reads.enter("b").take(1)
    big.leave()
    reads.enter("b").take(1)


def test_a_request_that_rests_lets_others_work() -> None:
    reads = gate()
    waiting, other = reads.enter("a"), reads.enter("b")
    waiting.take(80)
    with waiting.resting():
        other.take(90)
        other.leave()
    with pytest.raises(ApiError):
        reads.enter("c").take(30)
    waiting.leave()
    reads.enter("c").take(100)
