"""One session of a federation: its journal as events, as a summary, as reports; its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from fedbus.errors import NotFound, SessionFailed
from fedbus.federation.cloning import config_of_clone, model_of_clone
from fedbus.federation.comparing import Curve, curves_of
from fedbus.federation.evaluating import EvaluationResult
from fedbus.federation.exporting import Format, What, exported
from fedbus.federation.info import RoundInfo, SessionEvent, SessionInfo, SessionResult
from fedbus.federation.report import RoundReport
from fedbus.federation.rounds import Rounds
from fedbus.federation.traces import RoundTrace, spans_of, why_not
from fedbus.messages import records
from fedbus.messages.commands import StopSession
from fedbus.together import together

if TYPE_CHECKING:
    from fedbus.federation.service import Federation

LOOK_S = 1.0
"""How often it is looked whether the bus was away while something of a session is waited for."""

GONE_S = 60.0
"""How long a session may be gone from the journal: a coordinator that has copies writes it again within seconds."""


class Session:
    """One session of a federation."""

    def __init__(self, federation: Federation, name: str) -> None:
        self._federation = federation
        self.name = name

    async def events(self, from_sequence: int = 1) -> AsyncIterator[SessionEvent]:
        """Everything that became true in the session, from the beginning, then as it comes; ends with the session."""
        async for journalled in self._federation.journal.follow(self.name, from_sequence):
            for index, record in enumerate(journalled.entry.unpack()):
                yield SessionEvent(self.name, journalled.sequence, journalled.entry.at, record.kind, record, index)
                if isinstance(record, records.SessionEnded):
                    return

    async def recorded(self) -> AsyncIterator[SessionEvent]:
        """Everything that stands in the session's journal now; waits for nothing more."""
        async for journalled in self._federation.journal.entries(self.name):
            for index, record in enumerate(journalled.entry.unpack()):
                yield SessionEvent(self.name, journalled.sequence, journalled.entry.at, record.kind, record, index)

    def export(self, format_: Format = "json", what: What = "rounds") -> AsyncIterator[str]:
        """Return it as text, part by part: JSON with all of it, or CSV of its rounds, its clients' rounds, its curves.

        `NotFound` where there is no such session.
        """
        return exported(self, format_, what)

    async def clone(
        self, *, config: Mapping[str, Any] | None = None, model: str | None = None, name: str | None = None
    ) -> Session:
        """Start a session like this one, with some settings changed; ``model`` None: the version that it began with.

        Raises `ConfigError` for settings that cannot be, `NotFound` where this session or the version is not there
        (any more), and what `Federation.start_session` raises.
        """
        info = await self.info()
        settings = config_of_clone(info, config or {})
        return await self._federation.start_session(settings, model=model or model_of_clone(info), name=name)

    async def info(self) -> SessionInfo:
        """Return the session as it stands; `NotFound` when there is no such session."""
        info = SessionInfo(self.name)
        known = False
        async for event in self.recorded():
            info.apply(event.data, event.at)
            known = True
        if not known:
            raise NotFound(f"session {self.name}: no such session; `fedbus session list` shows those that exist")
        return info

    async def rounds(self) -> list[RoundInfo]:
        """Return its rounds: those that are closed, then the one that is open, or the last attempt that failed.

        `NotFound` where there is no such session.
        """
        info = await self.info()
        return [*info.rounds, *([info.current] if info.current else [])]

    async def curves(self) -> list[Curve]:
        """Return its metrics over the closed rounds; `NotFound` where there is no such session."""
        return curves_of(await self.info())

    async def report(self, round_: int | None = None) -> RoundReport:
        """Return who was waited for in a round, how long, why, and what became of each update; None: the newest.

        Also of a round that is open, or failed: as far as it is. `NotFound` where there is no such session or round.
        """
        found = Rounds(self.name, round_)
        async for event in self.recorded():
            found.take(event.data, event.at)
        report = found.report()
        if report is None:
            await self.info()
            which = "no round was opened yet" if round_ is None else f"round {round_} was not opened"
            raise NotFound(f"session {self.name}: {which}; `fedbus session show {self.name}` tells which were")
        return report

    async def trace(self, round_: int | None = None) -> RoundTrace:
        """Return what every role did for a round, and when, as far as its spans are on the bus; None: the newest.

        `NotFound` where there is no such session or round, or no span of it: the reason says how to get some.
        """
        report = await self.report(round_)
        federation, trace_id = self._federation, report.trace_id
        spans = await spans_of(federation.bus, federation.subjects, trace_id) if trace_id else ()
        if not spans:
            raise NotFound(why_not(self.name, report.round, traced=bool(trace_id)))
        return RoundTrace(trace_id, self.name, report.round, spans)

    async def evaluations(self) -> list[EvaluationResult]:
        """Return what clients found of its versions, evaluation by evaluation: their own metrics, and sums over them.

        `NotFound` where there is no such session.
        """
        await self.info()
        return [
            EvaluationResult.of(self.name, event.data)
            async for event in self.recorded()
            if isinstance(event.data, records.RoundEvaluated)
        ]

    async def wait(self) -> SessionResult:
        """Wait for the end; returns the result, also of a session that was stopped.

        `SessionFailed` when it failed or was refused.
        """
        async with together() as group:
            watching = group.create_task(self._watch())
            info = await self._end()
            watching.cancel()
        if info.state in ("failed", "refused"):
            raise SessionFailed(f"session {self.name} {info.state}: {info.reason}")
        return SessionResult(
            self.name,
            info.state,
            info.reason,
            info.version,
            info.digest,
            info.metrics,
            rounds=len(info.rounds),
            best_version=info.best_version,
            best_value=info.best_value,
        )

    async def _end(self) -> SessionInfo:
        info = SessionInfo(self.name)
        async for event in self.events():
            if isinstance(event.data, records.SessionStarted):
                info = SessionInfo(self.name)  # the broker has lost the journal, and it was written again
            info.apply(event.data, event.at)
        return info

    async def _watch(self) -> None:
        """Raise `SessionFailed` where the broker came back without the session, and nobody writes it again."""
        federation, now = self._federation, asyncio.get_running_loop().time
        seen, gone_at = federation.bus.reconnects, 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            if federation.bus.reconnects == seen or not federation.bus.connected:
                continue
            if await federation.is_known(self.name):
                seen, gone_at = federation.bus.reconnects, 0.0
            elif not gone_at:
                gone_at = now()
            elif now() > gone_at + GONE_S:
                what = f"session {self.name} is gone: the broker came back without it"
                raise SessionFailed(
                    f"{what}, and no coordinator has its journal; `fedbus restore DIR`, then wait again"
                )

    async def stop(self, reason: str = "stopped by request", *, by: str = "") -> None:
        """Ask for the end of the session; `wait` tells when it has come. ``by``: for whom, where a gateway asks."""
        await self.info()
        await self._federation.command(StopSession(session=self.name, reason=reason, by=by), f"stop-{self.name}")
