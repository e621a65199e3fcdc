"""A broker whose disk is gone: what was backed up in mid-session goes back, and the model is the undisturbed run's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys

import numpy as np
import pytest

import fedbus
from fedbus.messages import records
from fedbus.tensors import model_digest

ROUNDS = 4
CLIENTS = 3
MODEL = {"w": np.zeros((512, 640), np.float32), "b": np.zeros(10, np.float64)}
"""1.3 MB: three chunks."""

WITHIN_S = 60.0
"""Nothing is timed here: a busy machine takes its time."""

CONFIG = {"rounds": ROUNDS, "clients_min": CLIENTS, "evaluate_every": 0, "seed": 3}


class Clients:
    """Clients that train for a while; ``rounds[n]`` is set when one of them begins to train in round n."""

    def __init__(self):
        self.pause_s = 0.0
        self.rounds = [asyncio.Event() for _ in range(ROUNDS + 1)]
        self.everybody = asyncio.Event()
        self._training = {}

    def app(self, number):
        """The app of one: adds a number that the round decides, so that no round looks like another."""
        app = fedbus.ClientApp()

        @app.train
        async def train(model, task):
            self.rounds[task.round].set()
            training = self._training.setdefault((task.session, task.round), set())
            training.add(number)
            if len(training) == CLIENTS and (task.session, task.round) == ("disturbed", 2):
                self.everybody.set()
            await asyncio.sleep(self.pause_s)
            rng = np.random.default_rng((task.round, number))
            grown = {name: a + rng.normal(size=a.shape).astype(a.dtype) for name, a in model.items()}
            return fedbus.Update(grown, weight=1.0 + number)

        return app


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


@pytest.fixture
async def clients(house, processes):
    """Three clients in this process, known to the coordinator."""
    clients = Clients()
    for number in range(CLIENTS):
        await house.client(f"site-{number}", clients.app(number))
    await house.present(CLIENTS)
    await house.present(2, "combiners")
    return clients


async def fedbus_command(url, *arguments):
    """Run a command with ``--json``; returns what it prints."""
    environment = os.environ | {"FEDBUS_URL": url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fedbus", *arguments, "--json", stdout=asyncio.subprocess.PIPE, env=environment
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return json.loads(out)


async def wipe(broker):
    """Kill the broker, lose its disk, start it empty."""
    await broker.kill()
    shutil.rmtree(broker._store / "jetstream")
    await broker.start()


async def started(url, name, config):
    """Start a session and leave it to itself."""
    async with fedbus.connect(url) as federation:
        await federation.start_session(fedbus.SessionConfig(**config), model=MODEL, name=name)


async def ended(url, name, within_s=WITHIN_S):
    """Wait for a session's end; returns its result and its facts."""
    async with fedbus.connect(url) as federation, asyncio.timeout(within_s):
        session = federation.session(name)
        result = await session.wait()
        return result, [event async for event in session.events()]


@pytest.mark.slow
@pytest.mark.parametrize("later", ["at once", "two rounds later", "when it had ended"])
async def test_a_restored_session_goes_on(house, broker, processes, clients, tmp_path, later):
    """Backup in mid-round; sooner or later broker and coordinator die, and the disk with them; an empty broker, a
    restore, a coordinator: the session goes on with the clients and combiners that lived, and completes with the digest
    of the undisturbed run.
    """
    expected, _, _ = await house.run(MODEL, name="undisturbed", **CONFIG)
    for seen in clients.rounds:
        seen.clear()
    clients.pause_s = 1.0 if later == "at once" else 0.3
    await started(broker.url, "disturbed", CONFIG)
    await asyncio.wait_for(clients.rounds[2].wait(), WITHIN_S)
    directory = str(tmp_path / "backup")
    taken = await fedbus_command(broker.url, "backup", directory)
    assert (taken["sessions"], taken["skipped"]) == (2, [])
    if later == "two rounds later":
        await asyncio.wait_for(clients.rounds[4].wait(), WITHIN_S)
    elif later == "when it had ended":
        await ended(broker.url, "disturbed")
    await processes.kill("coordinator")
    await wipe(broker)
    done = await fedbus_command(broker.url, "restore", directory)
    assert (done["sessions"], done["entries"]) == (["undisturbed", "disturbed"], taken["entries"])
    await processes.start("coordinator", "coordinator")
    result, events = await ended(broker.url, "disturbed")
    assert result.digest == expected.digest
    assert result.rounds == ROUNDS
    closed = [event.data for event in events if isinstance(event.data, records.RoundClosed)]
    assert [(fact.round, fact.counted) for fact in closed] == [(number, CLIENTS) for number in range(1, ROUNDS + 1)]
    house.check()
    async with contextlib.aclosing(ending(broker.url)) as found:
        assert [info.state async for info in found] == ["completed", "completed"]


async def ending(url):
    """Yield all sessions as they are listed."""
    async with fedbus.connect(url) as federation:
        for info in await federation.sessions():
            yield info


@pytest.mark.slow
async def test_an_empty_broker_is_filled_by_those_who_lived(house, broker, processes, clients):
    """The broker loses its disk in mid-training, without any backup: coordinator, combiners and clients lived through
    it, so the session completes with the digest of the undisturbed run, and its last model can be fetched.
    """
    expected, _, _ = await house.run(MODEL, name="undisturbed", **CONFIG)
    for seen in clients.rounds:
        seen.clear()
    clients.pause_s = 2.0
    await started(broker.url, "disturbed", CONFIG)
    # All of them have the model: what the broker loses while somebody reads it, nobody has.
    await asyncio.wait_for(clients.everybody.wait(), WITHIN_S)
    await wipe(broker)
    clients.pause_s = 0.2
    result, events = await ended(broker.url, "disturbed")
    assert result.digest == expected.digest
    closed = [event.data for event in events if isinstance(event.data, records.RoundClosed)]
    assert [(fact.round, fact.counted) for fact in closed] == [(number, CLIENTS) for number in range(1, ROUNDS + 1)]
    async with fedbus.connect(broker.url) as federation:
        assert model_digest(await federation.models.get(result.model_version)) == expected.digest
    house.check()


@pytest.mark.slow
async def test_a_restore_beside_a_coordinator_that_knows_nothing(house, broker, processes, clients, tmp_path):
    """A coordinator that was started on the empty broker sees the restored session come, does not go on from the middle
    of its journal, and completes it.
    """
    expected, _, _ = await house.run(MODEL, name="undisturbed", **CONFIG)
    for seen in clients.rounds:
        seen.clear()
    clients.pause_s = 0.3
    await started(broker.url, "disturbed", CONFIG)
    await asyncio.wait_for(clients.rounds[3].wait(), WITHIN_S)
    directory = str(tmp_path / "backup")
    await fedbus_command(broker.url, "backup", directory)
    await processes.kill("coordinator")
    await wipe(broker)
    await processes.start("coordinator", "coordinator")
    await house.present(CLIENTS)
    await fedbus_command(broker.url, "restore", directory)
    result, events = await ended(broker.url, "disturbed")
    assert result.digest == expected.digest
    kinds = [event.kind for event in events]
    assert kinds.count("RoundClosed") == ROUNDS and kinds.count("SessionStarted") == 1
