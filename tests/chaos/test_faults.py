"""A federation of real processes under faults publishes, bit for bit, what it publishes undisturbed."""

from __future__ import annotations

from collections import Counter

import pytest

from fedbus.testing.chaos.course import SUBJECTS, Lesson
from fedbus.testing.chaos.plan import QUICK, Cast, Fault, Kind, Pace, points_of, role_of
from fedbus.testing.chaos.run import Chaos, Settings

CAST = Cast()
SLOW_S = 80.0
"""Nothing is timed here: how soon a fault is overcome on a machine that does other things is not ours to say."""


async def run(settings, directory, plan=None):
    """Run it; a violation fails with its story."""
    result = await Chaos(settings, directory, print, plan=plan).run()
    assert not result.violations, "\n\n".join([*result.violations, *result.stories])
    assert len(result.digests) == SUBJECTS * settings.lesson.rounds
    assert result.versions == result.rounds == result.sessions * settings.lesson.rounds > len(result.digests)
    assert result.tally.uploads == result.rounds * CAST.clients
    return result


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11])
async def test_faults_at_random_moments(tmp_path, seed):
    """25 faults - kills, standstills, deaths at points, broken lines - change no model, hang no session, and no client
    sends again as it was what was accepted.
    """
    result = await run(Settings(seed=seed, count=25, cast=CAST, pace=QUICK, recovery_s_max=SLOW_S), tmp_path)
    assert len(result.done) + len(result.missed) == 25
    assert len(result.missed) <= 2
    assert {done.fault.kind for done in result.done} == set(Kind)
    assert not result.tally.twice


@pytest.mark.slow
async def test_death_at_each_named_point(tmp_path):
    """Whoever passes a named point first dies there, of every point once: each time the federation goes on, and all
    versions are those of the undisturbed run.
    """
    plan = [Fault(Kind.POINT, role_of(point), 0.0, 0.2, point=point) for point in points_of(CAST)]
    result = await run(Settings(cast=CAST, pace=Pace(), recovery_s_max=SLOW_S), tmp_path, plan)
    died = Counter(done.fault.point for done in result.done)
    assert died == Counter(points_of(CAST))
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
