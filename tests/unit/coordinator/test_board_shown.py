"""Clients that may not read the board are shown what stands on it for them: all of it, and nobody waits for another."""

from __future__ import annotations

import asyncio

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.coordinator.listening import Listening
from fedbus.coordinator.showing import show_board
from fedbus.exchange.station import Station
from fedbus.messages.envelope import encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Task
from fedbus.store.streams import ensure_streams
from fedbus.telemetry import Telemetry
from fedbus.testing.loop import VirtualClock, run_virtual

OURS = Subjects("default")
PAYLOAD_BYTES_MAX = 16 * 1024


class OwnBus(MemoryBus):
    """The bus of a member of a secured workspace."""

    @property
    def member(self):
        """Who it is."""
        return Peer("client", self.name)


class SlowBus(MemoryBus):
    """A coordinator's, at a broker that never answers what is asked about one client.

    ``asked``: of how many clients, each time.
    """

    asked = ()

    async def newest(self, stream, pattern, *, deadline_s=10.0):
        """Return it, but of that one."""
        self.asked.append(len(pattern))
        if any(".stuck." in one for one in pattern):
            await asyncio.Event().wait()
        return await super().newest(stream, pattern, deadline_s=deadline_s)


def station(bus, role, name):
    """A role on a bus."""
    return Station(bus, "default", Peer(role, name), f"{name}-1", VirtualClock(), heartbeat_s=2.0)


async def found_by(broker, name):
    """What a client reads of the board."""
    found = []
    reader = station(OwnBus(broker, name), "client", name)
    await asyncio.wait_for(reader._read_board([OURS.task(name)], found.append), 5)
    return [message.subject for message in found]


async def showing(bus):
    """A coordinator that shows boards: the task, and its questions."""
    coordinator = station(bus, "coordinator", "co")
    asked = await Listening(coordinator, Telemetry.off().meters, bus).boards()
    return coordinator, asyncio.create_task(show_board(coordinator, asked)), asked


async def post(bus, coordinator, *subjects):
    """Put tasks on the board."""
    await ensure_streams(bus, OURS)
    for subject in subjects:
        task = Task(session=subject.rpartition(".")[2], revision=1, state="rest")
        await bus.append(OURS.stream("board"), subject, encode(coordinator.envelope(task)))


async def end(asked, *tasks):
    """End what runs."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asked.close()


def test_a_board_is_shown_in_as_many_answers_as_it_needs():
    """More tasks than one message holds, and those of nobody else, while somebody else's are not to be had."""

    async def main():
        broker = MemoryBroker(payload_max=PAYLOAD_BYTES_MAX)
        bus = SlowBus(broker, "co")
        bus.asked = []
        coordinator, shown, asked = await showing(bus)
        tasks = [OURS.task("c-1", f"s-{number}") for number in range(200)]
        await post(bus, coordinator, *tasks, OURS.task("c-2", "s-0"))
        waiting = asyncio.create_task(found_by(broker, "stuck"))
        await asyncio.sleep(0.1)
        assert await found_by(broker, "c-1") == tasks
        assert not waiting.done()
        await end(asked, shown, waiting)

    run_virtual(main())


def test_many_that_ask_at_once_cost_few_readings():
    """Each gets its own, of many that come back together, two of whom have more than one reading holds."""

    async def main():
        broker = MemoryBroker()
        bus = SlowBus(broker, "co")
        bus.asked = []
        coordinator, shown, asked = await showing(bus)
        tasks = {f"c-{number}": [OURS.task(f"c-{number}", "s-0")] for number in range(50)}
        for name in ("c-7", "c-8"):
            tasks[name] = [OURS.task(name, f"s-{number}") for number in range(510)]
        await post(bus, coordinator, *(subject for own in tasks.values() for subject in own))
        found = await asyncio.gather(*(found_by(broker, name) for name in tasks))
        assert dict(zip(tasks, found, strict=True)) == tasks
        assert len(bus.asked) < 20 and max(bus.asked) == 50
        await end(asked, shown)

    run_virtual(main())
