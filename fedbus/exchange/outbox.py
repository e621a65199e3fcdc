"""Reports that arrive: each is repeated until the coordinator says that it has it.

The coordinator acknowledges a report when what it says stands in the journal; a report may arrive twice, and in any
order. One outbox serves all clients of a crowd. In a secured workspace each is signed, also when it is said again: by
whatever identity there is then.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fedbus.bus.base import Subscription
from fedbus.exchange.station import Station
from fedbus.messages.envelope import Body
from fedbus.messages.presence import NameIsTaken
from fedbus.messages.reports import ReportTaken

REPEAT_S = 1.0
"""First pause before a repeat: many times a journal's append; doubled up to `REPEAT_S_MAX`."""

REPEAT_S_MAX = 8.0
"""Longest pause: how long a coordinator that comes back waits for a report at most."""

REPORTS_MAX = 100_000
"""Most reports that wait; beyond it the oldest are forgotten, since their round is long over."""


@dataclass(slots=True)
class _Waiting:
    body: Body
    station: Station
    headers: Mapping[str, str]
    pause_s: float


class Outbox:
    """The reports of one role that are not acknowledged yet."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._waiting: dict[str, _Waiting] = {}
        # When each is due, soonest first; one that was taken stays until it would have been due.
        self._due: list[tuple[float, str]] = []
        self._asleep_until = float("inf")
        self._count = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def put(self, report: Body, headers: Mapping[str, str] | None = None, station: Station | None = None) -> None:
        """Send a report, and again until it is taken; ``station``: in whose name, where it is not the role's own."""
        self._count += 1
        id_ = f"{self._station.source}-r{self._count}"
        if len(self._waiting) >= REPORTS_MAX:
            self._waiting.pop(next(iter(self._waiting)))
        self._waiting[id_] = _Waiting(report, station or self._station, dict(headers or {}), REPEAT_S)
        self._schedule(id_)
        await self._say(id_)

    def taken(self, body: ReportTaken) -> None:
        """Forget what the coordinator has."""
        for id_ in body.reports:
            self._waiting.pop(id_, None)
        if not self._waiting:
            self._due.clear()

    async def hear(self, acks: Subscription) -> None:
        """Forget what the coordinator acknowledges; runs until cancelled, or until our name is another's: NameTaken."""
        async for heard in self._station.hear(acks):
            match heard.envelope.body:
                case ReportTaken() as body:
                    self.taken(body)
                case NameIsTaken() as body:
                    self._station.heed(body)

    async def run(self) -> None:
        """Repeat what is due; runs until cancelled, asleep while nothing waits."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._asleep_until = self._due[0][0] if self._due else float("inf")
            pause_s = max(self._asleep_until - loop.time(), 0.01) if self._due else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()  # a new report is due before those that have waited for long
            while self._due and self._due[0][0] <= loop.time():
                _, id_ = heapq.heappop(self._due)
                waiting = self._waiting.get(id_)
                if waiting is not None:
                    waiting.pause_s = min(waiting.pause_s * 2, REPEAT_S_MAX)
                    self._schedule(id_)
                    await self._say(id_)

    def _schedule(self, id_: str) -> None:
        due = asyncio.get_running_loop().time() + self._waiting[id_].pause_s
        heapq.heappush(self._due, (due, id_))
        if due < self._asleep_until:
            self._wake.set()

    async def _say(self, id_: str) -> None:
        waiting = self._waiting[id_]
        station = waiting.station
        await station.vouch(station.subjects.report(station.peer), waiting.body, waiting.headers, id_)
