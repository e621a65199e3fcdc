"""Gates at which held clients wait: they say that they are there, and go on when the benchmark opens.

A gate has a name. Plain messages of the bus, which a connection that breaks may lose: a benchmark whose connection
breaks is measured again, so whoever waits for all, waits with a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import ClassVar, Self

from fedbus.bus.base import Bus, Subscription
from fedbus.errors import BusClosed, FedbusError

REACHED = "fedbus-bench.reached"
OPENED = "fedbus-bench.opened"


class _Names:
    """Counts the names that come in on a subject."""

    def __init__(self, messages: Subscription) -> None:
        self._messages = messages
        self._counts: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with suppress(BusClosed):
            async for message in self._messages:
                async with self._changed:
                    name = bytes(message.data).decode()
                    self._counts[name] = self._counts.get(name, 0) + 1
                    self._changed.notify_all()

    async def came(self, name: str, count: int) -> None:
        """Wait until a name has come ``count`` times."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._counts.get(name, 0) >= count)

    def count(self, name: str) -> int:
        """How often a name has come."""
        return self._counts.get(name, 0)

    async def close(self) -> None:
        """Stop counting."""
        await self._messages.close()
        self._listening.cancel()
        await asyncio.wait([self._listening])


class _Side:
    """What both sides are: a bus, and the names that were said on the subject they listen to."""

    listens_to: ClassVar[str]

    def __init__(self, bus: Bus, heard: _Names) -> None:
        self._bus = bus
        self._heard = heard

    @classmethod
    @asynccontextmanager
    async def on(cls, bus: Bus) -> AsyncIterator[Self]:
        """Be told of every name that the other side says."""
        heard = _Names(await bus.subscribe(cls.listens_to))
        try:
            yield cls(bus, heard)
        finally:
            await heard.close()


class Gates(_Side):
    """The side of the clients, told of every gate that opens; one for all clients of a process."""

    listens_to = OPENED

    async def reach(self, name: str) -> None:
        """Say that one client is at a gate, and wait until that is opened."""
        await self._bus.publish(REACHED, name.encode())
        await self._heard.came(name, 1)


class Keeper(_Side):
    """The side of the benchmark, told of every client that reaches a gate."""

    listens_to = REACHED

    async def all_at(self, name: str, clients: int, deadline_s: float) -> None:
        """Wait until so many clients are at a gate; FedbusError when they don't come."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._heard.came(name, clients)
        except TimeoutError as error:
            there = self._heard.count(name)
            raise FedbusError(f"{there} of {clients} clients came to {name} within {deadline_s:g} s") from error

    async def open(self, name: str) -> None:
        """Let everybody who waits at a gate go on."""
        await self._bus.publish(OPENED, name.encode())
