"""The audit: who did what, when, from where, with which result; written down once, and never taken back.

Deeds are appended to one stream from which the broker removes nothing, each on its writer's own subject and chained to
the one before it, whoever wrote that (`fedbus.access.chain`): an append expects the last of all subjects to be the one
that it names, so of two at once one is refused and chains itself behind the other.

A deed is never lost in silence. While the bus is away deeds are kept, in order, and written when it is back (`run`, or
with the next one); how many are kept has a bound, beyond which they go to the log as they are, and the chain then says
how many. Writing one down never takes longer than `WRITE_S` for the one who does something: an audit that stood still
would be a way to stop a federation.

What the deeds are called: at a gateway `fedbus.access.actions.Action`, and everywhere the words below.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal

from fedbus.access.chain import Recorded, Verified, Walk, digest_of, recorded
from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusDenied, BusError, Conflict
from fedbus.messages.access import AuditEntry
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.access")

Result = Literal["done", "refused", "failed"]

SESSION_START = "session.start"
SESSION_STOP = "session.stop"
SESSION_END = "session.end"
AUDIT_LOST = "audit.lost"
RESTORE = "backup.restore"

WRITE_S = 2.0
"""Longest that the one who does something waits for its deed to be stored; then it is kept, and written later."""

KEPT_MAX = 10_000
"""Deeds kept while the bus is away: some 10 MB; a gateway under attack for an hour, at its own limits."""

CONFLICTS_MAX = 100
"""Others who write first, before a deed is kept for later: some hundred writers at the same moment."""

PAUSE_S_MAX = 0.02
"""Two that have met wait for different times before they read again."""

FLUSH_S = 1.0
"""Between tries to write what is kept."""

DENIED_S = 30.0
"""The same where the broker does not permit it: somebody has to change that first."""

PAGE = 256
"""Deeds read at once, newest first."""

_STRANGE = re.compile(r"[^A-Za-z0-9_@.:/+-]")


@dataclass(slots=True, eq=False)
class Deed:
    """What is to be written; ``sent``: its bytes and the sequence behind which they were sent, once that was tried."""

    id: str
    entry: AuditEntry
    sent: tuple[bytes, int] | None = None


@dataclass(frozen=True, slots=True)
class _Head:
    """The last deed of the chain, as far as is known."""

    sequence: int = 0
    number: int = 0
    digest: str = ""


class Audit:
    """The audit of a workspace; ``writer``: on whose subject deeds are written. Several may write at once."""

    def __init__(self, bus: Bus, subjects: Subjects, writer: Peer, clock: Clock) -> None:
        self._bus = bus
        self._subjects = subjects
        self._writer = writer
        self._clock = clock
        self._stream = subjects.stream("audit")
        self._kept: deque[Deed] = deque()
        self._lost = 0
        self._denied = False
        self._head: _Head | None = None
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()

    # --- writing ---

    @property
    def kept(self) -> int:
        """How many deeds wait to be written."""
        return len(self._kept)

    async def write(
        self,
        action: str,
        *,
        by: str,
        target: str = "",
        origin: str = "",
        result: Result = "done",
        reason: str = "",
        details: Mapping[str, object] | None = None,
    ) -> AuditEntry:
        """Write a deed down, cut to what an entry may have; returns it as it stands in the chain.

        Where that is not to be had within `WRITE_S` it is kept, logged, and returned with the number 0. It raises
        nothing of the bus's: what was done is done.
        """
        if len(self._kept) >= KEPT_MAX:
            await self._flush(WRITE_S)
        deed = self.note(action, by=by, target=target, origin=origin, result=result, reason=reason, details=details)
        await self._flush(WRITE_S)
        if deed in self._kept:
            who, count = deed.entry.by, len(self._kept)
            log.warning("audit: %s by %s is kept until the bus takes it (%d wait)", action, who, count)
            return deed.entry.model_copy(update={"number": 0, "before": ""})  # its place may yet be another
        return deed.entry

    def note(
        self,
        action: str,
        *,
        by: str,
        target: str = "",
        origin: str = "",
        result: Result = "done",
        reason: str = "",
        details: Mapping[str, object] | None = None,
    ) -> Deed:
        """Keep a deed for `run` to write; as `write`, for who cannot wait."""
        entry = AuditEntry(
            number=0,
            at=self._clock.now(),
            by=_STRANGE.sub("_", by)[:200],
            origin=_sayable(origin)[:200],
            action=action[:64],
            target=_sayable(target)[:300],
            result=result,
            reason=reason[:2000],
            details={_sayable(str(k))[:64]: _sayable(str(v))[:1000] for k, v in list((details or {}).items())[:32]},
        )
        deed = Deed(f"audit-{secrets.token_hex(12)}", entry)
        if len(self._kept) >= KEPT_MAX:
            self._lost += 1
            log.error("audit: %d deeds wait already, this one stands here only: %s", KEPT_MAX, entry.model_dump_json())
        else:
            self._kept.append(deed)
            self._wake.set()
        return deed

    async def run(self) -> None:
        """Write what is kept as soon as the bus takes it; runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._flush(WRITE_S)
            if self._kept:
                self._wake.set()
                await asyncio.sleep(DENIED_S if self._denied else FLUSH_S)

    async def finish(self) -> None:
        """Try once more to write what is kept; what cannot be goes to the log as it is."""
        await self._flush(WRITE_S)
        for deed in self._kept:
            log.error("audit: never written: %s", deed.entry.model_dump_json())
        self._kept.clear()

    async def _flush(self, within_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                async with self._writing:
                    while self._kept:
                        if not await self._written(self._kept[0]):
                            return
                        self._kept.popleft()
                        self._tell_lost()

    def _tell_lost(self) -> None:
        """Say in the chain how many deeds stand in the log only."""
        if self._lost and len(self._kept) < KEPT_MAX:
            lost, self._lost = self._lost, 0
            entry = AuditEntry(
                number=0, at=self._clock.now(), by=f"{self._writer.role}/{self._writer.name}", action=AUDIT_LOST,
                result="failed", reason=f"{lost} deeds found no room to wait for the bus; they stand in the log",
            )  # fmt: skip
            self._kept.append(Deed(f"audit-{secrets.token_hex(12)}", entry))

    async def _written(self, deed: Deed) -> bool:
        """Append a deed behind the last one, however often others come first; False where it has to wait."""
        try:
            for _ in range(CONFLICTS_MAX):
                if await self._appended(deed):
                    self._denied = False
                    return True
                await asyncio.sleep(PAUSE_S_MAX * secrets.randbelow(1000) / 1000)
        except BusDenied as error:
            if not self._denied:  # once, not at each try
                log.error("audit: the broker does not let %s/%s write: %s", *self._writer, error)  # noqa: TRY400 - it says all
            self._denied = True
        except BusError as error:
            log.debug("audit: not written yet: %s", error)
        return False

    async def _appended(self, deed: Deed) -> bool:
        if deed.sent is None:
            head = self._head = self._head or await self._read_head()
            deed.entry = deed.entry.model_copy(update={"number": head.number + 1, "before": head.digest})
            name = f"{self._writer.role}/{self._writer.name}"
            deed.sent = (encode(Envelope(deed.id, self._subjects.workspace, name, deed.entry)), head.sequence)
        data, behind = deed.sent
        try:
            sequence = await self._bus.append(
                self._stream,
                self._subjects.audit(self._writer),
                data,
                expected_last=behind,
                expected_of=self._subjects.audit(),
                message_id=deed.id,
                deadline_s=WRITE_S,
            )
        except Conflict:
            self._head = None
            if not await self._is_stored(deed):  # by a try of ours that was not answered
                deed.sent = None
                return False
        else:
            # one that is not behind what it was sent behind is a former try of ours, which was stored after all
            self._head = _Head(sequence, deed.entry.number, digest_of(data)) if sequence > behind else None
        return True

    async def _is_stored(self, deed: Deed) -> bool:
        message = await self._bus.last(self._stream, self._subjects.audit(self._writer))
        if message is None:
            return False
        with suppress(BadMessage):
            return decode(message.data, message.subject).id == deed.id
        return False

    # --- reading ---

    async def _last(self) -> Message | None:
        """Return the newest message of the chain, whoever wrote it: whoever writes may read so much of it."""
        return await self._bus.last(self._stream, self._subjects.audit())

    async def _read_head(self) -> _Head:
        message = await self._last()
        if message is None:
            return _Head()
        try:
            number = recorded(self._subjects, message.subject, message.sequence, message.data).entry.number
        except BadMessage as error:
            log.warning("audit: the last message is no deed, the chain goes on behind it: %s", error)
            number = message.sequence
        return _Head(message.sequence, number, digest_of(message.data))

    async def read(
        self,
        *,
        before: int = 0,
        after: int = 0,
        newest_first: bool = True,
        fits: Callable[[Recorded], bool] = lambda _: True,
    ) -> AsyncGenerator[Recorded, None]:
        """Yield deeds; ``before`` and ``after``: only those with a sequence below, or above it (0: all).

        What is no deed is passed over; `verify` tells of it. Raises `BusUnavailable`, `BusDenied`.
        """
        last = await patiently(self._bus, self._last)
        if last is None:
            return
        end = min(last.sequence, before - 1) if before else last.sequence
        pages = self._backwards(after + 1, end) if newest_first else self._forwards(after + 1, end)
        async with aclosing(pages) as messages:
            async for message in messages:
                try:
                    found = recorded(self._subjects, message.subject, message.sequence, message.data)
                except BadMessage as error:
                    log.warning("audit: a message is passed over: %s", error)
                    continue
                if fits(found):
                    yield found

    async def _backwards(self, first: int, last: int) -> AsyncGenerator[Message, None]:
        while last >= first:
            start = max(first, last - PAGE + 1)
            page = [message async for message in self._forwards(start, last)]
            for message in reversed(page):
                yield message
            last = start - 1

    async def _forwards(self, first: int, last: int) -> AsyncGenerator[Message, None]:
        if first > last:
            return
        pattern = self._subjects.audit()
        follow = await patiently(self._bus, lambda: self._bus.follow(self._stream, pattern, from_sequence=first))
        async with aclosing(until_now(follow)) as messages:
            async for message in messages:
                if message.sequence > last:
                    return
                yield message
                if message.sequence == last:
                    return

    async def verify(self, head: str = "") -> Verified:
        """Go along the whole chain, as it stands now; ``head``: a digest noted before, which has to be on the way."""
        walk = Walk(self._subjects, head)
        last = await patiently(self._bus, self._last)
        if last is not None:
            async with aclosing(self._forwards(1, last.sequence)) as messages:
                async for message in messages:
                    walk.step(message.subject, message.sequence, message.data)
        return walk.end()


def filter_of(
    *, by: str = "", action: str = "", target: str = "", result: str = "", since: float = 0.0, until: float = 0.0
) -> Callable[[Recorded], bool]:
    """Return whether a deed fits: equal, an ``action`` also by its first words (``member``), times in Unix seconds."""

    def fits(found: Recorded) -> bool:
        entry = found.entry
        return (
            (not by or entry.by == by)
            and (not action or entry.action == action or entry.action.startswith(f"{action}."))
            and (not target or entry.target == target)
            and (not result or entry.result == result)
            and entry.at >= since
            and (not until or entry.at < until)
        )

    return fits


def _sayable(text: str) -> str:
    return text.encode(errors="replace").decode()
