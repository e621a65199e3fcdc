"""Events to everybody who reads them live, each once, in order, without a gap.

The newest events are held once for all readers; each reader only knows its position. Where it is behind what is held -
it resumes, it begins at the beginning, or its line is slow - it reads the journal itself up to where it was when it
began that, and looks again. So a reader costs no memory while it is slow, and none waits for another.

    position --> held from there on?  yes: take from what is held, wait for more
                                      no:  read the journal up to the newest, then ask again

Where the journal was written again (`fedbus.gateway.projection`) a reader is told `Reset`: what it was told may have
changed, and all of it follows from the beginning.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from fedbus.errors import BusUnavailable
from fedbus.gateway.events import BEGINNING, Event, events_of
from fedbus.gateway.index import Position
from fedbus.store.journal import Journal, Journalled

HELD_MAX = 8192
"""Events that are held: minutes of a busy workspace."""

HELD_BYTES_MAX = 32 * 2**20
"""Bytes of them as they are stored; decoded and as JSON they take some five times as much."""

LAG_S_MAX = 2.0
"""How long a reader waits that names a place behind the newest that is known, before that counts as gone."""

BATCH = 64
"""Events that a reader takes before it looks where it stands."""

BEHIND_S_MAX = 30.0
"""How long a reader waits for an entry of the journal that is known to be there; then its stream ends: it resumes."""

ALL = ""
"""In place of a session: the whole workspace."""


@dataclass(frozen=True, slots=True)
class Reset:
    """What was told no longer holds; all of it follows from the beginning."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing came for so long."""


@dataclass(frozen=True, slots=True)
class Said:
    """Something that is no event of the journal, as it travels."""

    frame: bytes


Told = Event | Reset | Quiet | Said


class Feed:
    """The newest events, and who waits for more.

    ``position``: of the newest event; ``readers``: how many there are, ``listeners``: those of the whole workspace.
    ``life``: how often the journal was written again.
    ``journal``: where it is read; ``last_of``: the sequence of a session's newest entry, 0 where it has none.
    """

    def __init__(self, journal: Callable[[], Journal], last_of: Callable[[str], int]) -> None:
        self.position = BEGINNING
        self.readers = self.listeners = 0
        self._journal = journal
        self._last_of = last_of
        self._held: list[Event] = []
        self._held_bytes = 0
        self._floor = BEGINNING
        self._restored = 0
        self.life = 0
        self._begun = asyncio.Event()
        self._news: dict[str, asyncio.Event] = {}
        self._said = Said(b"")
        self._said_number = 0

    # ---- what is told to it

    def begin(self, position: Position, restored: int, *, again: bool) -> None:
        """Begin behind an event; with ``again``, what was told before no longer holds. ``restored``: newest mark."""
        self.position = self._floor = position
        self._held, self._held_bytes, self._restored = [], 0, restored
        self.life += again
        self._begun.set()
        for key in list(self._news):
            self._wake(key)

    def take(self, journalled: Journalled) -> None:
        """Hand on the next entry of the journal."""
        for event in events_of(journalled):
            self._held.append(event)
            self._held_bytes += event.nbytes
            self.position = event.position
        self._let_go()
        self._wake(ALL)
        self._wake(journalled.session)

    def say(self, frame: bytes) -> None:
        """Say something that is no event to those who read the whole workspace; only the newest of it matters."""
        self._said = Said(frame)
        self._said_number += 1
        self._wake(ALL)

    def _let_go(self) -> None:
        if len(self._held) <= HELD_MAX and self._held_bytes <= HELD_BYTES_MAX:
            return
        half = max(1, len(self._held) // 2)  # many at once: a list is emptied from its front in one go
        self._floor = self._held[half - 1].position
        self._held_bytes -= sum(event.nbytes for event in self._held[:half])
        del self._held[:half]

    def _wake(self, key: str) -> None:
        waiting = self._news.pop(key, None)
        if waiting is not None:
            waiting.set()

    # ---- what readers get

    async def read(self, session: str, start: Position | None, *, quiet_s: float) -> AsyncGenerator[Told, None]:
        """Yield events behind a position, None: from now on; of one session, or of `ALL`; never ends by itself.

        `Quiet` after each ``quiet_s`` without anything. Raises `BusUnavailable` where the journal does not come.
        """
        self.readers += 1
        self.listeners += session == ALL
        try:
            await self._begun.wait()
            async with aclosing(self._read(session, start, quiet_s)) as told:
                async for one in told:
                    yield one
        finally:
            self.readers -= 1
            self.listeners -= session == ALL

    async def _read(self, session: str, start: Position | None, quiet_s: float) -> AsyncGenerator[Told, None]:
        life, heard = self.life, 0
        position = self.position if start is None else start
        await self.reach(position)
        if self._is_gone(position):
            life = -1
        while True:
            if self.life != life:
                life, position = self.life, BEGINNING
                yield Reset()
            if session == ALL and self._said_number != heard:
                heard = self._said_number
                yield self._said
            if position < self._floor:
                end = self.position
                async with aclosing(self._behind(session, position, end)) as events:
                    async for event in events:
                        position = event.position
                        yield event
                position = max(position, end)  # all of it, or the journal was written again, which is told next
                continue
            some = self._next(position)
            for event in some:
                position = event.position
                if session in (ALL, event.session):
                    yield event
            if not some and not await self.news(session, quiet_s):
                yield Quiet()

    async def reach(self, position: Position) -> None:
        """Wait until a place is known, though not for long: another gateway may have told of it a moment before us."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LAG_S_MAX
        while position.sequence > self.position.sequence and (left_s := end - loop.time()) > 0:
            await self.news(ALL, left_s)

    def _is_gone(self, position: Position) -> bool:
        """Whether a position is of a journal that was lost: beyond its end, or before what was written again."""
        beyond = position.sequence > self.position.sequence  # an entry is known as a whole: its sequence decides
        return position > BEGINNING and (beyond or position.sequence < self._restored)

    def _next(self, position: Position) -> list[Event]:
        at = bisect_right(self._held, position, key=lambda event: event.position)
        return self._held[at : at + BATCH]

    async def news(self, key: str, within_s: float) -> bool:
        """Wait for news; whether there are any."""
        try:
            async with asyncio.timeout(within_s):
                await self._news.setdefault(key, asyncio.Event()).wait()
        except TimeoutError:
            return False
        return True

    async def _behind(self, session: str, position: Position, end: Position) -> AsyncGenerator[Event, None]:
        """Yield what the journal has behind a position, up to another."""
        last = self._last_of(session) if session else end.sequence
        if last < position.sequence or not last:
            return
        follow = self._journal().follow(session or "*", max(1, position.sequence))
        try:
            while True:
                journalled = await _within(follow)
                for event in events_of(journalled):
                    if position < event.position <= end:
                        yield event
                if journalled.sequence >= min(last, end.sequence) or not journalled.pending:
                    return
        finally:
            await follow.aclose()


async def _within(follow: AsyncIterator[Journalled]) -> Journalled:
    try:
        async with asyncio.timeout(BEHIND_S_MAX):
            return await anext(follow)
    except TimeoutError as error:
        raise BusUnavailable(f"the journal did not come within {BEHIND_S_MAX:g} s: resume") from error
