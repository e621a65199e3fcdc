"""Roles do not grow with the rounds that they have lived through: what they hold is counted, object by object."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import sys
import types
from contextlib import suppress

import pytest

from fedbus.bus.memory import Faults, MemoryBroker
from fedbus.bus.memory.link import Link
from fedbus.bus.memory.stream import MemoryStream
from fedbus.coordinator.copies import Copies
from fedbus.store.spool import Directory
from fedbus.testing.loop import run_virtual
from fedbus.testing.plan import Plan
from fedbus.testing.world import World

ROUNDS = 200
WINDOWS = 8
"""In each window of rounds the least that was seen is what counts: in the midst of a round a role holds more."""

NOT_HELD = (
    asyncio.AbstractEventLoop,
    MemoryBroker,
    MemoryStream,
    Link,
    World,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.TracebackType,
    functools._lru_cache_wrapper,
)
"""What is reached from a role and is not its own: code, the line and what is on it, the rest of the world."""


def held_by(task):
    """Count what is reached from a role's task: (objects, bytes): frames, the role, its queues, its mailboxes."""
    seen, stack, count, size = {id(task)}, [task], 0, 0
    while stack:
        thing = stack.pop()
        count, size = count + 1, size + sys.getsizeof(thing)
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, NOT_HELD):
                seen.add(id(other))
                stack.append(other)
    return count, size


class Watched(World):
    """A world that is looked at ten times a virtual second."""

    async def _watch(self):
        looking = asyncio.create_task(self._look())
        try:
            await super()._watch()
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look(self):
        while True:
            await asyncio.sleep(0.1)
            machine = self.coordinators[-1].machines.get("world")
            self.look(machine.state.rounds_closed if machine else 0)


class Counted(Watched):
    """Counts what roles hold; ``least``: role -> window -> the least that was seen. ``leaking``: a role that leaks."""

    def __init__(self, plan, leaking=None):
        super().__init__(plan)
        self.leaking = leaking
        self.least = {}

    def look(self, closed):
        """Count what each role holds now."""
        if self.leaking is not None:
            leak = self.living[self.leaking].__dict__.setdefault("leak", {})
            leak.setdefault(closed, [closed])
        window = closed * WINDOWS // self.plan.rounds
        for name, role in self.roles.items():
            known = self.least.setdefault(name, {})
            found = held_by(role.task)
            known[window] = min(known.get(window, found), found)


def counted(rounds, leaking=None):
    """Live through a world; returns what each role held, by window.

    But for the coordinator's copy of the journal, which grows with it up to a bound of its own (test_inbox).
    """
    plan = Plan(1, clients=2, combiners=2, rounds=rounds, values=4, chunk_bytes=64, slow_s=0.2)
    world = Counted(plan, leaking)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copies, "keep", lambda *_: None)
        run_virtual(world.run())
    return {name: [windows[window] for window in range(WINDOWS)] for name, windows in world.least.items()}


def growth(windows, rounds):
    """Return by how many (objects, bytes) a role grew a round, from the second window to the last."""
    (objects, size), (more, larger) = windows[1], windows[-1]
    between = rounds * (WINDOWS - 2) / WINDOWS
    return (more - objects) / between, (larger - size) / between


@pytest.fixture(scope="module")
def held():
    """What each role of a world held over 200 rounds."""
    return counted(ROUNDS)


@pytest.mark.parametrize("role", ["coordinator", "k0", "k1", "c-0", "c-1"])
def test_no_role_grows_with_its_rounds(held, role):
    """From the 25th of 200 rounds to the last neither objects nor bytes grow by more than a tenth of one a round."""
    assert min(objects for objects, _ in held[role]) > 300, "what a role holds was not reached: nothing is proved"
    objects, size = growth(held[role], ROUNDS)
    assert objects < 0.1 and size < 20, held[role]


def test_a_leak_of_one_object_a_round_is_found():
    """The test above can fail: a combiner that keeps one small list for each round is seen to grow."""
    rounds = 48
    held = counted(rounds, leaking="k1")
    assert growth(held["k1"], rounds)[0] > 0.8
    assert growth(held["k0"], rounds)[0] < 0.5


class Spooled(Watched):
    """A world whose combiners spool to files; ``longest``: round -> the most bytes that were seen there."""

    def __init__(self, plan, directory):
        super().__init__(plan)
        self.directory = directory
        self.longest = {}

    def spool(self, combiner, session):
        """A directory for each session of each combiner."""
        return Directory(self.directory / combiner)

    def look(self, closed):
        """Look how long the logs are; their indexes have some 200 bytes for each update, as much as these updates."""
        sizes = sum(path.stat().st_size for path in self.directory.rglob("log"))
        self.longest[closed] = max(self.longest.get(closed, 0), sizes)


def test_the_spool_does_not_grow_with_its_rounds(tmp_path):
    """Fifty rounds, with updates cut off, moved and undone on the way, need no more room on disk than the first ten."""
    plan = Plan(2, clients=4, combiners=2, rounds=50, values=90, chunk_bytes=64, slow_s=0.5, rogues=("greedy",))
    plan = plan.struck(random.Random(2), kill=6)
    world = Spooled(plan, tmp_path)
    run_virtual(world.run())
    updates = (plan.clients + 1) * (4 * plan.values + 16)
    assert max(world.longest.values()) > 0.5 * updates, "nothing was spooled: the test proves nothing"
    assert max(world.longest[round_] for round_ in range(10, 50)) <= 2 * updates


class Peaked(Spooled):
    """A world that looks what its combiner holds in memory; ``peak``: the most bytes that were seen."""

    peak = 0

    def look(self, closed):
        """Weigh the combiner."""
        self.peak = max(self.peak, held_by(self.roles["k0"].task)[1])


def peak_of(clients, directory):
    """Return the most bytes that a combiner held in a round of so many clients, and the model's."""
    slowly = Faults(delay_s=(0.02, 0.03))
    plan = Plan(3, clients=clients, rounds=1, faults=slowly, values=20_000, chunk_bytes=512, evaluate=False)
    world = Peaked(plan, directory)
    assert run_virtual(world.run()).counted == clients
    return world.peak, 4 * plan.values


def test_a_combiner_holds_no_updates(tmp_path):
    """Ten more clients cost a combiner less than one update more (windows): what it holds is the sum."""
    few, model = peak_of(2, tmp_path / "few")
    many, _ = peak_of(12, tmp_path / "many")
    assert few > 2 * model, "the sum was not seen: the test proves nothing"
    assert many - few < model, (few, many)
