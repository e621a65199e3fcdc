"""Whole federations from a seed: crashes, losses, repetitions, reordering; and what must hold all the same."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from fedbus.bus.memory import Faults
from fedbus.crash import Point
from fedbus.testing.misfortune import FOR_EVER
from fedbus.testing.plan import LATE, ROGUES, SHARDINGS, STRANGERS, Plan
from fedbus.testing.ways import WAYS
from fedbus.testing.world import simulate

WORLDS = 2000
BATCH = 20
"""Some ten seconds: what a worker still has to do when the others have nothing left is no longer than one test."""

COUNTED = 40
"""The first worlds: what happens in them is counted as well, so that they are lived through in a test of their own."""


@pytest.mark.parametrize("first", range(COUNTED, WORLDS, BATCH))
def test_no_update_is_lost_none_counts_twice_and_every_round_ends(first):
    """Worlds drawn from seeds end with the exact sum of the updates, whoever is killed and whatever is lost.

    A failure names its seed: `fedbus.testing.world.simulate(seed)` lives through the same story again.
    """
    for seed in range(first, first + BATCH):
        simulate(seed)


def test_worlds_are_as_harsh_as_they_claim():
    """Many of the worlds see crashes, deaths at named points, restarts of the broker, cut links, and refusals.

    And in the first of them, which are not among those above, what must hold above does.
    """
    plans = [Plan.draw(seed) for seed in range(100)]
    assert sum(bool(plan.deaths) for plan in plans) > 20
    for kind, least in {"kill": 50, "restart": 20, "cut": 30, "freeze": 30, "slow-disk": 10}.items():
        assert sum(any(one.kind == kind for one in plan.misfortunes) for plan in plans) > least, kind
    assert sum(any(one.for_s == FOR_EVER for one in plan.misfortunes) for plan in plans) >= 5
    assert sum(plan.skew_s > 60 for plan in plans) > 10
    assert sum(bool(plan.faults.corruption) for plan in plans) > 20
    assert sum(bool(plan.bad_clients) for plan in plans) > 10
    assert sum(plan.combiners > 1 for plan in plans) > 50
    reports = [simulate(seed, plans[seed]) for seed in range(COUNTED)]
    assert sum(report.crashes for report in reports) > 60
    assert sum(report.counted for report in reports) > 120
    assert sum(report.stale for report in reports) > 4


def test_worlds_are_full_of_people_who_break_the_protocol():
    """Over the worlds above every kind of rogue and of stranger is met often, and two sessions at once."""
    plans = [Plan.draw(seed) for seed in range(WORLDS)]
    for kind in ROGUES:
        assert sum(kind in plan.rogues for plan in plans) > 50, kind
    for kind in STRANGERS:
        assert sum(kind in plan.strangers for plan in plans) > 100, kind
    assert sum(plan.sessions > 1 for plan in plans) > 100
    assert sum(plan.fickle for plan in plans) > 300
    assert sum(plan.coordinators > 1 for plan in plans) > 500
    assert sum(any(one.kind == "wipe" for one in plan.misfortunes) for plan in plans) > 30
    for late in LATE:
        assert sum(plan.late_updates == late for plan in plans) > 50, late
    assert sum(plan.spools_kept for plan in plans) > 500 and sum(plan.states_kept for plan in plans) > 500


def test_worlds_learn_in_every_way():
    """Over the worlds above every strategy is met often, nearly half of them have the mean of whole models."""
    plans = [Plan.draw(seed) for seed in range(WORLDS)]
    plain = [plan for plan in plans if (plan.strategy, plan.codec) == ("fedavg", "none")]
    assert 0.4 * WORLDS < len(plain) < 0.6 * WORLDS
    for way in WAYS:
        of = [plan for plan in plans if plan.strategy == way.strategy]
        assert len(of) > 40, way
        for codec in way.codecs:
            assert sum(plan.codec == codec for plan in of) > 5, (way, codec)
        assert sum(plan.combiners > 1 for plan in of) > 20, way


def test_worlds_are_laid_out_in_every_way():
    """Over the worlds above every way to share the work out is met often, with every other."""
    plans = [Plan.draw(seed) for seed in range(WORLDS)]
    for sharding in SHARDINGS:
        of = [plan for plan in plans if plan.sharding == sharding]
        assert sum(plan.combiners == 4 and bool(plan.crowds) for plan in of) > 50
        assert sum(len(plan.crowds) > 1 for plan in of) > 100
        assert sum(len(set(plan.combiner_regions)) > 1 for plan in of) > 200
    # strategies that have to see every update at one place cannot keep them in their regions
    assert sum(plan.residency == "require" for plan in plans) > 150
    assert sum(plan.residency == "require" and len(set(plan.combiner_regions)) > 2 for plan in plans) > 50


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


@pytest.mark.parametrize("seed", range(20))
def test_every_layout_gives_the_same_models(seed):
    """One to four combiners in any regions, clients or chunks shared out, alone or in crowds, small updates and large.

    The digest is that of one combiner, in calm and in harsh weather.
    """
    rng = random.Random(seed)
    sizes = {"values": rng.choice([0, 7, 90]), "chunk_bytes": rng.choice([16, 64, 512 * 1024])}
    calm = Plan(seed, clients=rng.randint(2, 6), rounds=2, sessions=rng.choice([1, 1, 2]), **sizes)
    expected = simulate(seed, calm).digests
    for _ in range(5):
        assert simulate(seed, calm.laid_out(rng)).digests == expected
    faults = Faults(loss=0.1, repetition=0.1, reordering=0.1, delay_s=(0.01, 0.1))
    harsh = replace(calm, faults=faults).laid_out(rng).struck(rng, kill=4, cut=2, freeze=1)
    assert simulate(seed, harsh).digests == expected


LAYOUTS = {
    "alone": {"combiners": 1},
    "clients": {"combiners": 3},
    "chunks": {"combiners": 3, "sharding": "chunks"},
    "tiers": {
        "combiners": 3,
        "combiner_regions": ("", "eu", "eu/north"),
        "client_regions": ("eu/north", "eu", "us", ""),
    },
    "crowds": {"combiners": 3, "crowds": (3, 1)},
}
"""Each way to share the work out, for four clients."""

SENDS_PARTIALS = {"clients", "tiers", "crowds"}


@pytest.fixture(scope="module")
def undisturbed():
    """The digest of the world below when nobody dies."""
    return simulate(11, Plan(11, clients=4, rounds=2)).digest


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("point", list(Point))
def test_a_death_at_any_border_between_two_writes_changes_nothing(point, nth, layout, undisturbed):
    """Killed at a named point of the order of writes and born again, a role leaves the digest as it would be."""
    kept = point is Point.UPDATE_SAVED
    plan = Plan(11, clients=4, rounds=2, deaths=((point, nth),), states_kept=kept, **LAYOUTS[layout])
    disturbed = simulate(11, plan)
    assert disturbed.digest == undisturbed
    if layout in SENDS_PARTIALS or point not in (Point.PARTIAL_MADE, Point.PARTIAL_SENT):
        possible = nth <= 2 or point not in (Point.MODEL_CHUNKS_STORED, Point.MODEL_STORED)
        assert disturbed.crashes == int(possible), "nobody passed this point: the test proves nothing"


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_parts_of_two_updates_are_never_made_into_one(nth):
    """A client dies when some combiners have their part, and trains another update of the same weight in its next life.

    What counts is one update or the other, whole; or none, and the round is opened again.
    """
    faults = Faults(loss=0.1, delay_s=(0.01, 0.1))
    plan = Plan(0, clients=2, combiners=3, rounds=1, values=30, sharding="chunks", fickle=True, faults=faults)
    for seed in range(8):
        simulate(seed, replace(plan, seed=seed, deaths=((Point.UPDATE_SENT, nth),)))
