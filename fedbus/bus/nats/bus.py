"""`NatsBus`: what `base.Bus` asks, over one connection to NATS with JetStream."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

from nats.aio.msg import Msg

from fedbus.bus.base import Message, Payload, StreamSpec, Subscription, Usage
from fedbus.bus.checks import (
    BROKER_HEADERS_BYTES,
    HEADERS_BYTES_MAX,
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
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.follow import NatsFollow
from fedbus.bus.nats.identity import Identity, identify_by
from fedbus.bus.nats.jetstream import NEWEST_SUBJECTS_MAX, JetStream, NoStream, headers_of, is_answer
from fedbus.bus.nats.requests import Requests
from fedbus.bus.nats.window import Window
from fedbus.bus.patterns import check_pattern, check_subject
from fedbus.bus.tls import check_context
from fedbus.errors import BusClosed, BusDenied, BusError, Conflict

LOG = logging.getLogger("fedbus.bus")

T = TypeVar("T")

CALL_DEADLINE_S = 10.0
"""For calls that take no deadline of their own: a broker that was killed is back and recovered within it."""

SPARE_DEADLINE_S = 2.0
"""For a stream whose messages may be lost (`StreamSpec.drop_oldest`): no longer does a role wait until it is there."""

MISSING_RETRY_S = 0.1
"""Between looks for a stream that is not there yet: its owner may be about to make it."""

CONNECT_DEADLINE_S = 5.0
"""For the first connection; later ones are sought for ever."""


async def connect(
    url: str,
    *,
    name: str,
    credentials: str | Path | Identity | None = None,
    tls: ssl.SSLContext | None = None,
    inbox_prefix: str = "_INBOX",
    deadline_s: float = CONNECT_DEADLINE_S,
) -> NatsBus:
    """Connect to a broker, or to one of several (``url`` with commas).

    ``name`` is shown by the broker's monitoring. ``credentials`` is the path of a ``.creds`` file, read again at
    each connection, or an `Identity`; user and password, or a token, may stand in the URL instead. ``inbox_prefix`` is
    where answers come; of a member of a workspace it is its own (`Identity.inbox`). ``url`` may be ``nats``, ``tls``,
    ``ws`` or ``wss``, and name files for TLS (`fedbus.bus.tls`); ``tls`` instead: a context that verifies certificates
    and names. Without either, TLS trusts the authorities that stand in the credentials, else the system's.

    Raises `BusUnavailable` when there is no broker within ``deadline_s``, `BusDenied` when it refuses, `ConfigError`
    for credentials that can't be read.
    """
    if tls is not None:
        check_context(tls)
    connection = Connection(url, name)
    await connection.open(
        identify=identify_by(credentials),
        tls=tls,
        inbox_prefix=inbox_prefix,
        deadline_s=deadline_s,
    )
    bus = NatsBus(connection)
    try:
        await bus.open()
    except BaseException:
        await bus.close()
        raise
    return bus


class NatsBus:
    """A bus over NATS; made by `connect`. ``bytes_out`` and ``bytes_in`` count payloads."""

    def __init__(self, connection: Connection) -> None:
        self.bytes_out = 0
        self.bytes_in = 0
        self._connection = connection
        self._requests = Requests(connection)
        self._jetstream = JetStream(connection, self._requests)
        self._window = Window()
        self._ensured: dict[str, StreamSpec] = {}
        self._mailboxes: dict[Mailbox, tuple[tuple[str, ...], range]] = {}
        self._follows: set[NatsFollow] = set()

    async def open(self) -> None:
        """Begin to listen for answers."""
        await self._requests.open()
        self._connection.listeners.append(self)

    @property
    def reconnects(self) -> int:
        """How often the connection was re-established."""
        return self._connection.reconnects

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable now."""
        return self._connection.connected

    @property
    def member(self) -> tuple[str, str] | None:
        """Role and name, as the credentials say."""
        return self._connection.member

    @property
    def round_trip_s(self) -> float | None:
        """Shortest time of an answer on this connection."""
        return self._requests.quickest_s

    @property
    def payload_max(self) -> int:
        """Most bytes that one message may carry: the broker's limit less what headers may take."""
        return self._connection.payload_max - HEADERS_BYTES_MAX - BROKER_HEADERS_BYTES

    @property
    def server(self) -> tuple[str, str]:
        """Name and version of the broker."""
        return self._connection.server

    # ---- plain messages

    async def publish(self, subject: str, data: Payload, headers: Mapping[str, str] | None = None) -> None:
        """Send a plain message."""
        check_subject(subject)
        payload = frozen_payload(data, self.payload_max)
        self._connection.check_bulk(subject, payload)
        await self._connection.send(subject, payload, headers=frozen_headers(headers))
        self.bytes_out += len(payload)

    async def subscribe(self, pattern: str | Sequence[str], *, pending_bytes_max: int = 64 * 2**20) -> Subscription:
        """Receive plain messages of a pattern, or of several."""
        patterns = checked_patterns(pattern)
        name = f"{self._connection.name!r}, subscription {patterns_text(patterns)}"
        mailbox = Mailbox(name, pending_bytes_max, self._unsubscribe)

        def take(message: Msg) -> None:
            if is_answer(message):
                # whoever asks JetStream names where it answers: a subject on which it may not publish itself
                LOG.debug("%s: an answer of JetStream on %s is dropped", name, message.subject)
                return
            self.bytes_in += len(message.data)
            mailbox.put(Message(message.subject, message.data, headers_of(message), reply=message.reply))

        self._mailboxes[mailbox] = (patterns, await self._connection.receive(patterns, take, mailbox.wants))
        try:
            await self._connection.flush(CALL_DEADLINE_S)
            mailbox.raise_failure()  # a refusal comes before the answer to the flush
        except BaseException:
            await mailbox.close()
            raise
        return mailbox

    async def _unsubscribe(self, mailbox: Mailbox) -> None:
        known = self._mailboxes.pop(mailbox, None)
        if known is not None:
            await self._connection.ignore(known[1])

    async def request(
        self, subject: str, data: Payload, *, deadline_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send a plain message and wait for one answer."""
        check_subject(subject)
        payload = frozen_payload(data, self.payload_max)
        self.bytes_out += len(payload)
        answer = await self._requests.call(
            subject,
            payload,
            headers=frozen_headers(headers),
            deadline_s=deadline_s,
            what=f"request {subject}",
            repeat=False,  # a plain message reaches its receiver at most once
        )
        self.bytes_in += len(answer.data)
        return Message(answer.subject, answer.data, headers_of(answer), reply=answer.reply)

    # ---- streams

    async def ensure(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one to this description."""
        check_spec(spec)
        await self._jetstream.ensure(spec, SPARE_DEADLINE_S if spec.drop_oldest else CALL_DEADLINE_S)
        self._ensured[spec.name] = spec

    async def usage(self, stream: str, *, deadline_s: float = CALL_DEADLINE_S) -> Usage | None:
        """Return how full a stream is."""
        check_stream_name(stream)
        return await self._jetstream.usage(stream, deadline_s)

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
        """Append to a stream. An append without ``message_id`` gets one, as it may have to be sent twice."""
        check_stream_name(stream)
        check_subject(subject)
        check_message_id(message_id)
        check_expected(subject, expected_last, expected_of)
        payload = frozen_payload(data, self.payload_max)
        identity = message_id or uuid4().hex
        sent = {**frozen_headers(headers), "Nats-Msg-Id": identity, "Nats-Expected-Stream": stream}
        if expected_last is not None:
            sent["Nats-Expected-Last-Subject-Sequence"] = str(expected_last)
        if expected_of is not None:
            sent["Nats-Expected-Last-Subject-Sequence-Subject"] = expected_of

        async def once(left_s: float) -> int:
            async with asyncio.timeout(left_s), self._window.enter(len(payload)):
                return await self._jetstream.append(stream, subject, payload, sent, left_s)

        try:
            sequence = await self._on_stream(stream, deadline_s, once)
        except TimeoutError as error:
            raise self._connection.unavailable(f"append {subject}: not acknowledged within {deadline_s:g} s") from error
        except Conflict:
            # The broker compares sequences before it knows a repeat: was it our own first that we lost against? Of an
            # ``expected_of`` others may have written since: what is stored of ours is stored.
            newest = await self._on_stream(stream, deadline_s, partial(self._newest_of_leader, stream, subject))
            if newest is None or newest[1] != identity:
                raise
            sequence = newest[0].sequence
        self.bytes_out += len(payload)
        return sequence

    async def last(self, stream: str, subject: str, *, deadline_s: float = 10.0) -> Message | None:
        """Return the newest message of one subject, or of all that a pattern matches."""
        check_pattern(subject)
        found = await self._newest(stream, subject, deadline_s)
        if found is None:
            return None
        self.bytes_in += len(found[0].data)
        return found[0]

    async def _newest_of_leader(self, stream: str, subject: str, left_s: float) -> tuple[Message, str] | None:
        try:
            return await self._jetstream.last_of_leader(stream, subject, left_s)
        except BusDenied:  # who may only get what it can name has to believe a replica
            return await self._jetstream.last(stream, subject, left_s)

    async def _newest(self, stream: str, subject: str, deadline_s: float) -> tuple[Message, str] | None:
        return await self._on_stream(stream, deadline_s, lambda left_s: self._jetstream.last(stream, subject, left_s))

    async def at(self, stream: str, sequence: int, *, deadline_s: float = 10.0) -> Message | None:
        """Return the message with a sequence."""
        check_sequence(sequence)
        jetstream = self._jetstream
        found = await self._on_stream(stream, deadline_s, lambda left_s: jetstream.at(stream, sequence, left_s))
        self.bytes_in += len(found.data) if found else 0
        return found

    async def newest(self, stream: str, pattern: str | Sequence[str], *, deadline_s: float = 10.0) -> list[Message]:
        """Return the newest message of each subject of a pattern, or of several."""
        patterns = checked_patterns(pattern, NEWEST_SUBJECTS_MAX)
        jetstream = self._jetstream
        found = await self._on_stream(stream, deadline_s, lambda left_s: jetstream.newest(stream, patterns, left_s))
        self.bytes_in += sum(len(message.data) for message in found)
        return found

    async def follow(self, stream: str, pattern: str, *, from_sequence: int = 1) -> Subscription:
        """Every stored message of a pattern from a sequence on, then the new ones as they come."""
        check_stream_name(stream)
        check_pattern(pattern)
        self._connection.check_open()
        follow = NatsFollow(self._connection, self._jetstream, stream, pattern, from_sequence, self._ended)
        self._follows.add(follow)
        follow.start()
        return follow

    def _ended(self, follow: NatsFollow) -> None:
        self._follows.discard(follow)

    async def pending(self, stream: str, pattern: str) -> int:
        """How many messages of a pattern the stream holds now."""
        check_pattern(pattern)
        jetstream = self._jetstream
        return await self._on_stream(stream, CALL_DEADLINE_S, lambda left_s: jetstream.count(stream, pattern, left_s))

    async def purge(self, stream: str, pattern: str) -> None:
        """Remove all messages of a pattern from a stream."""
        check_pattern(pattern)
        await self._on_stream(stream, CALL_DEADLINE_S, lambda left_s: self._jetstream.purge(stream, pattern, left_s))

    async def delete(self, stream: str, sequence: int) -> None:
        """Remove one message."""
        await self._on_stream(stream, CALL_DEADLINE_S, lambda left_s: self._jetstream.delete(stream, sequence, left_s))

    async def advance(self, stream: str, sequence: int) -> None:
        """Let the next message of an empty stream have at least this sequence."""
        check_sequence(sequence)
        jetstream = self._jetstream
        await self._on_stream(stream, CALL_DEADLINE_S, lambda left_s: jetstream.advance(stream, sequence, left_s))

    async def _on_stream(self, stream: str, deadline_s: float, once: Callable[[float], Awaitable[T]]) -> T:
        """Act on a stream; one that is not there is made anew if it was we who made it, else waited for."""
        check_stream_name(stream)
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while True:
            try:
                return await once(max(0.0, end - loop.time()))
            except NoStream:
                if loop.time() + MISSING_RETRY_S >= end:
                    raise
            spec = self._ensured.get(stream)
            if spec is not None:
                await self._jetstream.ensure(spec, end - loop.time())
            else:
                await asyncio.sleep(MISSING_RETRY_S)

    # ---- what the connection tells

    def on_reconnected(self) -> None:
        """Nothing to do: nats-py subscribes again, follows and requests look after themselves."""

    def on_closed(self, reason: BusError) -> None:
        """End every iteration."""
        for mailbox in list(self._mailboxes):
            mailbox.fail(reason)

    def on_denied(self, action: str, subject: str, reason: BusDenied) -> None:
        """End the iteration of subscriptions that the broker refused."""
        for mailbox, (patterns, _) in self._mailboxes.items():
            # of thousands that are refused the first is enough
            if action == "subscription" and not mailbox.closed and any(p.lower() == subject for p in patterns):
                mailbox.fail(reason)

    # ---- the end

    async def close(self) -> None:
        """Flush what is outgoing, close for good; idempotent; leaves no task behind."""
        follows = list(self._follows)
        for follow in follows:
            follow.on_closed(BusClosed(f"the bus of {self._connection.name!r} is closed"))
        await asyncio.gather(*(follow.stop() for follow in follows))
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
