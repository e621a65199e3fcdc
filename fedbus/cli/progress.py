"""A session's progress for people: a live table on a terminal, one plain line per happening elsewhere.

`Progress` knows what to say and touches nothing; `show` listens and prints.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fedbus.cli.output import duration, metrics_text, names_text, size
from fedbus.errors import BusUnavailable
from fedbus.federation.service import Federation, RoundInfo, Session, SessionEvent, SessionInfo
from fedbus.messages import records
from fedbus.messages.queries import KNOWN_MAX, Wait
from fedbus.together import together

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

ROUNDS_SHOWN = 15
"""Rows of the live table: with its frame and two lines it fits into a terminal of 24."""

ASK_S = 1.0
"""How often the coordinator is asked what waits."""

QUIET_S = 5.0
"""A wait is worth a plain line only when it lasts: a round of the demo is over in a tenth of a second."""

REFUSALS_SHOWN = 10
"""Refusals of a round that are worth a line each: an app that raises does so on every client."""

REFRESH_PER_S = 8


def wait_text(wait: Wait, now: Callable[[], float] = time.time) -> str:
    """Return what waits in words: ``waiting for updates of 2 of 5 clients (a training, b), 14 s left, then ...``."""
    on = f" ({names_text([_doing(wait, name, now) for name in wait.on])})" if wait.on else ""
    others = [name for name in wait.doing if name not in wait.on]
    if others:  # so many are named at most: how many more there are is not known here
        there = names_text(others) if len(others) < KNOWN_MAX else f"{', '.join(others[:5])} and more"
        on += f"; there: {there}"
    left = wait.until_at - now()
    until = f"{duration(left)} left" if left > 0 else "time is up"
    return f"{wait.what}{on}, {until}, then {wait.then}"


def _doing(wait: Wait, name: str, now: Callable[[], float]) -> str:
    """Return a client's name, and what is known of it."""
    since = wait.away.get(name)
    if since is None:
        return f"{name} {wait.doing.get(name, '')}".rstrip()
    return f"{name} not connected for {duration(now() - since)}" if since else f"{name} not connected"


class Progress:
    """What is known of a session, and the words for it."""

    def __init__(self, info: SessionInfo, now: Callable[[], float] = time.time) -> None:
        self.info = info
        self._now = now
        self.waits: list[Wait] = []
        self.asked = 0
        self._told = 0
        self._refused = 0
        self._refusals_of: Counter[int] = Counter()
        self._said_wait = ("", 0)

    def take(self, event: SessionEvent) -> list[str]:
        """Take note of an event; returns the plain lines that it is worth."""
        record = event.data
        self.info.apply(record, event.at)
        if isinstance(record, records.RoundOpened):
            self.asked = len(record.clients)
        lines = list(self._refusals())
        if isinstance(record, records.RoundEvaluated | records.RoundOpened | records.SessionEnded):
            lines += list(self._rounds())
            # what is replayed from the journal is over: how long it took then is no news
            if lines and self._now() - event.at < QUIET_S and self.left_s() >= QUIET_S:
                lines[-1] += f"; {self._left()}"
        match record:
            case records.RoundFailed():
                lines.append(f"round {record.round} failed: {record.reason}")
            case records.ClientsMoved():
                lines.append(
                    f"round {record.round}: {len(record.moves)} clients send to another combiner: {record.reason}"
                )
            case _:
                pass
        return lines

    def left_s(self) -> float:
        """Return about how many seconds its other rounds take; 0 where that is not known."""
        return self.info.left_s(self._now()) or 0.0

    def _left(self) -> str:
        return f"about {duration(max(1.0, round(self.left_s())))} left"

    def _rounds(self) -> Iterator[str]:
        """Yield each closed round once, as soon as nothing more will be known of it."""
        for found in self.info.rounds[self._told :]:
            yield round_text(found)
        self._told = len(self.info.rounds)

    def _refusals(self) -> Iterator[str]:
        for round_, client, reason in self.info.refused[self._refused :]:
            self._refused += 1
            self._refusals_of[round_] += 1
            if self._refusals_of[round_] <= REFUSALS_SHOWN:
                yield f"round {round_}: {client} refused: {reason}"
            elif self._refusals_of[round_] == REFUSALS_SHOWN + 1:
                yield f"round {round_}: more clients are refused; the journal names them all"

    def lasting_waits(self, now: float) -> list[str]:
        """Return the waits that have lasted for `QUIET_S`, each once for as long as who is missing stays the same."""
        for wait in self.waits:
            mark = (f"{wait.round} {wait.what} {wait.on}", wait.missing)
            if now - wait.since_at >= QUIET_S and mark != self._said_wait:
                self._said_wait = mark
                return [f"round {wait.round}: {wait_text(wait, lambda: now)}"]
        return []

    def render(self) -> Group:
        """Return the live table of the latest rounds, and below it what is waited for."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        info = self.info
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = list(dict.fromkeys(name for found in info.rounds for name in (*found.metrics, *found.train_metrics)))
        for column in ("round", "clients", "took", "up", "down", *names):
            table.add_column(column, justify="right", min_width=6)
        for found in info.rounds[-ROUNDS_SHOWN:]:
            values = {**found.train_metrics, **found.metrics}
            table.add_row(
                str(found.round),
                str(found.counted),
                duration(found.seconds),
                size(found.bytes_up),
                size(found.bytes_down),
                *(f"{values[name]:.4g}" if name in values else "" for name in names),
            )
        head = f"{info.session}: {info.state}, {len(info.rounds)} of {info.config.rounds} rounds"
        left = f", {self._left()}" if self.left_s() >= 1 else ""
        parts: list[RenderableType] = [Text(head + left, style="bold")]
        if info.rounds:
            parts.append(table)
        parts += [Text(wait_text(wait, self._now), style="dim") for wait in self.waits if not info.ended]
        return Group(*parts)


def round_text(found: RoundInfo) -> str:
    """Return a round in one line."""
    text = (
        f"round {found.round:3d}: {found.counted} clients, {duration(found.seconds)}, "
        f"{size(found.bytes_up)} up, {size(found.bytes_down)} down"
    )
    metrics = metrics_text({**found.train_metrics, **found.metrics})
    left_out = f"; not counted: {names_text(list(found.not_counted))}" if found.not_counted else ""
    return f"{text}  {metrics}{left_out}".rstrip()


async def show(federation: Federation, session: Session, progress: Progress) -> None:
    """Show a session's progress on stdout until it ends."""
    if sys.stdout.isatty():
        await _show_live(federation, session, progress)
    else:
        await _show_plain(federation, session, progress)


async def _show_live(federation: Federation, session: Session, progress: Progress) -> None:
    from rich.live import Live

    with Live(get_renderable=progress.render, refresh_per_second=REFRESH_PER_S, vertical_overflow="visible"):
        async with together() as group:
            asking = group.create_task(_ask(federation, progress, lambda: None))
            async for event in session.events():
                progress.take(event)
            asking.cancel()


async def _show_plain(federation: Federation, session: Session, progress: Progress) -> None:
    def tell_waits() -> None:
        for line in progress.lasting_waits(federation.now()):
            print(line, flush=True)

    async with together() as group:
        asking = group.create_task(_ask(federation, progress, tell_waits))
        async for event in session.events():
            for line in progress.take(event):
                print(line, flush=True)
        asking.cancel()


@asynccontextmanager
async def waits_told(federation: Federation, kind: str) -> AsyncIterator[None]:
    """Say on stderr what sessions wait for whose names begin with ``kind``, when it lasts.

    For commands whose answer comes at the end: who sits in front of them sees why it does not come.
    """
    async with together() as group:
        telling = group.create_task(_tell(federation, kind))
        yield
        telling.cancel()


async def _tell(federation: Federation, kind: str) -> None:
    said: dict[str, str] = {}
    while True:
        await asyncio.sleep(ASK_S)
        try:
            waits = await federation.waits()
        except BusUnavailable:
            continue
        for line in lasting(waits, kind, said, federation.now()):
            print(line, file=sys.stderr, flush=True)


def lasting(waits: Sequence[Wait], kind: str, said: dict[str, str], now: float) -> list[str]:
    """Return waits of such sessions that have lasted for `QUIET_S`, each once, which is noted in ``said``."""
    lines = []
    for wait in waits:
        lasts = wait.session.startswith(kind) and now - wait.since_at >= QUIET_S
        if lasts and said.get(wait.session) != wait.what:
            said[wait.session] = wait.what
            lines.append(f"{wait.session}: {wait_text(wait, lambda: now)}")
    return lines


async def _ask(federation: Federation, progress: Progress, then: Callable[[], None]) -> None:
    """Keep asking what waits. A coordinator that is away is no reason to stop watching: the journal goes on with it."""
    while True:
        await asyncio.sleep(ASK_S)
        try:
            waits = await federation.waits()
        except BusUnavailable:
            continue
        progress.waits = [wait for wait in waits if wait.session == progress.info.session]
        then()
