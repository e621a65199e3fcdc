"""A federation of real processes under faults publishes, bit for bit, what it publishes undisturbed."""

from __future__ import annotations

from collections import Counter

import pytest

from fedbus.testing.chaos.course import SUBJECTS, Lesson
from fedbus.testing.chaos.plan import QUICK, Cast, Fault, Kind, Pace, points_of, role_of
from fedbus.testing.chaos.run import Chaos, Settings

PAIR = Cast(clients=2)
"""Who is there where every point is passed: at a client's all clients die, and each takes a second to start again."""

FAULTS = 16
"""One of each kind, and of points some: all of them are another test's."""

MODEL_BYTES = 2**20
"""Eight chunks, so that a fault falls between two of them."""

SLOW_S = 80.0
"""Nothing is timed here: how soon a fault is overcome on a machine that does other things is not ours to say."""


async def run(settings, directory, plan=None):
    """Run it; a violation fails with its story."""
    result = await Chaos(settings, directory, print, plan=plan).run()
    assert not result.violations, "\n\n".join([*result.violations, *result.stories])
    assert len(result.digests) == SUBJECTS * settings.lesson.rounds
    assert result.versions == result.rounds == result.sessions * settings.lesson.rounds > len(result.digests)
    assert result.tally.uploads == result.rounds * settings.cast.clients
    return result


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11])
async def test_faults_at_random_moments(tmp_path, seed):
    """Faults of every kind - kills, standstills, deaths at points, broken lines - change no model and hang no session,
    and no client sends again as it was what was accepted.
    """
    lesson = Lesson(model_bytes=MODEL_BYTES)
    result = await run(Settings(seed=seed, count=FAULTS, lesson=lesson, pace=QUICK, recovery_s_max=SLOW_S), tmp_path)
    assert len(result.done) + len(result.missed) == FAULTS
    assert len(result.missed) <= 2
    assert {done.fault.kind for done in result.done} == set(Kind)
    assert not result.tally.twice


@pytest.mark.slow
async def test_death_at_each_named_point(tmp_path):
    """Whoever passes a named point first dies there, of every point once: each time the federation goes on, and all
    versions are those of the undisturbed run.
    """
    plan = [Fault(Kind.POINT, role_of(point), 0.0, 0.2, point=point) for point in points_of(PAIR)]
    lesson = Lesson(clients=PAIR.clients, model_bytes=MODEL_BYTES)
    result = await run(Settings(cast=PAIR, lesson=lesson, pace=Pace(), recovery_s_max=SLOW_S), tmp_path, plan)
    died = Counter(done.fault.point for done in result.done)
    assert died == Counter(points_of(PAIR))
    assert sum(result.lives.values()) == len(result.lives) + len(plan) + sum(done.others for done in result.done)


@pytest.mark.slow
async def test_a_secured_federation_overcomes_kills(tmp_path):
    """With credentials, seals and signatures: whoever is killed with -9 - combiner, coordinator, broker, client - comes
    back into the round that is under way, and all versions are those of the undisturbed run.
    """
    cast, lesson = Cast(clients=2, coordinators=1), Lesson(rounds=2, clients=2, model_bytes=2**19)
    victims = ("combiner-1", "coordinator-1", "broker-1", "client-1")
    plan = [Fault(Kind.KILL, victim, 0.1, 0.2) for victim in victims]
    settings = Settings(cast=cast, pace=QUICK, lesson=lesson, recovery_s_max=SLOW_S, secured=True)
    result = await Chaos(settings, tmp_path, print, plan=plan).run()
    assert not result.violations, "\n\n".join([*result.violations, *result.stories])
    assert [done.fault.target for done in result.done] == list(victims)
    assert result.versions == result.rounds > len(result.digests) == SUBJECTS * lesson.rounds
