"""Tests of `RecentIds`: ids are remembered for a fixed interval, by table, and up to a capacity."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from api.recent import RecentIds
from l2features.core.ids import as_ids

INTERVAL = 60.0
STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sets(st.integers((1 << 64) - 12, (1 << 64) - 1), min_size=1),
        st.sampled_from([0.0, 0.5, 29.5, 59.5, 60.0]),
        st.booleans(),
    ),
    max_size=20,
)


@given(STEPS)
def test_like_a_list_of_times(steps: list[tuple[str, set[int], float, bool]]) -> None:
    """Compare `RecentIds` with a dictionary of the time at which each id was added."""
    recent, now = RecentIds(INTERVAL), 0.0
    added: dict[tuple[str, int], float] = {}
    for table, wanted, pause, forget in steps:
        now += pause
        expected = [i for i in sorted(wanted) if now - added.get((table, i), -INTERVAL) >= INTERVAL]
        unknown = recent.unknown(table, as_ids(sorted(wanted)), now)
        assert unknown.tolist() == expected
        recent.add(table, unknown, now)
        added |= {(table, i): now for i in expected}
        if forget:
            recent.forget(table, unknown, now)
            for i in expected:
                del added[table, i]


@given(STEPS, st.sampled_from([1, 7]))
def test_beyond_the_capacity_only_recent_ids_are_known(
    steps: list[tuple[str, set[int], float, bool]], capacity: int
) -> None:
    recent, now = RecentIds(INTERVAL, capacity), 0.0
    added: dict[tuple[str, int], float] = {}
    for table, wanted, pause, _ in steps:
        now += pause
        unknown = recent.unknown(table, as_ids(sorted(wanted)), now)
        known = wanted - set(unknown.tolist())
        assert all(now - added[table, i] < INTERVAL for i in known)
        recent.add(table, unknown, now)
        added |= {(table, i): now for i in unknown.tolist()}
        assert recent.size <= capacity
        newest = unknown[-capacity:]
        assert not len(recent.unknown(table, newest, now))


def test_ids_added_again_are_not_forgotten() -> None:
    recent, ids = RecentIds(INTERVAL), as_ids([1, 2])
    recent.add("a", ids, 0.0)
    recent.add("a", recent.unknown("a", ids, INTERVAL), INTERVAL)
    recent.forget("a", ids, 0.0)
    assert not len(recent.unknown("a", ids, INTERVAL))


def test_memory_is_bounded() -> None:
    recent = RecentIds(INTERVAL, capacity=10_000)
    rng = np.random.default_rng(0)
    for step in range(2_000):
        ids = np.unique(rng.integers(0, 1 << 63, size=rng.choice([1, 3, 1000]), dtype=np.uint64))
        recent.add(step % 2, recent.unknown(step % 2, ids, step / 100), step / 100)
        assert recent.size <= 10_000
    assert recent.size > 5_000


def test_nothing_is_kept_of_the_past() -> None:
    recent = RecentIds(INTERVAL)
    ids = np.arange(1000, dtype=np.uint64)
    recent.add("a", ids, 0.0)
    assert len(recent.unknown("b", ids, INTERVAL)) == 1000
    assert recent.size == 0
