"""Selection: a function of names and a seed, of nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedbus.coordinator.selection import draw, select

names = st.sets(st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True), min_size=1, max_size=30)


def test_a_draw_is_the_same_for_ever():
    """These numbers are what clients see as their seed: a release that changes them changes every result."""
    assert draw(0, "task", 1, "a") == 1168574049262589
    assert draw(1, "task", 1, "a") != draw(0, "task", 1, "a") != draw(0, "task", 2, "a")
    assert all(0 <= draw(0, i) < 2**53 for i in range(1000))


@given(names, st.integers(1, 40) | st.none(), st.floats(1, 10), st.integers(0, 2**63 - 1), st.randoms())
def test_select(clients, count, oversample, seed, rng):
    """As many as asked for, of those who are there, whatever their order."""
    chosen, target = select(clients, count, oversample, seed, 1)
    mixed = list(clients)
    rng.shuffle(mixed)
    assert (chosen, target) == select(mixed, count, oversample, seed, 1)
    assert set(chosen) <= clients and len(set(chosen)) == len(chosen) and chosen == sorted(chosen)
    assert 1 <= target <= len(chosen) <= len(clients)


def test_everybody_is_chosen_about_as_often():
    """1,000 rounds of 5 of 20: each some 250 times, within five standard deviations (14)."""
    clients = [f"c{i}" for i in range(20)]
    chosen = [name for round_ in range(1000) for name in select(clients, 5, 1.0, 7, round_)[0]]
    assert all(180 < chosen.count(name) < 320 for name in clients)
