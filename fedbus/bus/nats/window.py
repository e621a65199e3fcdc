"""How much may be under way at once: appends that the broker has not acknowledged yet.

A ``gather`` over thousands of appends would otherwise hold all of them in nats-py's buffer and in the broker's (which
refuses above 128 MiB or 100,000 messages). First come, first served, so appends of one task keep their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BYTES_MAX = 16 * 2**20
"""Unacknowledged bytes: 16 MiB keep a 10 Gbit/s link with 10 ms round trip busy; more only waits in the broker."""

MESSAGES_MAX = 1024
"""Unacknowledged messages: a hundredth of the broker's own limit, as many buses share it."""


class Window:
    """A count of bytes and messages with a line of those who wait to enter."""

    def __init__(self, bytes_max: int = BYTES_MAX, messages_max: int = MESSAGES_MAX) -> None:
        self._bytes_max = bytes_max
        self._messages_max = messages_max
        self._bytes = 0
        self._messages = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def enter(self, size: int) -> AsyncIterator[None]:
        """Take room for one message of a size, and give it back."""
        if self._line or not self._fits(size):
            await self._queue(size)
        else:
            self._take(size)
        try:
            yield
        finally:
            self._give_back(size)

    def _fits(self, size: int) -> bool:
        # an empty window takes anything, or a message larger than it would wait for ever
        return self._messages == 0 or (self._bytes + size <= self._bytes_max and self._messages < self._messages_max)

    def _take(self, size: int) -> None:
        self._bytes += size
        self._messages += 1

    def _give_back(self, size: int) -> None:
        self._bytes -= size
        self._messages -= 1
        self._admit()

    def _admit(self) -> None:
        while self._line and (self._line[0][1].done() or self._fits(self._line[0][0])):
            size, turn = self._line.popleft()
            if not turn.done():
                self._take(size)
                turn.set_result(None)

    async def _queue(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(size)  # admitted in the very moment of being cancelled
            else:
                self._admit()
            raise
