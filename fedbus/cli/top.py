"""`fedbus top`: everything at a glance in a terminal, over the bus; no gateway is needed.

What is shown is known in the way in which a gateway knows it: the coordinator is asked who is there and what waits, the
broker how full its streams are, and the journals are followed. Where no coordinator answers, that is shown.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fedbus.cli.listing import federation_of
from fedbus.cli.output import print_json
from fedbus.cli.roles import Place
from fedbus.cli.screen import lines
from fedbus.clock import Clock, SystemClock
from fedbus.errors import BusUnavailable
from fedbus.federation.info import SessionSummary, Status
from fedbus.federation.service import Federation
from fedbus.gateway.feed import Feed
from fedbus.gateway.overview import archive_of, broker_of, combiners_of, coordinators_of, peers_of, waits_of
from fedbus.gateway.presence import Presence
from fedbus.gateway.projection import Projection
from fedbus.gateway.views import OverviewView
from fedbus.together import together
from fedbus.version import __version__

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

ENDED_SHOWN = 5
"""Sessions that have ended, the newest: who looks wants to know how the last ones ended."""

PLAIN_WIDTH = 160
"""Where the output is no terminal: as wide as lines of a log are read."""


@dataclass(frozen=True, slots=True)
class SessionLine:
    """A session in one line; ``left_s``: about how long the rest of it takes, None where that is not known."""

    session: str
    status: Status
    state: str
    reason: str
    rounds_closed: int
    rounds: int
    left_s: float | None
    metrics: dict[str, float]
    version: str

    @classmethod
    def of(cls, info: SessionSummary, now: float) -> SessionLine:
        """Return the line of a session, as it is now."""
        return cls(
            session=info.session,
            status=info.status(now),
            state=info.state,
            reason=info.reason,
            rounds_closed=info.rounds_closed,
            rounds=info.config.rounds,
            left_s=info.left_s(now),
            metrics=dict(info.metrics),
            version=info.version,
        )


@dataclass(frozen=True, slots=True)
class Glance:
    """Everything at one moment. ``sessions``: those that run, oldest first, then the newest of those that ended."""

    overview: OverviewView
    sessions: tuple[SessionLine, ...]


class Watch:
    """What is known of a federation while `watching` runs."""

    def __init__(self, federation: Federation, clock: Clock) -> None:
        self._federation = federation
        self._presence = Presence(federation, clock)
        self._sessions = Projection(federation, Feed(lambda: federation.journal, lambda _: 0))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Follow what happens inside the block; it begins when everything is known that has happened before.

        Or when that takes long: where nobody is there, and no stream, that is what is to be seen.
        """
        async with together() as group:
            following = [
                group.create_task(work) for work in (self._presence.run(), self._sessions.run(), self._sessions.watch())
            ]
            with suppress(BusUnavailable):
                await self._sessions.wait()
            yield
            for task in following:
                task.cancel()

    async def look(self) -> Glance:
        """Return what is known now; at most about a second old."""
        known, now = await self._presence.look(), self._federation.now()
        federation, folded = self._federation, self._sessions.folded
        broker = broker_of(federation.bus, self._presence.known.streams)
        overview = OverviewView(
            workspace=federation.subjects.workspace,
            at=now,
            version=__version__,
            broker=broker,
            coordinator_answers=known.answers and broker.connected,
            coordinators=coordinators_of(known),
            combiners=combiners_of(known, self._sessions.loads()),
            gateways=peers_of("gateway", known.gateways),
            clients=len(known.clients),
            clients_doing=dict(known.doing),
            sessions=self._sessions.statuses(now),
            models=next((s.messages for s in broker.streams if s.name == federation.subjects.stream("model")), 0),
            waits=waits_of(known.waits),
            archive=next((archive_of(peer.archive) for peer in known.gateways if peer.archive is not None), None),
        )
        infos = list(folded.sessions.values())
        running = [info for info in infos if not info.ended]
        ended = sorted((info for info in infos if info.ended), key=lambda info: -info.ended_at)[:ENDED_SHOWN]
        return Glance(overview, tuple(SessionLine.of(info, now) for info in (*running, *ended)))


async def top(place: Place, *, every_s: float, once: bool, json: bool) -> None:
    """Show what happens until cancelled; ``once``: as it is now. Where stdout is no terminal it is once, too."""
    async with federation_of(place) as federation:
        watch = Watch(federation, SystemClock())
        async with watch.watching():
            if json:
                await _print(watch, every_s=every_s, once=once)
            elif once or not sys.stdout.isatty():
                for line in lines(await watch.look(), PLAIN_WIDTH, 0):
                    print(line.plain.rstrip())
            else:
                await _live(watch, every_s)


async def _print(watch: Watch, *, every_s: float, once: bool) -> None:
    while True:
        glance = await watch.look()
        sessions = [asdict(line) for line in glance.sessions]
        print_json({**glance.overview.model_dump(mode="json"), "sessions_shown": sessions})
        if once:
            return
        await asyncio.sleep(every_s)


class _Screen:
    """What is known, as large as the terminal is when it is drawn."""

    def __init__(self, glance: Glance) -> None:
        self.glance = glance

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from lines(self.glance, options.max_width, options.height or console.height)


async def _live(watch: Watch, every_s: float) -> None:
    from rich.live import Live

    screen = _Screen(await watch.look())
    with Live(screen, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            await asyncio.sleep(every_s)
            screen.glance = await watch.look()
