"""Clients that may not read the board are shown what stands on it for them: all of it, and nobody waits for another."""

from __future__ import annotations

import asyncio

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.coordinator.answers import show_board
from fedbus.exchange.station import Station
from fedbus.messages.envelope import encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Task
from fedbus.store.streams import ensure_streams
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
    """A coordinator's, at a broker that never answers what is asked about one client."""

    async def newest(self, stream, pattern, *, deadline_s=10.0):
        """Return it, but of that one."""
        if ".stuck." in pattern:
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


def test_a_board_is_shown_in_as_many_answers_as_it_needs():
    """More tasks than one message holds, and those of nobody else, while somebody else's are not to be had."""

    async def main():
        broker = MemoryBroker(payload_max=PAYLOAD_BYTES_MAX)
        bus = SlowBus(broker, "co")
        await ensure_streams(bus, OURS)
        coordinator = station(bus, "coordinator", "co")
        tasks = [OURS.task("c-1", f"s-{number}") for number in range(200)]
        for subject in (*tasks, OURS.task("c-2", "s-0")):
            task = Task(session=subject.rpartition(".")[2], revision=1, state="rest")
            await bus.append(OURS.stream("board"), subject, encode(coordinator.envelope(task)))
        showing = asyncio.create_task(show_board(coordinator, await coordinator.listen(OURS.board())))
        waiting = asyncio.create_task(found_by(broker, "stuck"))
        await asyncio.sleep(0)
        assert await found_by(broker, "c-1") == tasks
        assert not waiting.done()
        for task in (showing, waiting):
            task.cancel()
        await asyncio.gather(showing, waiting, return_exceptions=True)

    run_virtual(main())
