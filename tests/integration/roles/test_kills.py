"""Roles as processes that are killed with -9 in the midst of a round: the model is that of the undisturbed run."""

from __future__ import annotations

import asyncio
import re
import signal

import numpy as np
import pytest

import fedbus
from fedbus.bus.nats import connect
from fedbus.messages import records
from fedbus.tensors import model_digest

ROUNDS = 2
CLIENTS = 3
MODEL = {"w": np.zeros((1024, 1280), np.float32), "b": np.zeros(10, np.float64)}
"""5 MB: ten chunks, more than a window."""


@pytest.fixture
async def processes(broker, tmp_path, make_processes):
    """A coordinator and two combiners."""
    processes = make_processes(broker.url, tmp_path)
    try:
        await asyncio.gather(
            processes.start("coordinator", "coordinator"),
            processes.start("combiner", "combiner-1"),
            processes.start("combiner", "combiner-2"),
        )
        yield processes
    finally:
        await processes.end()


class Clients:
    """Clients that train for a while; ``training`` is set when all of them do, ``pause_s`` is how long."""

    def __init__(self):
        self.pause_s = 0.0
        self.count = 0
        self.training = asyncio.Event()

    def app(self, number):
        """The app of one: adds a number that the round decides, so that no round looks like another."""
        app = fedbus.ClientApp()

        @app.train
        async def train(model, task):
            self.count += 1
            if self.count % CLIENTS == 0:
                self.training.set()
            await asyncio.sleep(self.pause_s)
            rng = np.random.default_rng((task.round, number))
            grown = {name: a + rng.normal(size=a.shape).astype(a.dtype) for name, a in model.items()}
            return fedbus.Update(grown, weight=1.0 + number)

        return app


@pytest.fixture
async def clients(house, processes):
    """Three clients in this process, known to the coordinator."""
    clients = Clients()
    for number in range(CLIENTS):
        await house.client(f"site-{number}", clients.app(number))
    await house.present(CLIENTS)
    await house.present(2, "combiners")
    return clients


CONFIG = {"rounds": ROUNDS, "clients_min": CLIENTS, "evaluate_every": 0, "seed": 3}


async def undisturbed(house):
    """The digest that a run has when nobody is killed."""
    result, _, arrays = await house.run(MODEL, name="undisturbed", **CONFIG)
    assert model_digest(arrays) == result.digest
    return result.digest


async def disturbed(house, clients, disturb, within_s=60.0):
    """Run the same session and disturb it; returns its digest and what the journal says."""
    clients.training.clear()
    running = asyncio.create_task(house.run(MODEL, name="disturbed", within_s=within_s, **CONFIG))
    disturbing = asyncio.create_task(disturb())
    done, _ = await asyncio.wait({running, disturbing}, return_when=asyncio.FIRST_EXCEPTION)
    for task in (disturbing, running):
        if task not in done:
            task.cancel()
    await disturbing
    result, facts, _ = await running
    closed = [fact for fact in facts if isinstance(fact, records.RoundClosed)]
    assert [fact.counted for fact in closed] == [CLIENTS] * ROUNDS
    assert result.outcome == "completed"
    return result.digest, facts


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["combiner-1", "coordinator", "broker"])
async def test_killed_while_clients_train(house, broker, processes, clients, victim):
    """-9 in the midst of training in the first round, and started again: the digest of the undisturbed run."""
    expected = await undisturbed(house)
    clients.pause_s = 1.0

    async def disturb():
        await clients.training.wait()
        await kill_and_start(victim, broker, processes)

    digest, _ = await disturbed(house, clients, disturb)
    assert digest == expected


async def kill_and_start(victim, broker, processes):
    """Kill with -9 and start again, the broker on its port and store."""
    if victim == "broker":
        await broker.kill()
        await broker.start()
        return
    await processes.kill(victim)
    await processes.start(victim.partition("-")[0], victim)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["combiner-1", "coordinator", "broker"])
async def test_killed_in_the_midst_of_uploads(house, broker, processes, clients, victim, hear):
    """-9 when a few chunks of an upload are on their way: the digest of the undisturbed run."""
    expected = await undisturbed(house)

    async def disturb():
        async with hear("chunk.*.client.*.disturbed.>", 4):
            await kill_and_start(victim, broker, processes)

    digest, _ = await disturbed(house, clients, disturb)
    assert digest == expected


async def chunks_of(broker, subjects, version, count):
    """Wait until so many messages of these subjects were about chunks of a version of the disturbed session."""
    about = re.compile(rf"\.blob\.disturbed-{version}-[0-9]+\.[0-9]+$")
    async with await connect(broker.url, name="ear") as bus:
        async for message in await bus.subscribe(subjects):
            count -= about.search(message.subject) is not None
            if not count:
                return


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["combiner-1", "combiner-2", "coordinator", "broker"])
async def test_killed_in_the_midst_of_storing(house, broker, processes, clients, victim):
    """-9 when a few chunks of the first round's model are stored: the digest of the undisturbed run, and nothing but
    whole versions in the store.
    """
    expected = await undisturbed(house)

    async def disturb():
        await chunks_of(broker, "fb.default.blob.*.*", 1, 4)
        await kill_and_start(victim, broker, processes)

    digest, facts = await disturbed(house, clients, disturb)
    assert digest == expected
    await only_whole_versions(broker, facts)


async def only_whole_versions(broker, facts):
    """What the store holds of the disturbed session, soon after its end, are the versions that its journal names."""
    named = {fact.blob for fact in facts if isinstance(fact, records.SessionStarted | records.ModelPublished)}
    for _ in range(100):
        async with fedbus.connect(broker.url) as federation:
            stored: dict[str, int] = {}
            async for message in await federation.bus.follow("fb-default-blob", "fb.default.blob.*.*"):
                blob = message.subject.split(".")[3]
                if blob.startswith("disturbed-"):
                    stored[blob] = stored.get(blob, 0) + 1
                if not message.pending:
                    break
        if stored.keys() == named:
            break
        await asyncio.sleep(0.1)
    assert stored.keys() == named
    assert len(set(stored.values())) == 1, f"as many chunks in each version: {stored}"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["combiner-1", "broker"])
async def test_killed_in_the_midst_of_downloads(house, broker, processes, clients, victim):
    """-9 when clients have asked for a few chunks of the second round's model: the digest of the undisturbed run."""
    expected = await undisturbed(house)

    async def disturb():
        await chunks_of(broker, "$JS.API.DIRECT.GET.fb-default-blob.fb.default.blob.*.*", 1, 4)
        await kill_and_start(victim, broker, processes)

    digest, _ = await disturbed(house, clients, disturb)
    assert digest == expected


@pytest.mark.slow
async def test_a_combiner_that_stands_still_is_replaced_and_comes_back(house, processes, clients):
    """SIGSTOP for ten seconds while clients train: its clients go to the other; what it says later counts once."""
    expected = await undisturbed(house)
    clients.pause_s = 0.5

    async def disturb():
        await clients.training.wait()
        processes.signal("combiner-1", signal.SIGSTOP)
        try:
            await asyncio.sleep(10)
        finally:
            processes.signal("combiner-1", signal.SIGCONT)

    digest, facts = await disturbed(house, clients, disturb)
    assert digest == expected
    moved = [fact for fact in facts if isinstance(fact, records.ClientsMoved)]
    assert moved and set(moved[0].moves.values()) == {"combiner-2"}


@pytest.mark.slow
async def test_everything_killed_at_once(house, broker, processes, clients):
    """A power failure of the operator's side in mid-training: coordinator, combiners and broker, all with -9."""
    expected = await undisturbed(house)
    clients.pause_s = 1.0

    async def disturb():
        await clients.training.wait()
        await asyncio.gather(broker.kill(), *(processes.kill(name) for name in list(processes.running)))
        await broker.start()
        await asyncio.gather(
            processes.start("coordinator", "coordinator"),
            processes.start("combiner", "combiner-1"),
            processes.start("combiner", "combiner-2"),
        )

    digest, _ = await disturbed(house, clients, disturb)
    assert digest == expected
