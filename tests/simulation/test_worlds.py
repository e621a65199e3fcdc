"""Whole federations from a seed: crashes, losses, repetitions, reordering; and what must hold all the same."""

from __future__ import annotations

import pytest

from fedbus.crash import Point
from fedbus.testing.plan import ROGUES, STRANGERS, Plan
from fedbus.testing.world import simulate

WORLDS = 2000
BATCH = 50


@pytest.mark.parametrize("first", range(0, WORLDS, BATCH))
def test_no_update_is_lost_none_counts_twice_and_every_round_ends(first):
    """Worlds drawn from seeds end with the exact sum of the updates, whoever is killed and whatever is lost.

    A failure names its seed: `fedbus.testing.world.simulate(seed)` lives through the same story again.
    """
    for seed in range(first, first + BATCH):
        simulate(seed)


def test_worlds_are_as_harsh_as_they_claim():
    """Many of the worlds above see crashes, deaths at named points, restarts of the broker, cut links, and refusals."""
    reports = [simulate(seed) for seed in range(100)]
    assert sum(report.crashes for report in reports) > 150
    assert sum(bool(report.plan.deaths) for report in reports) > 20
    assert sum(bool(report.plan.broker_restarts) for report in reports) > 20
    assert sum(bool(report.plan.bad_clients) for report in reports) > 10
    assert sum(bool(report.plan.partitions) for report in reports) > 30
    assert sum(report.plan.combiners > 1 for report in reports) > 50
    assert sum(report.counted for report in reports) > 300


def test_worlds_are_full_of_people_who_break_the_protocol():
    """Over the worlds above every kind of rogue and of stranger is met often, and two sessions at once."""
    plans = [Plan.draw(seed) for seed in range(WORLDS)]
    for kind in ROGUES:
        assert sum(kind in plan.rogues for plan in plans) > 50, kind
    for kind in STRANGERS:
        assert sum(kind in plan.strangers for plan in plans) > 100, kind
    assert sum(plan.sessions > 1 for plan in plans) > 100


@pytest.mark.parametrize("kind", ROGUES)
def test_who_breaks_the_protocol_harms_nobody_else(kind):
    """A rogue of each kind, and a stranger of each: what the others send counts, exactly, in every round."""
    for seed in range(3):
        chunk_bytes = 16 if seed else 512 * 1024
        plan = Plan(seed, clients=2, combiners=1 + seed, rogues=(kind,), strangers=STRANGERS, chunk_bytes=chunk_bytes)
        report = simulate(seed, plan)
        assert report.rounds == plan.rounds and report.counted >= plan.rounds * plan.clients


@pytest.mark.parametrize("seed", [3, 50, 73, 150])
def test_one_seed_makes_one_world(seed):
    """The same seed tells the same story to the same digest."""
    first, second = simulate(seed), simulate(seed)
    assert first.story == second.story
    assert first.digest == second.digest
    assert first.virtual_s == second.virtual_s


@pytest.mark.parametrize("combiners", [1, 2, 4])
def test_the_digest_does_not_depend_on_the_number_of_combiners(combiners):
    """One, two or four combiners, in harsh weather or calm: the same bits."""
    calm = simulate(5, Plan(5, clients=5, combiners=1, rounds=3))
    assert simulate(5, Plan(5, clients=5, combiners=combiners, rounds=3)).digest == calm.digest


@pytest.mark.parametrize("combiners", [1, 3])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("point", list(Point))
def test_a_death_at_any_border_between_two_writes_changes_nothing(point, nth, combiners):
    """Killed at a named point of the order of writes and born again, a role leaves the digest as it would be."""
    calm = simulate(11, Plan(11, clients=4, combiners=combiners, rounds=2))
    plan = Plan(11, clients=4, combiners=combiners, rounds=2, deaths=((point, nth),))
    disturbed = simulate(11, plan)
    assert disturbed.digest == calm.digest
    if combiners > 1 or point not in (Point.PARTIAL_MADE, Point.PARTIAL_SENT):
        possible = nth <= 2 or point not in (Point.MODEL_CHUNKS_STORED, Point.MODEL_STORED)
        assert disturbed.crashes == int(possible), "nobody passed this point: the test proves nothing"
