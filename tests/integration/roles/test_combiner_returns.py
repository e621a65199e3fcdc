"""Combiners as processes that are killed with -9 and come back: the same model, and what was whole is sent once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter

import numpy as np
import pytest

import fedbus
from fedbus.bus.nats import connect
from fedbus.messages import records
from fedbus.messages.envelope import decode
from fedbus.messages.subjects import Subjects
from fedbus.messages.uploads import UploadState
from fedbus.tensors import Manifest

CLIENTS = 4
MODEL = {"w": np.zeros((1024, 1280), np.float32), "b": np.zeros(10, np.float64)}
"""5 MB: eleven chunks, more than a window."""
CHUNKS = Manifest.of(MODEL).layout.count
CONFIG = {"rounds": 2, "clients_min": CLIENTS, "evaluate_every": 0, "seed": 3}
OURS = Subjects("default")


class Wire:
    """What crosses the broker, in its order: chunks of clients, verdicts, and chunks of new models.

    ``sent`` and ``late`` count chunks by (combiner, client, round, index), those that were sent and those that came
    when their combiner had accepted that update; ``accepted``: (combiner, client, round).
    """

    def __init__(self):
        self.sent = Counter()
        self.late = Counter()
        self.accepted = set()
        self.stored = 0
        self.news = asyncio.Event()

    async def hear(self, bus):
        """Listen to the disturbed session."""
        subjects = ["fb.default.chunk.*.client.*.disturbed.>", "fb.default.down.client.>", "fb.default.blob.*.*"]
        async for message in await bus.subscribe(subjects, pending_bytes_max=2**28):
            kind = message.subject.split(".")[2]
            if kind == "chunk":
                at = OURS.address(message.subject)
                key = message.subject.split(".")[3], at.sender.name, at.round
                self.sent[(*key, at.chunk)] += 1
                self.late[(*key, at.chunk)] += key in self.accepted
            elif kind == "down":
                self._note(message)
            else:
                self.stored += message.subject.split(".")[3].startswith("disturbed-1-")
            self.news.set()

    def _note(self, message):
        state = decode(message.data, message.subject).body
        if isinstance(state, UploadState) and state.session == "disturbed" and state.verdict == "accepted":
            _, client, combiner = OURS.tokens(message.subject, "down", 3)
            self.accepted.add((combiner, client, state.round))

    async def until(self, condition, within_s=60.0):
        """Wait for something to have crossed."""
        async with asyncio.timeout(within_s):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def again(self, keys=None):
        """Chunks of updates (those of ``keys``, or all) that were sent more than once."""
        return {at: count for at, count in self.sent.items() if count > 1 and (keys is None or at[:3] in keys)}


@pytest.fixture
async def wire(broker):
    """An ear for everything."""
    async with await connect(broker.url, name="wire") as bus:
        wire = Wire()
        listening = asyncio.create_task(wire.hear(bus))
        yield wire
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


def app(number):
    """Adds numbers that client and round decide; the last client takes longer, so that a round stays open."""
    made = fedbus.ClientApp()

    @made.train
    async def train(model, task):
        await asyncio.sleep(1.5 if number == CLIENTS - 1 else 0.1 * number)
        rng = np.random.default_rng((task.round, number))
        grown = {name: a + rng.normal(size=a.shape).astype(a.dtype) for name, a in model.items()}
        return fedbus.Update(grown, weight=1.0 + number)

    return made


@pytest.fixture
async def start(broker, tmp_path, house, make_processes):
    """``start(k0="region", ...)``: a coordinator, combiners, and four clients that are spread over their regions."""
    async with contextlib.AsyncExitStack() as stack:

        async def started(**regions):
            processes = make_processes(broker.url, tmp_path)
            stack.push_async_callback(processes.end)
            await asyncio.gather(
                processes.start("coordinator", "coordinator"),
                *(processes.start("combiner", name, region) for name, region in regions.items()),
            )
            homes = list(regions.values())
            for number in range(CLIENTS):
                await house.client(f"site-{number}", app(number), attributes={"region": homes[number % len(homes)]})
            await house.present(CLIENTS)
            await house.present(len(regions), "combiners")
            return processes

        yield started


_digests = []


async def undisturbed(house):
    """The digest that a run has when nobody is killed: the same in every layout, so that one run tells."""
    if not _digests:
        result, _, _ = await house.run(MODEL, name="undisturbed", **CONFIG)
        _digests.append(result.digest)
    return _digests[0]


async def disturbed(house, disturb, within_s=60.0, **config):
    """Run a session and disturb it; returns its digest and whose updates the coordinator asked for a second time."""
    running = asyncio.create_task(house.run(MODEL, name="disturbed", within_s=within_s, **(CONFIG | config)))
    disturbing = asyncio.create_task(disturb())
    done, _ = await asyncio.wait({running, disturbing}, return_when=asyncio.FIRST_EXCEPTION)
    for task in (disturbing, running):
        if task not in done:
            task.cancel()
    await disturbing
    result, facts, _ = await running
    closed = [fact for fact in facts if isinstance(fact, records.RoundClosed)]
    assert [fact.counted for fact in closed] == [CLIENTS] * CONFIG["rounds"] and result.outcome == "completed"
    return result.digest, {client for fact in facts if isinstance(fact, records.ClientsMoved) for client in fact.moves}


async def die_and_return(processes, combiners):
    """Kill all of them with -9; half a second later they are back."""
    await asyncio.gather(*(processes.kill(name) for name in combiners))
    await asyncio.sleep(0.5)
    await asyncio.gather(*(processes.start("combiner", name) for name in combiners))


LAYOUTS = [
    pytest.param({"k0": ""}, {}, id="one"),
    pytest.param({"k0": "eu", "k1": "eu/north", "k2": "eu/south"}, {}, id="tiers"),
    pytest.param({"k0": "", "k1": "", "k2": ""}, {"sharding": "chunks"}, id="chunks"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("combiners", "config"), LAYOUTS)
async def test_killed_in_mid_round_nobody_sends_again(house, start, wire, combiners, config):
    """-9 for all of them when some updates were accepted: no chunk of those crosses the wire again, in any layout."""
    processes = await start(**combiners)
    expected = await undisturbed(house)
    await asyncio.gather(*(processes.prepare("combiner", name, region) for name, region in combiners.items()))
    whole = set()

    async def disturb():
        await wire.until(lambda: len(wire.accepted) >= 2)
        whole.update(wire.accepted)
        await die_and_return(processes, combiners)

    digest, moved = await disturbed(house, disturb, **config)
    assert digest == expected and not moved
    assert wire.again(whole) == {} and not +wire.late
    assert sum(wire.sent.values()) < CHUNKS * CLIENTS * 3, "two rounds, and less than one of them again"


@pytest.mark.slow
@pytest.mark.parametrize(("combiners", "config"), LAYOUTS)
async def test_killed_while_the_model_is_stored_nobody_sends_again(house, start, wire, combiners, config):
    """-9 for all of them when some chunks of the new model are stored: it is made again of what the spools have."""
    processes = await start(**combiners)
    expected = await undisturbed(house)
    await asyncio.gather(*(processes.prepare("combiner", name, region) for name, region in combiners.items()))

    async def disturb():
        await wire.until(lambda: wire.stored >= 2)
        await die_and_return(processes, combiners)

    digest, moved = await disturbed(house, disturb, **config)
    assert digest == expected and not moved
    assert wire.again() == {}
    assert set(wire.sent.values()) == {1} and len(wire.sent) == 2 * CHUNKS * CLIENTS


@pytest.mark.slow
async def test_a_spool_that_is_damaged_costs_a_transmission(house, start, wire, tmp_path):
    """The index has lost its last bytes: the combiner comes back as another, clients send again; the same model."""
    processes = await start(k0="")
    expected = await undisturbed(house)
    whole = set()

    async def disturb():
        await wire.until(lambda: len(wire.accepted) >= 2)
        await processes.kill("k0")
        whole.update(wire.accepted)
        index = tmp_path / "k0" / "sessions" / "disturbed" / "index"
        index.write_bytes(index.read_bytes()[:-3])
        await processes.start("combiner", "k0")

    digest, moved = await disturbed(house, disturb)
    assert digest == expected
    assert moved >= {client for _, client, _ in whole}
    assert len(wire.again(whole)) == CHUNKS * len(whole)


@pytest.mark.slow
async def test_a_combiner_that_stands_still_for_half_a_minute_changes_nothing(house, start, wire):
    """SIGSTOP when it has accepted something: another takes its clients; what it does when it goes on is no harm."""
    processes = await start(k0="", k1="")
    expected = await undisturbed(house)

    async def disturb():
        await wire.until(lambda: len({combiner for combiner, _, _ in wire.accepted}) == 2)
        processes.signal("k0", signal.SIGSTOP)
        try:
            await asyncio.sleep(30)
        finally:
            processes.signal("k0", signal.SIGCONT)

    digest, moved = await disturbed(house, disturb, within_s=90.0, rounds=2)
    assert digest == expected and moved
    result, _, _ = await house.run(MODEL, name="behind", **CONFIG)
    assert result.digest == expected, "it takes part again as if nothing had been"
