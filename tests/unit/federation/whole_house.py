"""A whole federation in memory and virtual time, and an engineer in it."""

from __future__ import annotations

import asyncio

import numpy as np

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.client.client import Client
from fedbus.combiner.service import Combiner
from fedbus.coordinator.service import Coordinator
from fedbus.federation.service import Federation
from fedbus.messages.subjects import Subjects
from fedbus.store.spool import Memory
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")
MODEL = {"w": np.zeros(3, np.float32)}


class House:
    """A whole federation in memory."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.clock = VirtualClock()
        self.tasks = []
        self.clients = {}

    def live(self, work):
        """Let a role live; returns its task."""
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def dismiss(self, task):
        """Ask a role to end, and wait until it has."""
        self.tasks.remove(task)
        task.cancel()
        await asyncio.wait([task])

    async def settle(self):
        """Let chores be done that nobody waits for."""
        await asyncio.sleep(5)

    def coordinator(self, name="co"):
        """A coordinator; returns its task."""
        bus = MemoryBus(self.broker, "coordinator" if name == "co" else name)
        fields = {"incarnation": f"{name}-1", "workspace": "default", "clock": self.clock, "workers": Inline()}
        return self.live(Coordinator(bus, name=name, **fields).run())

    def combiner(self):
        """A combiner."""
        bus = MemoryBus(self.broker, "k0")
        fields = {"incarnation": "k0-1", "workspace": "default", "clock": self.clock, "workers": Inline()}
        self.live(Combiner(bus, name="k0", make_spool=lambda _: Memory(), **fields).run())

    def client(self, name, app, **attributes):
        """A client; returns its task."""
        fields = {"clock": self.clock, "workers": Inline(), "incarnation": "1", "attributes": attributes}
        client = self.clients[name] = Client(MemoryBus(self.broker, name), app, name=name, **fields)

        async def run():
            async with client:
                await client.run()

        return self.live(run())

    def check(self):
        """Nobody has ended by himself."""
        for task in self.tasks:
            assert not task.done(), task

    def federation(self):
        """An engineer."""
        return Federation(MemoryBus(self.broker, "eve"), name="eve", clock=self.clock, workers=Inline())


def in_house(test, *, roles=True):
    """Run a coroutine function in a fresh house."""

    async def main():
        house = House()
        async with house.federation() as federation:
            await ensure_streams(federation.bus, OURS)
            if roles:
                house.coordinator()
                house.combiner()
            await test(house, federation)
        house.check()
        for task in house.tasks:
            task.cancel()
        await asyncio.wait(house.tasks) if house.tasks else None

    run_virtual(main())
