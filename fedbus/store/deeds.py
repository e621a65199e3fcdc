"""The audit in a backup: its messages as they are, so that the chain holds in the backup, and goes on when it is back.

What is in the backup is continued where the broker has the same chain; of another one - the broker was lost, and deeds
were written anew - the backup keeps its own. Brought back is it only before another chain has begun: what somebody else
has written there is never undone, and a chain is one from its beginning. Reading it takes an admin or an auditor,
bringing it back an admin: whoever may not makes a backup without it, which says so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.errors import BusDenied, BusUnavailable, Conflict
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import Archive, AuditFile, Frame, Skipped
from fedbus.tensors.digest import chunk_digest
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

BATCH = 1000
"""Deeds that are written to the file at once: about a megabyte."""

WHAT = "the audit"

FIRST = AuditFile(file="audit.0")


class DeedsBackup:
    """Copies the audit of a workspace into a backup, and back."""

    def __init__(self, bus: Bus, subjects: Subjects, workers: Workers, archive: Archive) -> None:
        self._bus = bus
        self._subjects = subjects
        self._workers = workers
        self._archive = archive
        self._stream = subjects.stream("audit")

    # --- there ---

    async def take(self, former: AuditFile | None) -> tuple[AuditFile | None, Skipped | None]:
        """Add what is new to the file; returns what counts of it, and why that is not all."""
        try:
            return await self._taken(former)
        except BusDenied as error:
            return former, Skipped(what=WHAT, reason=f"it takes credentials of an admin or an auditor: {error}"[:500])
        except BusUnavailable as error:
            if not self._bus.connected:
                raise
            return former, Skipped(what=WHAT, reason=f"the broker has none: {error}"[:500])

    async def _taken(self, former: AuditFile | None) -> tuple[AuditFile | None, Skipped | None]:
        if not await self._bus.pending(self._stream, self._subjects.audit()):
            return former, None
        if former is not None:
            await self._workers.run(self._archive.cut, former.file, former.nbytes)
            last = await self._workers.run(self._last, former)
            there = await patiently(self._bus, lambda: self._bus.at(self._stream, last.sequence))
            if there is None or bytes(there.data) != last.data:
                return former, Skipped(what=WHAT, reason="the broker has another chain: back up to another directory")
        else:
            self._archive.remove(FIRST.file)
        found, waiting = former or FIRST, list[Frame]()
        async with aclosing(self._messages(found.sequence + 1)) as messages:
            async for message in messages:
                waiting.append(Frame(message.sequence, _part(message), bytes(message.data)))
                if len(waiting) >= BATCH:
                    found, waiting = await self._written(found, waiting), []
        found = await self._written(found, waiting)
        await self._workers.run(self._archive.sync, found.file)
        return found, None

    def _last(self, kept: AuditFile) -> Frame:
        (frame,) = self._archive.frames(kept.file, kept.nbytes, kept.last_at)
        return frame

    async def _messages(self, from_sequence: int) -> AsyncGenerator[Message, None]:
        """Yield what stands there now, from a sequence on."""
        pattern = self._subjects.audit()
        last = await patiently(self._bus, lambda: self._bus.last(self._stream, pattern))
        if last is None or last.sequence < from_sequence:
            return
        follow = await self._bus.follow(self._stream, pattern, from_sequence=from_sequence)
        async with aclosing(until_now(follow)) as stored:
            async for message in stored:
                yield message

    async def _written(self, found: AuditFile, frames: list[Frame]) -> AuditFile:
        if not frames:
            return found
        last_at, nbytes = await self._workers.run(self._archive.append, found.file, frames)
        count, sequence = found.count + len(frames), frames[-1].sequence
        return found.model_copy(update={"nbytes": nbytes, "last_at": last_at, "count": count, "sequence": sequence})

    # --- and back ---

    async def bring_back(self, kept: AuditFile | None) -> tuple[int, str]:
        """Append what the broker lacks of the chain; returns how many deeds, and why not where it cannot be."""
        if kept is None:
            return 0, ""
        try:
            return await self._brought_back(kept), ""
        except (BusDenied, Conflict) as error:
            log.warning("the audit is not brought back: %s", error)
            return 0, str(error)

    async def _brought_back(self, kept: AuditFile) -> int:
        frames = self._archive.frames(kept.file, kept.nbytes)
        last = 0
        async with aclosing(self._messages(1)) as messages:
            async for message in messages:
                frame = await self._workers.run(next, frames, None)
                if frame is None:
                    return 0  # it has all of it, and goes on
                if frame.data != message.data:
                    raise Conflict(f"deed {message.sequence} is another in the broker than in the backup: a new chain")
                last = message.sequence
        count = 0
        while (frame := await self._workers.run(next, frames, None)) is not None:
            last = await self._append(frame, last)
            count += 1
        return count

    async def _append(self, frame: Frame, last: int) -> int:
        role, _, name = frame.part.partition(".")
        subject = self._subjects.audit(Peer(role, name))
        id_ = f"restored-{frame.sequence}-{chunk_digest(frame.data):016x}"

        async def append() -> int:
            return await self._bus.append(
                self._stream,
                subject,
                frame.data,
                expected_last=last,
                expected_of=self._subjects.audit(),
                message_id=id_,
            )

        return await patiently(self._bus, append)


def _part(message: Message) -> str:
    """Return whose deed it is: the last two tokens of its subject."""
    return ".".join(message.subject.split(".")[-2:])
