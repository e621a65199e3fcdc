"""What fedbus asks of a bus; ``bus.nats`` and ``bus.memory`` give it, and `fedbus.testing.check_bus` holds both to it.

Two kinds of traffic. *Plain messages* (`Bus.publish`, `Bus.subscribe`, `Bus.request`) reach whoever listens now, at
most once: whoever needs more repeats itself until it hears of the effect. *Streams* keep what is appended, survive the
broker (when their storage is FILE) and are read by subject or by position. A message appended to a stream also reaches
plain subscribers of its subject, live.

Subjects are dot-separated tokens; in patterns ``*`` stands for one token and a last ``>`` for one or more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

Payload = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Message:
    """One message as received.

    ``sequence`` is the position in its stream (first is 1), 0 for a plain message. ``pending`` is how many messages of
    a `Bus.follow` still wait behind this one at the moment of delivery: 0 means caught up. A small ``data`` is
    ``bytes``; a large one may be a read-only memoryview, which numpy, hashes, msgpack and files take for bytes, and
    json does not. ``anew``: how often the stream had begun anew since a `Bus.follow` began: what came before the first
    with a higher number is gone.
    """

    subject: str
    data: Payload
    headers: Mapping[str, str] = field(default_factory=dict)
    sequence: int = 0
    pending: int = 0
    reply: str = ""
    anew: int = 0


class Storage(Enum):
    """Where a stream lives: FILE survives the broker, MEMORY does not."""

    FILE = "file"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Placement:
    """Which servers may keep a stream: those of one cluster of a federation of clusters, those with all of the tags."""

    cluster: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream described as data; created, or compared with what is there, by `Bus.ensure`.

    ``per_subject_max`` 1 makes a board: only the newest message of each subject is kept. 0 means no limit.
    ``age_max_s`` 0 means for ever. When ``bytes_max`` is reached appends fail with `BusFull`; nothing old is dropped,
    unless ``drop_oldest``: then what is oldest goes, of any subject, for what only the newest of is looked at.
    ``append_only``: the broker refuses to remove anything from it (`BusDenied`), and never takes that back.
    ``answers`` False: what is published there is stored without a word, and cannot be appended (`Bus.append` would wait
    in vain); whoever may only publish there has nothing said in its place where it names a subject to be answered at.
    ``replicas`` 0 and ``placement`` None leave an existing stream as it is; a new one has 1 replica, anywhere.
    """

    name: str
    subjects: tuple[str, ...]
    storage: Storage
    per_subject_max: int = 0
    bytes_max: int = -1
    age_max_s: float = 0.0
    replicas: int = 0
    placement: Placement | None = None
    drop_oldest: bool = False
    append_only: bool = False
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a stream is; ``bytes_max`` -1: without a bound of its own."""

    storage: Storage
    messages: int
    nbytes: int
    bytes_max: int


class Subscription(Protocol):
    """Messages as they come; iterate it, and close it when done.

    Iteration raises `BusClosed` when the connection is closed for good. A closed subscription ends its iteration.
    """

    def __aiter__(self) -> AsyncIterator[Message]:
        """Return itself."""
        ...

    async def __anext__(self) -> Message:
        """Wait for the next message."""
        ...

    async def close(self) -> None:
        """Stop receiving; idempotent."""
        ...


class Bus(Protocol):
    """One connection to the bus; an async context manager (leaving it closes the connection)."""

    @property
    def reconnects(self) -> int:
        """How often the connection was re-established since it was first made.

        A change means that plain messages may be lost.
        """
        ...

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable now."""
        ...

    @property
    def round_trip_s(self) -> float | None:
        """Shortest time in which the broker has answered since the connection was last made; None before the first.

        It is what an answer takes on a line, and at a broker, that are not busy.
        """
        ...

    @property
    def payload_max(self) -> int:
        """Most bytes that one message may carry."""
        ...

    @property
    def server(self) -> tuple[str, str]:
        """Name and version of the broker that the connection is to, or was last; empty where it does not say."""
        ...

    @property
    def member(self) -> tuple[str, str] | None:
        """Role and name by which the broker knows us; None where it asks nobody who he is, or asks in another way."""
        ...

    async def publish(self, subject: str, data: Payload, headers: Mapping[str, str] | None = None) -> None:
        """Send a plain message. Waits while the outgoing buffer is full (back-pressure), not for any receiver.

        Raises `BusClosed`, `BusUnavailable` (disconnected for longer than the buffer holds; at once for a large
        message, which would be stale when the line is back), `BusFull` (too large).
        """
        ...

    async def subscribe(self, pattern: str | Sequence[str], *, pending_bytes_max: int = 64 * 2**20) -> Subscription:
        """Receive plain messages of a pattern from when this returns (the broker has confirmed it) on.

        Of several patterns: one subscription, one round trip, and messages in the order in which the broker sent them,
        whichever pattern they match; a message that two of them match comes twice. A refusal of one ends all.

        At most ``pending_bytes_max`` bytes wait to be taken; beyond that the newest are dropped (and counted in the
        log).
        """
        ...

    async def request(
        self, subject: str, data: Payload, *, deadline_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send a plain message and wait for one answer to its ``reply`` subject.

        Raises `BusUnavailable` when nobody listens or none answered in time.
        """
        ...

    async def ensure(self, spec: StreamSpec) -> None:
        """Create a stream, or bring an existing one of that name to this description.

        `ConfigError` where that is impossible.
        """
        ...

    async def usage(self, stream: str, *, deadline_s: float = 10.0) -> Usage | None:
        """Return how full a stream is; None at once where there is none of that name."""
        ...

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
        """Append to a stream; returns the sequence once the broker has stored it.

        ``expected_last``: the sequence of the last message on *this subject* (0: none yet), or of any of the pattern
        ``expected_of``, which must match the subject; `Conflict` when it differs.
        ``message_id``: a repeat with the same id within 2 minutes is stored once (returns the first's sequence).
        Raises `BusUnavailable` after ``deadline_s`` (it may be stored all the same), `BusFull` at a limit.
        """
        ...

    async def last(self, stream: str, subject: str, *, deadline_s: float = 10.0) -> Message | None:
        """Return the newest message of a subject, or of all that a pattern matches; None when there is none."""
        ...

    async def at(self, stream: str, sequence: int, *, deadline_s: float = 10.0) -> Message | None:
        """Return the message with a sequence, or None when there is none (any more)."""
        ...

    async def newest(self, stream: str, pattern: str | Sequence[str], *, deadline_s: float = 10.0) -> list[Message]:
        """Return the newest message of each subject of a pattern, or of any of several, once, in order of sequence.

        At most 1,000 patterns (`ConfigError` beyond) and 1,000 subjects (`BusFull` beyond).
        """
        ...

    async def follow(self, stream: str, pattern: str, *, from_sequence: int = 1) -> Subscription:
        """Every stored message of a pattern from a sequence on, in order, each once, then the new ones as they come.

        Survives reconnects and restarts of the broker (goes on behind the last delivered). Where the stream was lost
        and begins anew (its last sequence is below our position), it begins anew too.
        """
        ...

    async def pending(self, stream: str, pattern: str) -> int:
        """How many messages of a pattern the stream holds now: a `follow` from 1 delivers so many at once."""
        ...

    async def purge(self, stream: str, pattern: str) -> None:
        """Remove all messages of a pattern from a stream."""
        ...

    async def delete(self, stream: str, sequence: int) -> None:
        """Remove one message; none there is not an error."""
        ...

    async def advance(self, stream: str, sequence: int) -> None:
        """Let the next message of an empty stream have at least this sequence; one that will have it anyway is left.

        For a stream that was lost and is filled again: what was numbered by it must not be numbered lower. `Conflict`
        where the stream holds messages and is behind. What somebody else appends at this very moment may be removed,
        and is `Conflict` too: let one party at a time fill a stream.
        """
        ...

    async def close(self) -> None:
        """Flush what is outgoing, close for good; idempotent; leaves no task behind."""
        ...

    async def __aenter__(self) -> Self:
        """Return itself, connected."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        ...
