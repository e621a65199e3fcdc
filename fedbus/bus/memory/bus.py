"""`MemoryBus`: one connection to a `MemoryBroker`, giving all that `base.Bus` asks.

A call travels: an action on the outgoing link, carried out at the broker, its result on the incoming link. When either
is lost the caller's deadline ends the wait with `BusUnavailable`, as over a network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from fedbus.bus.base import Message, Payload, StreamSpec, Subscription, Usage
from fedbus.bus.checks import (
    check_expected,
    check_message_id,
    check_sequence,
    check_spec,
    check_stream_name,
    checked_patterns,
    frozen_headers,
    frozen_payload,
    patterns_text,
)
from fedbus.bus.mailbox import Mailbox
from fedbus.bus.memory.broker import MemoryBroker
from fedbus.bus.memory.follow import MemoryFollow
from fedbus.bus.memory.link import Link
from fedbus.bus.memory.stream import Expected, MemoryStream
from fedbus.bus.patterns import check_pattern, check_subject
from fedbus.errors import BusClosed, BusFull, BusUnavailable, FedbusError
from fedbus.version import __version__

T = TypeVar("T")

OUTGOING_BYTES_MAX = 8 * 2**20
"""What may wait to go out before `publish` waits too; the NATS bus has the same bound."""

CALL_DEADLINE_S = 10.0
"""For calls that take no deadline of their own."""

MISSING_RETRY_S = 0.1
"""Between looks for a stream that is not there yet: its owner may be about to make it."""

NEWEST_SUBJECTS_MAX = 1000

CLOSE_FLUSH_S_MAX = 2.0


class MemoryBus:
    """A bus of a simulated world. ``bytes_out`` and ``bytes_in`` count payloads sent and delivered."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.name = name
        self.bytes_out = 0
        self.bytes_in = 0
        self.closed = False
        self.outgoing = Link(broker.delay_s, keeps=True)
        self.incoming = Link(broker.delay_s, keeps=False)
        self._broker = broker
        self._reconnects = 0
        self._quickest_s: float | None = None
        self._ensured: dict[str, StreamSpec] = {}
        self._waiting: dict[asyncio.Future[object], None] = {}
        self._mailboxes: dict[Mailbox, tuple[tuple[str, ...], _Plain]] = {}
        self._follows: dict[MemoryFollow, None] = {}
        self._replies: dict[str, asyncio.Future[object]] = {}
        self._requests = 0
        self._inbox = f"_INBOX.{broker.attach(self)}"
        self._inbox_receiver = _Plain(self, self._answer)
        broker.listen(f"{self._inbox}.*", self._inbox_receiver)
        if not broker.reachable(name):
            self.lost()

    # ---- state of the connection

    @property
    def reconnects(self) -> int:
        """How often the connection was re-established."""
        return self._reconnects

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable now."""
        return not self.closed and self.outgoing.is_up

    @property
    def member(self) -> tuple[str, str] | None:
        """Nobody is asked who he is."""
        return None

    @property
    def round_trip_s(self) -> float | None:
        """Shortest time of an answer on this connection."""
        return self._quickest_s

    @property
    def payload_max(self) -> int:
        """Most bytes that one message may carry."""
        return self._broker.payload_max

    @property
    def server(self) -> tuple[str, str]:
        """Name and version of the broker."""
        return "memory", __version__

    def lost(self) -> None:
        """Hear from the broker that the connection broke."""
        self.outgoing.down()
        self.incoming.down()

    def regained(self) -> None:
        """Hear from the broker that the connection is back."""
        self._reconnects += 1
        self._quickest_s = None
        self.incoming.up()
        for follow in self._follows:
            follow.resume()
        self.outgoing.up()

    # ---- plain messages

    async def publish(self, subject: str, data: Payload, headers: Mapping[str, str] | None = None) -> None:
        """Send a plain message."""
        check_subject(subject)
        await self._send(Message(subject, frozen_payload(data, self.payload_max), frozen_headers(headers)))

    async def _send(self, message: Message) -> None:
        await self._room()
        self.bytes_out += len(message.data)
        self.outgoing.send(len(message.data), self._route, message)

    async def _room(self) -> None:
        self._check_open()
        while self.outgoing.bytes_waiting > OUTGOING_BYTES_MAX:
            if not self.connected:
                size = self.outgoing.bytes_waiting
                raise BusUnavailable(f"bus {self.name!r} is disconnected and {size} bytes wait to go out")
            await self.outgoing.drained()
            self._check_open()

    def _route(self, message: Message) -> None:
        heard = self._broker.route(message)
        if not heard and message.reply:
            # as NATS does: a request that nobody listens to is answered at once
            error = BusUnavailable(f"nobody listens on {message.subject!r}")
            self.incoming.send(0, self._settle_reply, message.reply, None, error)

    async def subscribe(self, pattern: str | Sequence[str], *, pending_bytes_max: int = 64 * 2**20) -> Subscription:
        """Receive plain messages of a pattern, or of several."""
        patterns = checked_patterns(pattern)
        self._check_open()
        text = patterns_text(patterns)
        mailbox = Mailbox(f"bus {self.name!r}, subscription {text}", pending_bytes_max, self._unsubscribe)
        receiver = _Plain(self, lambda message: mailbox.wants(message.subject) and mailbox.put(message))
        self._mailboxes[mailbox] = (patterns, receiver)

        def listen() -> None:
            for one in patterns:
                self._broker.listen(one, receiver)

        try:
            await self._call(CALL_DEADLINE_S, listen, f"subscribe {text}")
        except BaseException:
            await self._unsubscribe(mailbox)
            raise
        return mailbox

    async def _unsubscribe(self, mailbox: Mailbox) -> None:
        patterns, receiver = self._mailboxes.pop(mailbox)
        for pattern in patterns:
            self._broker.unlisten(pattern, receiver)

    async def request(
        self, subject: str, data: Payload, *, deadline_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send a plain message and wait for one answer."""
        check_subject(subject)
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        message = Message(subject, frozen_payload(data, self.payload_max), frozen_headers(headers), reply=reply)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._replies[reply] = future
        try:
            await self._send(message)
            answer = await self._wait(future, deadline_s, f"request {subject}: no answer")
        finally:
            self._replies.pop(reply, None)
        assert isinstance(answer, Message)
        return answer

    def _answer(self, message: Message) -> None:
        self._settle_reply(message.subject, message, None)

    def _settle_reply(self, reply: str, answer: Message | None, error: Exception | None) -> None:
        future = self._replies.get(reply)
        if future is not None:
            _settle(future, answer, error)

    # ---- streams

    async def ensure(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one to this description."""
        check_spec(spec)
        await self._call(CALL_DEADLINE_S, lambda: self._broker.ensure(spec), f"ensure {spec.name}")
        self._ensured[spec.name] = spec

    async def usage(self, stream: str, *, deadline_s: float = CALL_DEADLINE_S) -> Usage | None:
        """Return how full a stream is."""
        check_stream_name(stream)

        def read() -> Usage | None:
            held = self._broker.stream(stream)
            return None if held is None else held.usage

        return await self._call(deadline_s, read, f"usage of {stream}")

    async def append(
        self,
        stream: str,
        subject: str,
        data: Payload,
        *,
        headers: Mapping[str, str] | None = None,
        expected_last: int | None = None,
        expected_of: str | None = None,
        message_id: str | None = None,
        deadline_s: float = 10.0,
    ) -> int:
        """Append to a stream."""
        check_stream_name(stream)
        check_subject(subject)
        check_message_id(message_id)
        check_expected(subject, expected_last, expected_of)
        message = Message(subject, frozen_payload(data, self.payload_max), frozen_headers(headers))
        broker, expected = self._broker, Expected.of(expected_last, expected_of)
        lost = broker.strikes(broker.faults.append_loss)
        unheard = broker.strikes(broker.faults.ack_loss)

        def store(held: MemoryStream) -> int:
            if lost:
                raise _Unheard
            sequence = broker.append(held, message, expected, message_id)
            if unheard:
                raise _Unheard
            return sequence

        await self._room()
        self.bytes_out += len(message.data)
        what = f"append {subject}"
        return await self._on_stream(stream, deadline_s, store, what, len(message.data), broker.disk_s())

    async def last(self, stream: str, subject: str, *, deadline_s: float = 10.0) -> Message | None:
        """Return the newest message of one subject, or of all that a pattern matches."""
        check_pattern(subject)
        found = await self._on_stream(stream, deadline_s, lambda held: held.last(subject), f"last {subject}")
        self.bytes_in += len(found.data) if found else 0
        return found

    async def at(self, stream: str, sequence: int, *, deadline_s: float = 10.0) -> Message | None:
        """Return the message with a sequence."""
        check_sequence(sequence)
        found = await self._on_stream(stream, deadline_s, lambda held: held.get(sequence), f"at {stream} {sequence}")
        self.bytes_in += len(found.data) if found else 0
        return found

    async def newest(self, stream: str, pattern: str | Sequence[str], *, deadline_s: float = 10.0) -> list[Message]:
        """Return the newest message of each subject of a pattern, or of several."""
        patterns = checked_patterns(pattern, NEWEST_SUBJECTS_MAX)
        text = patterns_text(patterns)

        def read(held: MemoryStream) -> list[Message]:
            found = {message.sequence: message for one in patterns for message in held.newest(one)}
            if len(found) > NEWEST_SUBJECTS_MAX:
                limit = f"at most {NEWEST_SUBJECTS_MAX} at once"
                raise BusFull(f"{len(found)} subjects match {text}, {limit}: follow it instead")
            return [found[sequence] for sequence in sorted(found)]

        found = await self._on_stream(stream, deadline_s, read, f"newest {text}")
        self.bytes_in += sum(len(m.data) for m in found)
        return found

    async def follow(self, stream: str, pattern: str, *, from_sequence: int = 1) -> Subscription:
        """Every stored message of a pattern from a sequence on, then the new ones as they come."""
        check_stream_name(stream)
        check_pattern(pattern)
        self._check_open()
        follow = MemoryFollow(self, self._broker, stream, pattern, from_sequence)
        self._follows[follow] = None
        return follow

    def forget(self, follow: MemoryFollow) -> None:
        """Hear that a follow was closed."""
        self._follows.pop(follow, None)

    async def pending(self, stream: str, pattern: str) -> int:
        """How many messages of a pattern the stream holds now."""
        check_pattern(pattern)
        return await self._on_stream(stream, CALL_DEADLINE_S, lambda held: held.count(pattern), f"pending {pattern}")

    async def purge(self, stream: str, pattern: str) -> None:
        """Remove all messages of a pattern from a stream."""
        check_pattern(pattern)
        await self._on_stream(stream, CALL_DEADLINE_S, lambda held: held.purge(pattern), f"purge {pattern}")

    async def delete(self, stream: str, sequence: int) -> None:
        """Remove one message."""
        await self._on_stream(stream, CALL_DEADLINE_S, lambda held: held.delete(sequence), f"delete {sequence}")

    async def advance(self, stream: str, sequence: int) -> None:
        """Let the next message of an empty stream have at least this sequence."""
        check_sequence(sequence)
        what = f"advance {stream} to {sequence}"
        await self._on_stream(stream, CALL_DEADLINE_S, lambda held: held.advance(sequence), what)

    # ---- how a call travels

    async def _on_stream(
        self,
        name: str,
        deadline_s: float,
        action: Callable[[MemoryStream], T],
        what: str,
        size: int = 0,
        late_s: float = 0.0,
    ) -> T:
        """Carry out an action on a stream; one that is not there is made anew if we made it, else waited for."""
        check_stream_name(name)
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s

        def found() -> tuple[T] | None:
            held = self._broker.stream(name)
            return None if held is None else (action(held),)

        while True:
            result = await self._call(end - loop.time(), found, what, size, late_s)
            if result is not None:
                return result[0]
            spec = self._ensured.get(name)
            if spec is not None:
                await self._call(end - loop.time(), partial(self._broker.ensure, spec), what)
            elif loop.time() + MISSING_RETRY_S >= end:
                raise BusUnavailable(f"{what}: there is no stream {name!r}: its owner has not made it (`ensure`)")
            else:
                await asyncio.sleep(MISSING_RETRY_S)

    async def _call(
        self, deadline_s: float, action: Callable[[], T], what: str, size: int = 0, late_s: float = 0.0
    ) -> T:
        """Let an action happen at the broker, whose answer is on its way ``late_s`` afterwards."""
        self._check_open()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def at_broker() -> None:
            result, error = None, None
            try:
                result = action()
            except _Unheard:
                return
            except FedbusError as refusal:
                error = refusal
            if late_s:
                self.incoming.overtaken(late_s, _settle, future, result, error)
            else:
                self.incoming.send(0, _settle, future, result, error)

        now, seen = asyncio.get_running_loop().time, self._reconnects
        began = now()
        self.outgoing.send(size, at_broker)
        answer = await self._wait(future, deadline_s, f"{what}: no answer")
        if self._reconnects == seen:
            took_s = now() - began
            self._quickest_s = took_s if self._quickest_s is None else min(took_s, self._quickest_s)
        return answer  # type: ignore[return-value]

    async def _wait(self, future: asyncio.Future[object], deadline_s: float, what: str) -> object:
        self._check_open()
        error = BusUnavailable(f"bus {self.name!r}: {what} within {deadline_s:g} s")
        timer = asyncio.get_running_loop().call_later(max(0.0, deadline_s), _settle, future, None, error)
        self._waiting[future] = None
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(future, None)

    def _check_open(self) -> None:
        if self.closed:
            raise BusClosed(f"bus {self.name!r} is closed")

    # ---- the end

    async def close(self) -> None:
        """Flush what is outgoing, close for good; idempotent."""
        if not self.closed:
            try:
                async with asyncio.timeout(CLOSE_FLUSH_S_MAX):
                    await self.outgoing.drained()
            except TimeoutError:
                pass  # a link so slow: what has not gone out by now is lost, as with a socket that is closed
            finally:
                self.kill()

    def kill(self) -> None:
        """End as by kill -9: nothing more goes out, waiting calls and iterations end with `BusClosed`."""
        if self.closed:
            return
        self.closed = True
        self.outgoing.down()
        self.incoming.down()
        self._broker.detach(self)
        self._broker.unlisten(f"{self._inbox}.*", self._inbox_receiver)
        gone = BusClosed(f"bus {self.name!r} is closed")
        for mailbox, (patterns, receiver) in self._mailboxes.items():
            for pattern in patterns:
                self._broker.unlisten(pattern, receiver)
            mailbox.fail(gone)
        for follow in self._follows:
            follow.detach()
        for future in [*self._waiting, *self._replies.values()]:
            _settle(future, None, gone)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Unheard(Exception):
    """A fault struck: the caller gets no answer."""


class _Plain:
    """A plain subscription as the broker sees it."""

    __slots__ = ("_take", "connection")

    def __init__(self, bus: MemoryBus, take: Callable[[Message], object]) -> None:
        self.connection = bus
        self._take = take

    def take(self, message: Message) -> None:
        """Receive a plain message."""
        self.connection.bytes_in += len(message.data)
        self._take(message)


def _settle(future: asyncio.Future[object], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
