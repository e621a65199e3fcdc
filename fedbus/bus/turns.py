"""A subscription that is read in turns: one message of each sender, then the next of each.

    broker --> source, in the order of arrival --> a short queue for each sender --> one of each in turn --> reader

Whoever says much waits behind himself, and not others behind him. Who speaks stands in the subject, which the broker's
permissions guard: here each subject is a sender. A sender has room for so many messages and bytes; beyond that its
oldest goes, for what it says last counts, and whoever is not answered asks again. What comes too often in a second is
not even looked at. All that goes is counted, and told once a minute with the name of who has said so much.

The reader gives way to others of its event loop every few milliseconds, however much waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import Self

from fedbus.bus.base import Message, Subscription
from fedbus.bus.mailbox import MESSAGE_OVERHEAD_BYTES, Mailbox

LOG = logging.getLogger("fedbus.bus")

SLICE_S = 0.002
"""For so long a reader goes on without giving way: some ten answers, and a delay that nobody notices."""

FLOOD_MIN = 100
"""Messages of one sender that are dropped within a minute before it is told: a busy moment of ours is not its fault."""

TOLD_MAX = 10
"""Senders that are named within a minute: a flood of many must not become one of lines."""

MINUTE_S = 60.0

WATCHED_MAX = 100_000
"""Senders whose messages are counted at once; more than the 50,000 clients that a broker lets in."""

STALE_MAX = 1000
"""What may be known of a moment ago, beside four times as much as is so now, of who has most waiting."""


@dataclass(frozen=True, slots=True)
class Room:
    """What one sender may have waiting, and how many of its messages are taken in a second."""

    waiting_max: int
    bytes_max: int
    per_s_max: int


class _Queue:
    """What waits of one sender."""

    __slots__ = ("messages", "nbytes")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.nbytes = 0

    def push(self, message: Message) -> None:
        self.messages.append(message)
        self.nbytes += _size(message)

    def pop(self) -> Message:
        message = self.messages.popleft()
        self.nbytes -= _size(message)
        return message


class Turns:
    """Reads ``source``, which it owns, in turns; a `Subscription` itself.

    ``what``: is said, in a line of the log. ``room_of``: how much room the sender with a subject has. ``bytes_max``:
    of all together; beyond it the oldest of whoever has most goes.
    """

    def __init__(
        self, source: Subscription, what: str, room_of: Callable[[str], Room], *, bytes_max: int = 64 * 2**20
    ) -> None:
        self.dropped = 0
        self.waiting_bytes = 0
        self._source = source
        self._what = what
        self._room_of = room_of
        self._bytes_max = bytes_max
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._most: list[tuple[int, str]] = []
        self._filled = asyncio.Event()
        self._second, self._heard = -1, dict[str, int]()
        self._minute, self._lost = -1, Counter[str]()
        self._since = 0.0
        self._closed = False
        self._now = asyncio.get_running_loop().time
        self._is_sifted = isinstance(source, Mailbox)
        if isinstance(source, Mailbox):  # what is too much is passed over as it is read, before a message is made of it
            source.sift(self._wants)
        self._reading = asyncio.create_task(self._read())

    def __len__(self) -> int:
        return sum(len(queue.messages) for queue in self._queues.values())

    # ---- in

    async def _read(self) -> None:
        try:
            async for message in self._source:
                self._put(message)
        finally:
            self._filled.set()

    def _put(self, message: Message) -> None:
        """Add a message behind its sender's, where there is room; else its oldest goes."""
        sender, size = message.subject, _size(message)
        room, queue = self._room_of(sender), self._queues.get(sender)
        if not self._is_sifted and not self._wants(sender):
            return
        if size > room.bytes_max:
            self._drop(sender)
            return
        while queue is not None and queue.messages and _is_full(queue, size, room):
            self._lose(sender, queue)
        while self._queues and self.waiting_bytes + size > self._bytes_max:
            most = self._who_has_most()
            self._lose(most, self._queues[most])
        queue = self._queues.setdefault(sender, queue or _Queue())
        queue.push(message)
        self._note_most(sender, queue.nbytes)
        self.waiting_bytes += size
        self._filled.set()

    def _lose(self, sender: str, queue: _Queue) -> None:
        """Drop the oldest of a sender."""
        self.waiting_bytes -= _size(queue.pop())
        if not queue.messages:
            del self._queues[sender]
        self._drop(sender)

    def _note_most(self, sender: str, nbytes: int) -> None:
        """Tell the heap, where there is one, that more waits of a sender; it is made anew before it grows for ever."""
        if len(self._most) > 4 * len(self._queues) + STALE_MAX:
            self._most.clear()
        elif self._most:
            heappush(self._most, (-nbytes, sender))

    def _who_has_most(self) -> str:
        """Return the sender of whom most waits; to look at each of fifty thousand for each message would take 7 ms.

        Of each sender the heap knows how many bytes wait, or more of a moment ago; it is made when it is needed.
        """
        if not self._most:
            self._most = [(-queue.nbytes, sender) for sender, queue in self._queues.items()]
            heapify(self._most)
        while True:
            told, sender = self._most[0]
            queue = self._queues.get(sender)
            if queue is None:
                heappop(self._most)
            elif queue.nbytes == -told:
                return sender
            else:
                heapreplace(self._most, (-queue.nbytes, sender))

    def _wants(self, sender: str) -> bool:
        """Whether a sender has not been heard too often in this second; else it is counted."""
        second = int(self._now())
        if second != self._second:
            self._second = second
            self._heard.clear()
        count = self._heard.get(sender, 0) + 1
        if count == 1 and len(self._heard) >= WATCHED_MAX:
            return True
        self._heard[sender] = count
        if count <= self._room_of(sender).per_s_max:
            return True
        self._drop(sender)
        return False

    def _drop(self, sender: str) -> None:
        self.dropped += 1
        minute = int(self._now() // MINUTE_S)
        if minute != self._minute:
            self._minute = minute
            self._lost.clear()
        if len(self._lost) >= WATCHED_MAX and sender not in self._lost:
            return
        self._lost[sender] += 1
        if self._lost[sender] == FLOOD_MIN and sum(n >= FLOOD_MIN for n in self._lost.values()) <= TOLD_MAX:
            LOG.warning("%s", self._told(sender))

    def _told(self, sender: str) -> str:
        tokens = sender.split(".")
        role, name = tokens[-2:] if len(tokens) > 4 else ("token", tokens[-1])
        who = f"token {name}" if role == "token" else f"{role} {name}"
        how = f"fedbus token revoke {name}" if role == "token" else f"fedbus member suspend {name} --role {role}"
        return (
            f"{who} says more than it has room for ({self._what}): {FLOOD_MIN} of its messages were dropped within a "
            f"minute, {self.dropped} of all so far; others are heard as before. Where it goes on: {how}"
        )

    # ---- out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message of whoever was longest not heard."""
        if self._queues and time.perf_counter() - self._since > SLICE_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
        while not self._queues:
            await self._wait()
        return self._next()

    async def some(self, most: int) -> list[Message]:
        """Return what waits now, in turns and ``most`` of it, or what comes next; nothing at the end."""
        try:
            while not self._queues:
                await self._wait()
        except StopAsyncIteration:
            return []
        found = list[Message]()
        while self._queues and len(found) < most:
            found.append(self._next())
        return found

    async def _wait(self) -> None:
        self._filled.clear()
        self._raise_end()
        await self._filled.wait()
        self._since = time.perf_counter()

    def _next(self) -> Message:
        sender, queue = self._queues.popitem(last=False)
        message = queue.pop()
        self.waiting_bytes -= _size(message)
        if queue.messages:
            self._queues[sender] = queue  # behind all others that wait
        return message

    def _raise_end(self) -> None:
        """End the iteration where the source has ended, as it did."""
        if self._closed or (self._reading.done() and self._reading.cancelled()):
            raise StopAsyncIteration
        if self._reading.done():
            error = self._reading.exception()
            if error is None:
                raise StopAsyncIteration
            raise type(error)(*error.args) from error

    async def close(self) -> None:
        """Stop receiving; idempotent."""
        self._closed = True
        self._queues.clear()
        self._most.clear()
        self.waiting_bytes = 0
        self._filled.set()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._source.close()


def _is_full(queue: _Queue, size: int, room: Room) -> bool:
    return len(queue.messages) >= room.waiting_max or queue.nbytes + size > room.bytes_max


def _size(message: Message) -> int:
    return len(message.data) + MESSAGE_OVERHEAD_BYTES
