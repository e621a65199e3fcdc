"""Several coordinators as processes: one leads; when it is gone in mid-round another goes on, bit for bit."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import numpy as np
import pytest

import fedbus
from fedbus.bus.nats import connect
from fedbus.coordinator.lease import TTL_S
from fedbus.messages import records
from fedbus.messages.envelope import decode
from fedbus.messages.presence import Lease
from fedbus.messages.subjects import Subjects
from fedbus.tensors import model_digest

OURS = Subjects("default")
ROUNDS = 3
CLIENTS = 3
MODEL = {"w": np.zeros((64, 80), np.float32), "b": np.zeros(10, np.float64)}
CONFIG = {"rounds": ROUNDS, "clients_min": CLIENTS, "evaluate_every": 1, "seed": 3}
NAMES = ("coordinator", "coordinator-2", "coordinator-3")

pytestmark = pytest.mark.slow


class Clients:
    """Clients that train for a while; ``training`` is set when all of them do.

    ``gates``: by round, what none of them is done before.
    """

    def __init__(self):
        self.pause_s = 0.0
        self.gates = {}
        self.count = 0
        self.training = asyncio.Event()

    def app(self, number):
        """The app of one: what it adds depends on the round, so that no round looks like another."""
        app = fedbus.ClientApp()

        @app.train
        async def train(model, task):
            self.count += 1
            if self.count % CLIENTS == 0:
                self.training.set()
            await asyncio.sleep(self.pause_s)
            if task.round in self.gates:
                await self.gates[task.round].wait()
            rng = np.random.default_rng((task.round, number))
            grown = {name: a + rng.normal(size=a.shape).astype(a.dtype) for name, a in model.items()}
            return fedbus.Update(grown, weight=1.0 + number)

        @app.evaluate
        async def evaluate(model, task):
            return fedbus.Evaluation(1.0, {"sum": float(model["b"].sum())})

        return app


class Board:
    """Who leads, as the leases on the board say; what was seen of them, newest last."""

    def __init__(self):
        self.leases = []
        self.news = asyncio.Event()

    async def watch(self, url):
        """Follow the lease."""
        async with await connect(url, name="watch") as bus:
            async for message in await bus.follow(OURS.stream("board"), OURS.lead()):
                body = decode(message.data, message.subject).body
                assert isinstance(body, Lease)
                self.leases.append((asyncio.get_running_loop().time(), body))
                self.news.set()

    async def leader(self, *, other_than=()):
        """Wait until somebody leads who is none of these; returns the name."""
        async with asyncio.timeout(60):
            while not self.leases or self.leases[-1][1].holder in ("", *other_than):
                self.news.clear()
                await self.news.wait()
        return self.leases[-1][1].holder

    def terms(self):
        """Return the terms, each once, in order, with their holders."""
        seen = {}
        for _, lease in self.leases:
            if lease.holder:
                seen.setdefault(lease.term, lease.holder)
        return seen


@pytest.fixture
async def processes(broker, tmp_path, make_processes):
    """Two coordinators and a combiner."""
    processes = make_processes(broker.url, tmp_path)
    try:
        await asyncio.gather(
            *(processes.start("coordinator", name) for name in NAMES[:2]), processes.start("combiner", "combiner-1")
        )
        yield processes
    finally:
        await processes.end()


@pytest.fixture
async def board(broker, processes):
    """The board's lease, watched."""
    board = Board()
    watching = asyncio.create_task(board.watch(broker.url))
    yield board
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


@pytest.fixture
async def clients(house, processes):
    """Three clients in this process, known to the coordinator."""
    clients = Clients()
    for number in range(CLIENTS):
        await house.client(f"site-{number}", clients.app(number))
    await house.present(CLIENTS)
    await house.present(1, "combiners")
    return clients


async def run(house, name, within_s=60.0):
    """Run a session; returns its digest, its records, and its entries."""
    result, facts, arrays = await house.run(MODEL, name=name, within_s=within_s, **CONFIG)
    assert result.outcome == "completed" and model_digest(arrays) == result.digest
    assert [fact.counted for fact in facts if isinstance(fact, records.RoundClosed)] == [CLIENTS] * ROUNDS
    async with fedbus.connect(house.url) as federation:
        entries = await federation.journal.read(name)
    return result.digest, facts, [journalled.entry for journalled in entries]


async def disturbed(house, clients, disturb):
    """Run the session twice, the second time disturbed; the digests are the same. Returns what was journalled."""
    expected, _, _ = await run(house, "undisturbed")
    clients.pause_s = 0.8
    clients.training.clear()
    running = asyncio.create_task(run(house, "disturbed"))
    disturbing = asyncio.create_task(disturb())
    done, _ = await asyncio.wait({running, disturbing}, return_when=asyncio.FIRST_EXCEPTION, timeout=90)
    for task in {running, disturbing} - done:
        task.cancel()
    await disturbing
    digest, facts, entries = await running
    assert digest == expected
    assert not [fact for fact in facts if isinstance(fact, records.RoundFailed | records.ClientsMoved)]
    return entries


def terms_of(entries):
    """Return the terms in which a journal was written, in their order; each has one writer, and none comes again."""
    terms = [entry.term for entry in entries]
    assert terms == sorted(terms)
    writers = {entry.term: entry.epoch for entry in entries}
    assert all(writers[entry.term] == entry.epoch for entry in entries)
    return list(dict.fromkeys(terms))


async def test_killed_while_clients_train_the_standby_goes_on_with_the_round(house, processes, clients, board):
    """-9: within the five seconds that are promised another leads, and journals the round that the first has opened."""
    killed = []

    async def disturb():
        await clients.training.wait()
        name = await board.leader()
        await processes.kill(name)
        killed.append((asyncio.get_running_loop().time(), name))
        await board.leader(other_than=(name,))

    entries = await disturbed(house, clients, disturb)
    assert len(terms_of(entries)) == 2
    ((at, name),) = killed
    taken_at = next(seen for seen, lease in board.leases if lease.holder not in ("", name))
    assert taken_at - at < 2 * TTL_S
    opened = [entry for entry in entries if any(r.kind == "RoundOpened" and r.round == 1 for r in entry.unpack())]
    assert len(opened) == 1 and opened[0].term == entries[0].term


async def test_stopped_and_woken_it_leads_no_more_and_does_no_harm(house, processes, clients, board):
    """SIGSTOP for 8 s: another has led since, and what the zombie says then changes nothing."""

    async def disturb():
        await clients.training.wait()
        name = await board.leader()
        processes.signal(name, signal.SIGSTOP)
        try:
            await board.leader(other_than=(name,))
            await asyncio.sleep(8 - TTL_S)
        finally:
            processes.signal(name, signal.SIGCONT)

    entries = await disturbed(house, clients, disturb)
    assert len(terms_of(entries)) == 2


async def test_told_to_end_it_hands_the_lease_over(house, processes, clients, board):
    """SIGTERM: it gives the lease back, so the standby need not wait until it runs out."""

    async def disturb():
        await clients.training.wait()
        name = await board.leader()
        process = processes.running.pop(name)
        process.terminate()
        await process.wait()
        await board.leader(other_than=(name,))

    entries = await disturbed(house, clients, disturb)
    assert len(terms_of(entries)) == 2
    given = next(index for index, (_, lease) in enumerate(board.leases) if not lease.holder)
    given_at, taken_at = board.leases[given][0], board.leases[given + 1][0]
    assert board.leases[given + 1][1].holder and taken_at - given_at < 1.0


async def test_each_in_its_turn_is_replaced(house, processes, clients, board):
    """Three coordinators; in one round after the other whoever leads is killed and started again."""
    await processes.start("coordinator", NAMES[2])

    async def disturb():
        # a machine that does other things starts a process in seconds: the session must not be over by then
        clients.gates = {number: asyncio.Event() for number in range(1, ROUNDS)}
        for gate in clients.gates.values():
            await clients.training.wait()
            clients.training.clear()
            name = await board.leader()
            await processes.kill(name)
            await board.leader(other_than=(name,))
            await processes.start("coordinator", name)
            gate.set()

    entries = await disturbed(house, clients, disturb)
    assert len(terms_of(entries)) == ROUNDS
