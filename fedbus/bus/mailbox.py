"""A `Subscription` that is fed from a callback: both buses hand arriving messages to one of these.

Bounded by bytes: a reader that is too slow loses the newest messages, which is logged once per burst with a count, and
never makes the process grow. Ends in one of two ways: *closed* (the owner stopped it: iteration ends) or *failed* (the
connection is gone for good, or the broker refused it: iteration raises).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from fedbus.bus.base import Message

LOG = logging.getLogger("fedbus.bus")

MESSAGE_OVERHEAD_BYTES = 256
"""Counted for each waiting message beside its payload: an empty one takes memory too."""


class Arrivals:
    """Wakes one waiting reader for each arrival."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def announce(self) -> None:
        """Wake one reader, if any waits."""
        while self._waiting:
            reader = self._waiting.popleft()
            if not reader.done():
                reader.set_result(None)
                return

    def announce_end(self) -> None:
        """Wake all readers."""
        while self._waiting:
            self.announce()

    async def wait(self) -> None:
        """Wait to be woken. Wake-ups may be spurious: look again."""
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(reader)
        try:
            await reader
        except asyncio.CancelledError:
            # an arrival may have been announced to us as we were cancelled: pass the news on, or it is taken by nobody
            if reader.done() and not reader.cancelled():
                self.announce()
            raise


class Mailbox:
    """Messages that wait to be taken, at most ``bytes_max`` of them."""

    def __init__(self, name: str, bytes_max: int, on_close: Callable[[Mailbox], Awaitable[None]] | None = None) -> None:
        self.name = name
        self.waiting_bytes = 0
        self.dropped = 0
        self._bytes_max = bytes_max
        self._on_close = on_close
        self._messages: deque[Message] = deque()
        self._sieve: Callable[[str], bool] | None = None
        self._arrivals = Arrivals()
        self._burst = 0
        self._closed = False
        self._error: Exception | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing will come any more."""
        return self._closed or self._error is not None

    def sift(self, sieve: Callable[[str], bool]) -> None:
        """Ask ``sieve`` from now on whether a message with a subject is to be taken; see `wants`."""
        self._sieve = sieve

    def wants(self, subject: str) -> bool:
        """Whether a message with this subject is to be put here; asked once for each, before it is made."""
        return self._sieve is None or self._sieve(subject)

    def put(self, message: Message) -> bool:
        """Hand a message over; False when it had to be dropped."""
        size = len(message.data) + MESSAGE_OVERHEAD_BYTES
        if self.closed:
            return False
        # an empty mailbox takes anything: otherwise a message larger than the limit could never be received at all
        if self._messages and self.waiting_bytes + size > self._bytes_max:
            self._drop()
            return False
        self._messages.append(message)
        self.waiting_bytes += size
        self._arrivals.announce()
        return True

    def _drop(self) -> None:
        self.dropped += 1
        self._burst += 1
        if self._burst == 1:
            LOG.warning("%s: reader too slow, %d bytes wait, newest are dropped", self.name, self.waiting_bytes)

    def fail(self, error: Exception) -> None:
        """Make iteration raise this from now on; what waits is dropped, as the connection it came by is gone."""
        if not self.closed:
            self._error = error
            self._finish()

    def end(self) -> None:
        """Make iteration end."""
        if not self.closed:
            self._closed = True
            self._finish()

    def raise_failure(self) -> None:
        """Raise what `fail` was called with, if it was."""
        if self._error is not None:
            # a fresh one each time: raising one instance again and again would pile up its traceback
            raise type(self._error)(*self._error.args) from self._error

    def _finish(self) -> None:
        self._messages.clear()
        self.waiting_bytes = 0
        self._arrivals.announce_end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            self.raise_failure()
            if self._closed:
                raise StopAsyncIteration
            await self._arrivals.wait()
        message = self._messages.popleft()
        self.waiting_bytes -= len(message.data) + MESSAGE_OVERHEAD_BYTES
        if self._burst and self.waiting_bytes * 2 <= self._bytes_max:
            LOG.warning("%s: the reader caught up; %d messages were dropped", self.name, self._burst)
            self._burst = 0
        return message

    async def close(self) -> None:
        """Stop receiving; idempotent."""
        self.end()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            await on_close(self)
