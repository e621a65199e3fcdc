"""Follows the journal of a session and tells a sink: from the beginning, each time.

The journal is the truth and the sink knows what it has, so nothing is remembered in between: whoever begins again after
a crash tells everything again, and the sink writes what is missing. A broker that is away is waited for; a sink that is
away is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from fedbus.errors import NotFound
from fedbus.federation.service import Federation
from fedbus.messages import records
from fedbus.messages.records import Record
from fedbus.sinks.base import ClosedRound, Ended, Evaluated, Sink, SinkUnavailable, Tracked
from fedbus.store.journal import Journalled
from fedbus.workers import Threads, Workers

log = logging.getLogger("fedbus.sinks")

PAUSE_S, PAUSE_S_MAX = 1.0, 60.0
"""Between tries of a sink that is away."""


async def track(federation: Federation, session: str, sink: Sink, *, follow: bool = True) -> bool:
    """Tell a sink all of a session, and with ``follow`` what comes, until it ends; returns whether it has ended.

    `NotFound` where there is no such session and it is not followed; a session that is to come is waited for. The sink
    is called in one thread of its own, and is not closed.
    """
    workers = Threads(1, "fedbus-sink")
    telling = _Telling(sink, session, federation.subjects.workspace, workers)
    try:
        journal = federation.journal
        entries = journal.follow(session) if follow else journal.entries(session)
        async with aclosing(entries):
            async for journalled in entries:
                await telling.take(journalled)
                if telling.ended:
                    break
        await telling.flush()
    finally:
        workers.close()
    if telling.started is None and not telling.ended and not follow:
        raise NotFound(f"session {session}: no such session; `fedbus session list` shows those that exist")
    return telling.ended


async def track_all(federation: Federation, sink: Sink, *, follow: bool = True) -> int:
    """Tell a sink of every session of the workspace, and with ``follow`` of those that come; returns how many.

    With ``follow`` it runs until it is cancelled.
    """
    workers = Threads(1, "fedbus-sink")
    workspace = federation.subjects.workspace
    telling: dict[str, _Telling] = {}
    ended = 0
    try:
        async with aclosing(federation.journal.follow() if follow else federation.journal.entries()) as entries:
            async for journalled in entries:
                name = journalled.session
                one = telling.setdefault(name, _Telling(sink, name, workspace, workers))
                await one.take(journalled)
                if one.ended:
                    await one.flush()
                    ended += one.started is not None
                    del telling[name]
        for one in telling.values():
            await one.flush()
    finally:
        workers.close()
    return ended + sum(one.started is not None for one in telling.values())


@dataclass(slots=True)
class _Telling:
    """What of a session's journal a sink is told."""

    sink: Sink
    session: str
    workspace: str
    workers: Workers
    started: Tracked | None = None
    ended: bool = False
    _version: str = ""
    _digest: str = ""
    _refused: int = 0

    async def take(self, journalled: Journalled) -> None:
        """Tell what became true with an entry; what is taken is there for good before the journal is waited for."""
        for record in journalled.entry.unpack():
            call = self._call(record, journalled.entry.at)
            if call is not None:
                await self._patiently(call)
        if not journalled.pending:
            await self.flush()

    async def flush(self) -> None:
        """Let the sink keep what it was told."""
        if self.started is not None:
            await self._patiently(self.sink.flush)

    async def _patiently(self, call: Callable[[], None]) -> None:
        pause_s = PAUSE_S
        while True:
            running = asyncio.ensure_future(self.workers.run(call))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])  # whoever closes the sink next must not meet it at work
                raise
            except SinkUnavailable as error:
                log.warning("session %s: the sink is away, it is tried again in %g s: %s", self.session, pause_s, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _call(self, record: Record, at: float) -> Callable[[], None] | None:
        """Return what a record says to the sink."""
        if isinstance(record, records.SessionStarted):
            started = self._begin(record, at)
            return lambda: self.sink.started(started)
        session = self.started
        if session is None:
            self.ended = isinstance(record, records.SessionEnded)
            return None  # it was refused before it began
        match record:
            case records.RoundOpened():
                self._refused = 0
            case records.UpdatesRecorded():
                self._refused += len(record.refused)
            case records.ModelPublished():
                self._version, self._digest = record.version, record.digest
            case records.RoundClosed():
                closed = self._closed(record, at)
                return lambda: self.sink.round(session, closed)
            case records.RoundEvaluated():
                found = Evaluated(record.round, at, record.version, record.answered, dict(record.metrics))
                return lambda: self.sink.evaluated(session, found)
            case records.SessionEnded():
                self.ended = True
                end = Ended(at, record.outcome, record.reason, self._version, self._digest)
                return lambda: self.sink.ended(session, end)
            case _:
                pass
        return None

    def _begin(self, record: records.SessionStarted, at: float) -> Tracked:
        self._version, self._digest, self.ended = record.version, record.digest, False
        self.started = Tracked(
            workspace=self.workspace,
            session=self.session,
            at=at,
            by=record.by,
            config=record.config.model_dump(mode="json"),
            version=record.version,
            digest=record.digest,
            base=record.base,
        )
        return self.started

    def _closed(self, record: records.RoundClosed, at: float) -> ClosedRound:
        return ClosedRound(
            round=record.round,
            at=at,
            version=self._version,
            digest=self._digest,
            counted=record.counted,
            refused=self._refused,
            seconds=max(0.0, at - record.opened_at),
            bytes_up=record.bytes_up,
            bytes_down=record.bytes_down,
            metrics=dict(record.metrics),
        )
