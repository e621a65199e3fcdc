"""Who is on a world's bus without being a member: one speaks garbage, one repeats what others said long ago.

And the broker of a world, whose traffic can be watched without disturbing it: a watcher draws no chance.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgpack

from fedbus.bus.base import Bus, Message
from fedbus.bus.memory import Faults, MemoryBroker
from fedbus.bus.memory.stream import Expected, MemoryStream
from fedbus.errors import FedbusError
from fedbus.messages.envelope import PROTOCOL
from fedbus.messages.subjects import Subjects

HEARD_MAX = 200
"""Messages that a parrot remembers."""

REPEATED = (["up"], ["chunk"], ["down"], ["report"], ["ack"])
"""What may come again long after it was said. Not who is there: no broker lets a process that is gone speak."""


class WatchedBroker(MemoryBroker):
    """A broker that shows every plain message to watchers before it delivers it, and what is stored when it is."""

    def __init__(self, seed: int, faults: Faults) -> None:
        super().__init__(seed, faults)
        self.watchers: list[Callable[[Message], None]] = []
        self.witnesses: list[Callable[[str, Message], None]] = []

    def _store(
        self, stream: MemoryStream, message: Message, expected: Expected | None, message_id: str | None, now: float
    ) -> int:
        before = stream.last_sequence
        sequence = super()._store(stream, message, expected, message_id, now)
        if sequence > before:
            for witness in self.witnesses:
                witness(stream.spec.name, message)
        return sequence

    def route(self, message: Message) -> int:
        """Show a message, and deliver it."""
        for watch in self.watchers:
            watch(message)
        return super().route(message)


class Parrot:
    """Hears everything between members, and says some of it again, seconds or minutes later."""

    def __init__(self, bus: Bus, broker: WatchedBroker, rng: random.Random) -> None:
        self._bus = bus
        self._rng = rng
        self._heard: deque[Message] = deque(maxlen=HEARD_MAX)
        broker.watchers.append(self._hear)

    def _hear(self, message: Message) -> None:
        if message.subject.split(".")[2:3] in REPEATED:
            self._heard.append(message)

    async def run(self) -> None:
        """Repeat until cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            if self._heard:
                message = self._rng.choice(self._heard)
                with suppress(FedbusError):
                    await self._bus.publish(message.subject, message.data, message.headers)


class Garbler:
    """Says garbage wherever it may be heard: noise, and envelopes that nearly are ones."""

    def __init__(self, bus: Bus, subjects: Subjects, rng: random.Random, sessions: tuple[str, ...]) -> None:
        self._bus = bus
        self._subjects = subjects
        self._rng = rng
        self._sessions = sessions

    async def run(self) -> None:
        """Speak until cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            with suppress(FedbusError):
                await self._bus.publish(f"fb.default.{self._rng.choice(self._places())}", self._words())

    def _places(self) -> list[str]:
        session, digits = self._rng.choice(self._sessions), self._rng.randrange(10**6)
        chunk = f"{session}.{self._rng.randint(0, 3)}.{self._rng.randint(0, 5)}.{self._rng.randint(0, 9)}"
        return [
            "presence.client.x",
            "presence.combiner.x",
            f"presence.client.x.{digits}",
            "whois",
            "up.k0.client.x",
            f"up.k0.client.{session}",
            "up.k0.x",
            f"chunk.k0.client.x.{chunk}.{digits:016x}",
            f"chunk.k0.client.x.{chunk}.zz",
            f"chunk.k0.client.x.{session}",
            "down.client.c-0.x",
            "down.client.c-0.k0",
            "down.combiner.k0.k1",
            "report.client.x",
            "report.combiner.k0",
            "ack.client.c-0",
            "ack.combiner.k0",
            "query.everything",
            "command.engineer.x",
            f"journal.{session}",
            "journal.x",
            f"task.c-0.x{digits}",
            f"order.k0.x{digits}",
            "nothing.of.ours",
        ]

    def _words(self) -> bytes:
        rng = self._rng
        envelope = {"v": PROTOCOL, "id": "x", "kind": "Hello", "ws": "default", "from": "x", "body": {}}
        kinds = ["Hello", "Bye", "UploadBegin", "UploadState", "Task", "Order", "UpdatesJudged", "Entry", "Nonsense"]
        match rng.randrange(6):
            case 0:
                return b""
            case 1:
                return rng.randbytes(rng.randint(1, 64))
            case 2:
                return rng.randbytes(5000)
            case 3:
                packed: bytes = msgpack.packb(envelope | {"kind": rng.choice(kinds)})
            case 4:
                packed = msgpack.packb(envelope | {"v": rng.choice([0, 2, "1", None, [1] * 50])})
            case _:
                packed = msgpack.packb(envelope | {"kind": rng.choice(kinds), "body": {"session": self._sessions[0]}})
                packed = packed[: rng.randint(1, len(packed))]
        return packed
