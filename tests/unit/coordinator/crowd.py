"""A crowd of clients and a combiner at the level of messages: they answer at once, and no tensor is touched.

With it a coordinator goes through rounds of thousands of clients on the memory bus, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.coordinator.service import Coordinator
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.station import Station
from fedbus.federation.service import Federation
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.presence import members_of
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock
from fedbus.together import together
from fedbus.workers import Inline

MODEL = {"w": np.zeros(3, np.float32)}
DIGEST = "ab" * 32


class Crowd:
    """Clients ``crowd-0`` and so on: each announces what it makes to a combiner by a call instead of an upload."""

    def __init__(self, bus, clock, count, name="crowd"):
        self.station = Station(bus, "default", Peer("crowd", name), "c-1", clock, heartbeat_s=10.0, members=count)
        self.names = set(members_of(name, 0, count))
        self.tasks = Counter()
        self.revisions = {}
        self.trained = asyncio.Queue()
        self.reported = 0

    async def run(self):
        """Take every task, and answer it."""
        tasks = await self.station.listen(self.station.subjects.task())
        async with together() as group:
            group.create_task(self.station.present())
            async for heard in self.station.hear(tasks):
                client = heard.message.subject.split(".")[3]
                assert client in self.names
                await self._do(client, heard.envelope.body)

    async def _do(self, client, task):
        self.tasks[task.state] += 1
        assert task.revision > self.revisions.get(client, 0), "the same, or something older, was posted twice"
        self.revisions[client] = task.revision
        if task.train is not None:
            self.trained.put_nowait((client, task.train))
        if task.evaluate is not None:
            self.reported += 1
            evaluated = reports.Evaluated(
                session=task.session,
                round=task.evaluate.round,
                version=task.evaluate.version,
                weight=1.0,
                metrics={"a": 1.0},
            )
            subjects = self.station.subjects
            await self.station.say(subjects.report(Peer("client", client)), evaluated, id_=f"e{self.reported}")


class Combiner:
    """Accepts whatever a crowd has trained, in batches; stores a model when it is told to merge."""

    def __init__(self, bus, clock, crowd, *, batch=500, name="k0"):
        self.station = Station(bus, "default", Peer("combiner", name), f"{name}-1", clock, heartbeat_s=2.0)
        self.crowd = crowd
        self.batch = batch
        self.orders = Counter()

    async def run(self):
        """Follow orders."""
        station = self.station
        orders = await station.listen(station.subjects.order(station.peer.name))
        acks = await station.listen(station.subjects.ack(station.peer))
        outbox = Outbox(station)
        async with together() as group:
            for work in (station.present(), outbox.run(), outbox.hear(acks), self._judge(outbox)):
                group.create_task(work)
            async for heard in station.hear(orders):
                order = heard.envelope.body
                self.orders[order.state] += 1
                if order.merge is not None:
                    stored = reports.ModelStored(
                        session=order.session,
                        round=order.round,
                        revision=order.merge.attempt,
                        blob=order.merge.publish,
                        digest=DIGEST,
                        nbytes=12,
                    )
                    await outbox.put(stored)

    async def _judge(self, outbox):
        while True:
            trained = [await self.crowd.trained.get()]
            await asyncio.sleep(0.001)
            while not self.crowd.trained.empty() and len(trained) < self.batch:
                trained.append(self.crowd.trained.get_nowait())
            verdicts = tuple(
                reports.Verdict(
                    client=client, attempt=train.attempt, accepted=True, weight=1.0, nbytes=12, digest=DIGEST
                )
                for client, train in trained
            )
            judged = reports.UpdatesJudged(
                session="s", round=trained[0][1].round, incarnation=self.station.incarnation, verdicts=verdicts
            )
            await outbox.put(judged)


async def session_of(count, config, *, after=None):
    """Run a session with a crowd; returns its journal and the people, when it has ended.

    ``after``: a coroutine function that is told the coordinator when the session has ended.
    """
    broker, clock = MemoryBroker(), VirtualClock()
    buses = [MemoryBus(broker, name) for name in ("eve", "co", "crowd", "k0")]
    await ensure_streams(buses[0], Station(buses[0], "default", Peer("x", "x"), "x", clock, heartbeat_s=1.0).subjects)
    coordinator = Coordinator(
        buses[1], name="co", incarnation="co-1", workspace="default", clock=clock, workers=Inline()
    )
    crowd = Crowd(buses[2], clock, count)
    combiner = Combiner(buses[3], clock, crowd)
    roles = [asyncio.create_task(work) for work in (coordinator.run(), crowd.run(), combiner.run())]
    async with Federation(buses[0], name="eve", workers=Inline()) as federation:
        session = await federation.start_session(config, model=MODEL, name="s")
        events = [event async for event in session.events()]
        entries = await federation.journal.read("s")
        await asyncio.sleep(1)
        if after is not None:
            await after(federation, coordinator)
    for role in roles:
        assert not role.done(), role
        role.cancel()
    await asyncio.wait(roles)
    return events, entries, crowd, combiner
