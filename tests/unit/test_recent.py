"""Which ids were published lately: exact to the interval, bounded, by table."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
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
    max_size=40,
)


@given(STEPS, st.sampled_from([1, 7, 1000]))
@settings(max_examples=200, deadline=None)
def test_as_a_list_of_times(steps: list[tuple[str, set[int], float, bool]], capacity: int) -> None:
    """Against the plain thing: what was added, in order, with its time."""
    recent, now = RecentIds(INTERVAL, capacity), 0.0
    added: list[tuple[str, int, float]] = []
    for table, wanted, pause, forget in steps:
        now += pause
        ids = as_ids(sorted(wanted))
        counts = {(t, i) for t, i, then in added[-capacity:] if now - then < INTERVAL}
        expected = [i for i in sorted(wanted) if (table, i) not in counts]
        unknown = recent.unknown(table, ids, now)
        assert unknown.tolist() == expected
        numbers = recent.add(table, unknown, now)
        added += [(table, i, now) for i in expected]
        if forget:
            recent.forget(table, unknown, numbers)
            added[len(added) - len(expected) :] = [("", 0, now)] * len(expected)


def test_memory_is_bounded() -> None:
    """Two tables and many small and large calls leave no more than two words of each id of the capacity."""
    capacity = 10_000
    recent = RecentIds(INTERVAL, capacity)
    rng = np.random.default_rng(0)
    for step in range(2_000):
        ids = np.unique(rng.integers(0, 1 << 63, size=rng.choice([1, 3, 1000]), dtype=np.uint64))
        recent.add(step % 2, recent.unknown(step % 2, ids, 0.0), 0.0)
    assert recent.nbytes <= 2 * (capacity + 1000) * 16


def test_nothing_is_kept_of_the_past() -> None:
    recent = RecentIds(INTERVAL)
    ids = np.arange(1000, dtype=np.uint64)
    recent.add("a", ids, 0.0)
    assert len(recent.unknown("b", ids, INTERVAL)) == 1000
    assert recent.nbytes == 0
