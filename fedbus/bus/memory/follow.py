"""A `follow` of the memory bus: every stored message of a pattern, in order, each once, whatever happens to the links.

The broker offers what is stored; offers get lost when a link is cut, so on every return the follower asks again and
fills its queue from its own position. A removed message is withdrawn from the queue, so ``pending`` is exact.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from fedbus.bus.base import Message
from fedbus.bus.mailbox import Arrivals
from fedbus.bus.memory.broker import MemoryBroker
from fedbus.bus.memory.link import Link
from fedbus.bus.memory.stream import MemoryStream
from fedbus.errors import BusClosed

if TYPE_CHECKING:
    from fedbus.bus.memory.bus import MemoryBus


class MemoryFollow:
    """One reader of one stream."""

    def __init__(self, bus: MemoryBus, broker: MemoryBroker, stream: str, pattern: str, from_sequence: int) -> None:
        self.connection = bus
        self._broker = broker
        self._stream = stream
        self._pattern = pattern
        self._position = max(0, from_sequence - 1)
        self._queue: OrderedDict[int, Message] = OrderedDict()
        self._newest = 0
        self._seen: MemoryStream | None = None
        self._anew = 0
        self._arrivals = Arrivals()
        self._ended = False
        self._filled = False
        self.resume()

    @property
    def _out(self) -> Link:
        return self.connection.outgoing

    def resume(self) -> None:
        """Ask the broker for everything behind our position."""
        if not self._ended:
            # offers before the answer are ignored: taking one would skip what was lost with the link before it
            self._filled = False
            self._out.send(0, self._ask)

    def _ask(self) -> None:
        if not self._ended:
            self._broker.follow(self._stream, self._pattern, self)
            self.connection.incoming.send(0, self._fill)

    def _fill(self) -> None:
        self._filled = True
        stream = self._broker.stream(self._stream)
        if stream is None or self._ended:
            return
        lost = self._seen is not None and self._seen is not stream
        if lost or stream.last_sequence < self._position:
            self._position = self._newest = 0
            self._anew += 1
            self._queue.clear()
        self._seen = stream
        for message in stream.select(self._pattern, max(self._position, self._newest) + 1):
            self._enqueue(message)

    def offer(self, message: Message) -> None:
        """Receive what was stored, unless a fill has brought it already or will bring it."""
        stream = self._broker.stream(self._stream)
        if self._filled and stream is self._seen and stream is not None and stream.get(message.sequence) is message:
            self._enqueue(message)

    def _enqueue(self, message: Message) -> None:
        if message.sequence > max(self._position, self._newest):
            self._newest = message.sequence
            self._queue[message.sequence] = message
            self._arrivals.announce()

    def withdraw(self, message: Message) -> None:
        """Drop a message that was removed before it was delivered."""
        if self._queue.get(message.sequence) is message:
            del self._queue[message.sequence]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            if self._ended:
                raise StopAsyncIteration
            if self.connection.closed:
                raise BusClosed(f"bus {self.connection.name!r} is closed")
            if self._queue:
                break
            await self._arrivals.wait()
        sequence, message = self._queue.popitem(last=False)
        self._position = sequence
        self.connection.bytes_in += len(message.data)
        return replace(message, pending=len(self._queue), anew=self._anew)

    def detach(self) -> None:
        """Hear that the connection is closed: readers see it, the broker forgets us."""
        self._queue.clear()
        self._broker.unfollow(self._stream, self._pattern, self)
        self._arrivals.announce_end()

    async def close(self) -> None:
        """Stop receiving; idempotent."""
        if not self._ended:
            self._ended = True
            self.detach()
            self.connection.forget(self)
