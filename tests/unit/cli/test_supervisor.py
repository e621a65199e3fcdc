from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

from fedbus.cli.supervisor import PAUSE_S, PAUSE_S_MAX, Supervisor
from fedbus.errors import BrokerFailed
from fedbus.testing.loop import run_virtual


class Mortal:
    """Something that lives for a while."""

    def __init__(self, pid, life_s):
        self.pid, self.life_s, self.stopped = pid, life_s, 0

    async def wait(self):
        await asyncio.sleep(self.life_s)
        return "old age"

    async def stop(self):
        self.stopped += 1


def keep(lives, run_s, changed=lambda: None):
    """Keep mortals with these lives (None: no start) for a while; return the supervisor, births, mortals."""
    births, mortals, left = [], [], iter(lives)

    async def start():
        births.append(asyncio.get_running_loop().time())
        life_s = next(left)
        if life_s is None:
            raise BrokerFailed("no room")
        mortals.append(Mortal(len(births), life_s))
        return mortals[-1]

    async def main():
        supervisor = Supervisor(changed)
        keeping = asyncio.create_task(supervisor.keep("it", start))
        await asyncio.sleep(run_s)
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        return supervisor

    return run_virtual(main()), births, mortals


def test_who_ends_is_started_again_and_the_pid_is_told():
    """A new life has a new pid, `changed` hears of each, and all are stopped in the end."""
    changes = []
    supervisor, births, mortals = keep([1.0, 100.0], 10.0, lambda: changes.append(1))
    assert births == [0.0, 1.0 + PAUSE_S]
    assert supervisor.pids == {"it": 2}
    assert len(changes) == 2
    assert [mortal.stopped for mortal in mortals] == [1, 1]
    assert supervisor.ends == {"it": "old age"}


def test_the_pause_doubles_up_to_its_bound():
    """Short lives, and starts that fail, wait longer and longer, never longer than the bound."""
    _, births, _ = keep([0.0, None] * 10, 100.0)
    pauses = [b - a for a, b in itertools.pairwise(births)]
    assert pauses[0] == PAUSE_S
    assert all(abs(b - min(2 * a, PAUSE_S_MAX)) < 1e-6 for a, b in itertools.pairwise(pauses))
    assert max(pauses) <= PAUSE_S_MAX + 1e-6


def test_a_long_life_makes_good():
    """After a long life the pause begins anew."""
    _, births, _ = keep([0.0, 0.0, 0.0, 60.0, 1000.0], 200.0)
    assert abs(births[4] - births[3] - 60.0 - PAUSE_S) < 1e-6
