"""The journal of each session: append with optimistic concurrency, read from the beginning, follow.

`append` is exactly-once for its caller: it repeats itself while the bus is away, and when its own entry turns out to be
stored already it says so instead of `Conflict`. `Conflict` means that somebody else wrote: the caller's state is
behind. What is no entry (nobody but the coordinator may write here, but permissions may be wrong) is read as one
without records.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from fedbus.bus.base import Bus, Message, Payload
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.errors import BadMessage, Conflict
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.records import Entry
from fedbus.messages.subjects import Subjects
from fedbus.tensors.digest import chunk_digest

log = logging.getLogger("fedbus.store")


MARK_BYTES_MAX = 1000
"""An entry without records is no longer; others need not be decoded to see that they are no marks."""


@dataclass(frozen=True, slots=True)
class Journalled:
    """An entry as it stands in the journal; ``pending``: how many are known to stand behind it. ``data``: as stored.

    ``anew``: of a follow, how often the journal was lost and begun anew meanwhile (`fedbus.bus.base.Message`).
    """

    session: str
    entry: Entry
    sequence: int
    pending: int
    data: Payload = field(default=b"", repr=False)
    anew: int = 0


class Journal:
    """The journals of a workspace. ``written``: the entry that was appended last, as it is stored."""

    def __init__(self, bus: Bus, subjects: Subjects) -> None:
        self.written = b""
        self._bus = bus
        self._subjects = subjects
        self._stream = subjects.stream("journal")

    async def append(self, session: str, entry: Entry, expected_last: int) -> int:
        """Append behind the entry with sequence ``expected_last`` (0: the first); returns the new entry's sequence.

        Waits for as long as the bus is away. Raises `Conflict` when another entry stands there.
        """
        id_ = f"{session}-{expected_last}-{entry.epoch}"
        data = encode(Envelope(id_, self._subjects.workspace, entry.epoch, entry))
        sequence = await self._append(session, data, expected_last, f"{id_}-{entry.at:.6f}")
        self.written = data
        return sequence

    async def append_again(self, session: str, data: bytes, expected_last: int) -> int:
        """Append an entry as it was stored once, to a journal that has lost it; otherwise as `append`."""
        return await self._append(session, data, expected_last, f"{session}-{expected_last}-{chunk_digest(data):016x}")

    async def mark(self, session: str, epoch: str, at: float, expected_last: int) -> int:
        """Append an entry without records: `records.RESTORING` before what is written again, then `RESTORED`."""
        return await self.append(session, Entry.of(at, epoch, ()), expected_last)

    async def _append(self, session: str, data: bytes, expected_last: int, message_id: str) -> int:
        subject = self._subjects.journal(session)

        async def append() -> int:
            return await self._bus.append(
                self._stream, subject, data, expected_last=expected_last, message_id=message_id
            )

        try:
            return await patiently(self._bus, append, tries_max=None)
        except Conflict:
            last = await patiently(self._bus, lambda: self._bus.last(self._stream, subject), tries_max=None)
            if last is not None and last.data == data:
                return last.sequence
            raise

    async def read(self, session: str = "*") -> list[Journalled]:
        """Return what stands in the journal of a session (or of all) now."""
        return [self._journalled(message) for message in await self.messages(session)]

    async def at(self, sequence: int) -> Journalled | None:
        """Return the entry with a sequence; None where there is none."""
        message = await patiently(self._bus, lambda: self._bus.at(self._stream, sequence), tries_max=None)
        return self._journalled(message) if message else None

    async def count(self, session: str = "*") -> int:
        """How many entries the journal of a session (or of all) has now."""
        pattern = self._subjects.journal(session)
        return await patiently(self._bus, lambda: self._bus.pending(self._stream, pattern), tries_max=None)

    async def messages(self, session: str = "*") -> list[Message]:
        """Return what stands in the journal of a session (or of all) now, as it is stored."""
        if not await self.count(session):
            return []
        async with aclosing(until_now(await self._bus.follow(self._stream, self._subjects.journal(session)))) as stored:
            return [message async for message in stored]

    async def entries(self, session: str = "*") -> AsyncGenerator[Journalled, None]:
        """Yield what stands in the journal of a session (or of all) now, one by one, however much it is."""
        if not await self.count(session):
            return
        follow = self.follow(session)
        try:
            async for journalled in follow:
                yield journalled
                if not journalled.pending:
                    return
        finally:
            await follow.aclose()

    async def follow(self, session: str = "*", from_sequence: int = 1) -> AsyncGenerator[Journalled, None]:
        """Every entry of a session (or of all) from a sequence on, then new ones as they come."""
        subscription = await self._bus.follow(
            self._stream, self._subjects.journal(session), from_sequence=from_sequence
        )
        try:
            async for message in subscription:
                yield self._journalled(message)
        finally:
            await subscription.close()

    def _journalled(self, message: Message) -> Journalled:
        (name,) = self._subjects.tokens(message.subject, "journal", 1)
        return Journalled(name, entry_of(message), message.sequence, message.pending, message.data, message.anew)


def entry_of(message: Message) -> Entry:
    """Return what stands in a message; where somebody else has written garbage, an entry that says nothing.

    It keeps its place: the next append has to name its sequence, or the session could never go on.
    """
    try:
        body = decode(message.data, message.subject).body
        reason = "" if isinstance(body, Entry) else f"expected an Entry, got {body.kind}"
    except BadMessage as error:
        body, reason = None, str(error)
    if isinstance(body, Entry):
        return body
    log.warning("%s: message %d of the journal is passed over: %s", message.subject, message.sequence, reason)
    return Entry(at=0.0, epoch="unreadable", records=())


def mark_of(data: Payload) -> str:
    """Return the mark that an entry is, as it is stored (`Entry.mark`), or ''."""
    if len(data) > MARK_BYTES_MAX or b"restor" not in bytes(data):
        return ""
    entry = _decoded(data)
    return entry.mark if entry is not None else ""


def at_of(data: Payload) -> float:
    """Return when an entry was written, as it is stored; 0 for what is none."""
    entry = _decoded(data)
    return entry.at if entry is not None else 0.0


def _decoded(data: Payload) -> Entry | None:
    try:
        body = decode(data, "an entry").body
    except BadMessage:
        return None
    return body if isinstance(body, Entry) else None
