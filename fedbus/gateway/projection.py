"""What the gateway knows of all sessions, kept up to date: one follow of the journals of the workspace.

From the beginning of the journal first, which takes seconds; then entry by entry as they are written. Whoever reads
events live is told by the feed (`fedbus.gateway.feed`), in the same order.

A journal that the broker has lost and a coordinator or `fedbus restore` wrote again may say otherwise than it did, and
under other sequences. That is noticed by the stream, which begins anew, or by the marks around what was written again.
Everything is then folded again from the beginning, beside what is known, and takes its place when it is whole.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Mapping

from fedbus.errors import BusUnavailable, NotFound
from fedbus.federation.contributions import Load, Tally
from fedbus.federation.info import SessionInfo, SessionSummary, Status
from fedbus.federation.service import Federation
from fedbus.federation.versions import VersionFacts
from fedbus.gateway.feed import Feed
from fedbus.gateway.folded import Folded
from fedbus.messages.records import RESTORED

log = logging.getLogger("fedbus.gateway")

LOOK_S = 1.0
"""How often it is looked whether the broker came back."""

ANEW_PAUSE_S = 0.5
"""Before all is folded again: sessions are written again one after the other."""

LAG_S_MAX = 2.0
"""How long is waited for what is in the journal, and has not come yet: milliseconds, on a machine that has time."""

READY_S_MAX = 8.0
"""How long a request waits for a gateway that has just begun; then it is told to come again."""


class Projection:
    """What is known of the journals. ``folded``: all of it."""

    def __init__(self, federation: Federation, feed: Feed) -> None:
        self.folded = Folded()
        self._federation = federation
        self._feed = feed
        self._caught_up = asyncio.Event()

    @property
    def caught_up(self) -> bool:
        """Whether everything is known that stood in the journal when the gateway began."""
        return self._caught_up.is_set()

    async def wait(self) -> None:
        """Wait until the journal was read once; `BusUnavailable` where that takes long."""
        try:
            async with asyncio.timeout(READY_S_MAX):
                await self._caught_up.wait()
        except TimeoutError as error:
            raise BusUnavailable("the journal is still being read: ask again in a moment") from error

    async def run(self) -> None:
        """Follow the journal; runs until cancelled. Raises what ends a follow, `BusClosed` for one."""
        while True:
            await self._follow(Folded())
            log.info("the journal was written again; reading it from its beginning")
            await asyncio.sleep(ANEW_PAUSE_S)

    async def _follow(self, folded: Folded) -> None:
        """Fold from the beginning, and go on live, until what was read is no longer what the journal says."""
        journal = self._federation.journal
        live = not await journal.count()
        if live:
            self._whole(folded)
        anew = 0
        async for journalled in journal.follow():
            if journalled.anew != anew and (live or folded.sequence):
                if live:
                    return
                folded = Folded()  # it was lost while we were reading it
            anew = journalled.anew
            folded.take(journalled)
            if not live and not journalled.pending:
                live = True
                self._whole(folded)
            elif live:
                if journalled.entry.mark == RESTORED:
                    return
                self._feed.take(journalled)

    def _whole(self, folded: Folded) -> None:
        """Let what was folded take the place of what was known."""
        again = self.caught_up
        self.folded = folded
        self._feed.begin(folded.position, folded.restored, again=again)
        self._caught_up.set()
        gc.freeze()  # what stays is not looked through again and again: at 100,000 events that stops all for 0.3 s
        log.info("%d events of %d sessions are known", len(folded.index), len(folded.sessions))

    async def watch(self) -> None:
        """Notice a broker that came back without a journal: nothing comes of it that would tell; until cancelled."""
        bus = self._federation.bus
        seen = bus.reconnects
        while True:
            await asyncio.sleep(LOOK_S)
            if bus.reconnects == seen or not bus.connected or not self.folded.sequence:
                continue
            seen = bus.reconnects
            if not await self._federation.journal.count():
                self._whole(Folded())

    # ---- what is asked

    async def summary(self, session: str) -> SessionSummary:
        """Return a session in one line; `NotFound` where there is none."""
        found = self.folded.sessions.get(session)
        if found is None and await self._federation.journal.count(session):
            found = await self._soon(session)  # whoever has started it asks for it at once
        if found is None:
            raise NotFound(f"session {session}: no such session")
        return found

    async def _soon(self, session: str) -> SessionSummary | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + LAG_S_MAX
        while session not in self.folded.sessions and (left_s := end - loop.time()) > 0:
            await self._feed.news(session, left_s)
        return self.folded.sessions.get(session)

    async def info(self, session: str) -> SessionInfo:
        """Return a session with its settings and rounds; `NotFound` where there is none."""
        await self.summary(session)
        found = self.folded.info(session)
        if found is None:
            found = await self._federation.session(session).info()
            if found.ended:
                self.folded.books.put(found)
        return found

    def statuses(self, now: float) -> dict[Status, int]:
        """Return how many sessions stand where."""
        return dict(Counter(info.status(now) for info in self.folded.sessions.values()))

    def loads(self) -> Mapping[str, Load]:
        """Return what combiners have in the rounds that are open, by name."""
        return self.folded.contributions.loads()

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """What clients gave, by name."""
        return self.folded.contributions.tallies

    def version(self, version: str) -> VersionFacts | None:
        """Return what the journals say of a version beyond the catalogue; None where they do not name it."""
        return self.folded.versions.get(version)
