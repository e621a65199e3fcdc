"""What the gateway knows of models, kept up to date: the catalogue, the registry and its notes, each followed.

It is for lists, which would cost a read of the whole catalogue each. One version is read when it is asked for; whoever
has just changed one tells it here (`Catalogue.refresh`), so that a list which is asked for next shows it.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fedbus.bus.base import Message
from fedbus.bus.patience import patiently
from fedbus.errors import BadMessage, BusDenied, BusUnavailable, NotFound
from fedbus.federation.lineage import Lineage
from fedbus.federation.registered import ModelInfo
from fedbus.federation.registry import info_of, session_of
from fedbus.federation.service import Federation
from fedbus.federation.versions import VersionFacts
from fedbus.messages.envelope import decode
from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import RegistryState, VersionNote

log = logging.getLogger("fedbus.gateway")

READY_S_MAX = 8.0
"""How long a request waits for a gateway that has just begun; then it is told to come again."""

PAUSE_ENTRIES = 200
"""Entries that are read in one go; others have their turn in between."""

LOOKED_AT = 5000
"""Versions that are looked at in one go for a filtered list: a millisecond or two."""

AGAIN_S = 5.0
"""How often a registry is looked for that is not there yet: a coordinator makes it."""


IMPORTS_AT_ONCE = 4
"""Models that one gateway brings in at once: each holds some MB, and takes its share of the broker."""

DOWNLOADS_AT_ONCE = 64
"""Models that one gateway sends at once: each holds some MB."""


class Place(NamedTuple):
    """Where a version stands in a list: by the time of its publication."""

    at: float
    version: str


class Asked(NamedTuple):
    """Which versions: all that is given has to hold."""

    session: str = ""
    stage: str = ""
    text: str = ""
    kept: str = ""


def _place(entry: ModelPublished) -> Place:
    return Place(entry.at, entry.version)


class Catalogue:
    """The versions of a workspace. ``importing``, ``downloading``: places of those who bring models in, and fetch them.

    ``facts``: what journals say of a version.
    """

    def __init__(self, federation: Federation, facts: Callable[[str], VersionFacts | None]) -> None:
        self.state = RegistryState()
        self._federation = federation
        self._facts = facts
        self.lineage = Lineage()
        self._places: list[Place] = []
        self._removed: dict[str, None] = {}
        self._notes: dict[str, str] = {}
        self._caught_up = asyncio.Event()
        self.importing = asyncio.Semaphore(IMPORTS_AT_ONCE)
        self.downloading = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

    def __len__(self) -> int:
        return len(self._places)

    async def wait(self) -> None:
        """Wait until the catalogue was read once; `BusUnavailable` where that takes long."""
        try:
            async with asyncio.timeout(READY_S_MAX):
                await self._caught_up.wait()
        except TimeoutError as error:
            raise BusUnavailable("the catalogue is still being read: ask again in a moment") from error

    # --- what comes ---

    async def run(self) -> None:
        """Follow the catalogue; runs until cancelled. Raises what ends a follow, `BusClosed` for one."""
        subjects = self._federation.subjects
        await self._follow(subjects.stream("model"), subjects.model(), self._take_entry, self._caught_up.set)

    async def watch(self) -> None:
        """Follow the registry, as soon as there is one; runs until cancelled."""
        subjects = self._federation.subjects
        while True:
            try:
                await self._federation.registry.store.read()
                break
            except (BusUnavailable, BusDenied, BadMessage) as error:
                log.debug("the registry cannot be read: %s", error)
                await asyncio.sleep(AGAIN_S)
        await self._follow(subjects.stream("registry"), subjects.registry(), self._take_registered, lambda: None)

    async def _follow(
        self, stream: str, pattern: str, take: Callable[[Message], None], whole: Callable[[], None]
    ) -> None:
        bus = self._federation.bus
        if not await patiently(bus, lambda: bus.pending(stream, pattern), tries_max=None):
            whole()
        anew = count = 0
        subscription = await patiently(bus, lambda: bus.follow(stream, pattern), tries_max=None)
        try:
            async for message in subscription:
                if message.anew != anew:
                    anew = message.anew
                    self._lost(stream)
                try:
                    take(message)
                except BadMessage as error:
                    log.warning("an entry of the catalogue is passed over: %s", error)
                count += 1
                if not message.pending:
                    whole()
                if not count % PAUSE_ENTRIES:
                    await asyncio.sleep(0)
        finally:
            await subscription.close()

    def _lost(self, stream: str) -> None:
        """The broker came back without a stream, and it is filled again: what is known of it is old."""
        if stream == self._federation.subjects.stream("registry"):
            self.state, self._notes = RegistryState(), {}
        else:
            self.lineage, self._places, self._removed = Lineage(), [], {}

    def _take_entry(self, message: Message) -> None:
        body = decode(message.data, message.subject).body
        if isinstance(body, ModelPublished):
            self.enter(body)

    def enter(self, entry: ModelPublished) -> None:
        """Take an entry of the catalogue, new or changed."""
        before = self.lineage.entries.get(entry.version)
        if before is None or before.at != entry.at:
            if before is not None:
                del self._places[bisect_left(self._places, _place(before))]
            insort(self._places, _place(entry))
        self.lineage.add(entry)
        if entry.removed_at:
            self._removed[entry.version] = None
        else:
            self._removed.pop(entry.version, None)

    def _take_registered(self, message: Message) -> None:
        match decode(message.data, message.subject).body:
            case RegistryState() as state:
                self.state = state
            case VersionNote() as note:
                self.note(note.version, note.note)
            case _:
                pass

    def note(self, version: str, text: str) -> None:
        """Take what is noted beside a version."""
        if text:
            self._notes[version] = text
        else:
            self._notes.pop(version, None)

    async def refresh(self, *versions: str) -> None:
        """Read what was changed by a request, so that lists show it from now on."""
        store, registry = self._federation.store, self._federation.registry.store
        self.state = (await registry.read()).state
        for version in versions:
            try:
                self.enter(await store.find(version))
            except NotFound:
                continue
            self.note(version, await registry.note(version))

    # --- what is asked ---

    async def page(self, asked: Asked, before: Place | None, limit: int) -> tuple[list[ModelInfo], bool]:
        """Return versions, newest first, behind a place of this order; and whether more follow."""
        found: list[ModelInfo] = []
        places = self._candidates(asked)
        fits, entries = self._fits(asked), self.lineage.entries
        stop = bisect_left(places, before) if before is not None else len(places)
        for count, place in enumerate(reversed(places[:stop]), 1):
            if not count % LOOKED_AT:
                await asyncio.sleep(0)
            entry = entries.get(place.version)
            if entry is None or not fits(entry):
                continue
            info = await self.info(entry)
            if asked.kept and info.kept != asked.kept:
                continue
            if len(found) == limit:
                return found, True
            found.append(info)
        return found, False

    def _candidates(self, asked: Asked) -> list[Place]:
        """Return places, in order, among which everything is that is asked for: as few as are known to suffice."""
        some: Iterable[str] | None = None
        if asked.stage:
            stage = self.state.stages.get(asked.stage)
            some = (stage.now.version,) if stage is not None else ()
        elif asked.kept == "retired":
            some = (one.version for one in self.state.retired)
        elif asked.session:
            some = self.lineage.session(asked.session)
        elif asked.kept in ("removed", "archived"):
            some = self._removed
        if some is None:
            return self._places
        entries = self.lineage.entries
        return sorted(_place(entries[version]) for version in some if version in entries)

    def _fits(self, asked: Asked) -> Callable[[ModelPublished], bool]:
        """Return what tells whether an entry is asked for, as far as nobody else has to be asked."""
        text, notes = asked.text.lower(), self._notes
        kept_here = asked.kept in ("kept", "retired")

        def fits(entry: ModelPublished) -> bool:
            if kept_here and entry.removed_at:
                return False
            if asked.session and session_of(entry) != asked.session:
                return False
            if not text:
                return True
            return text in entry.version.lower() or text in notes.get(entry.version, "").lower()

        return fits

    async def info(self, entry: ModelPublished) -> ModelInfo:
        """Return a version at a glance."""
        kept = await self._federation.registry.kept(entry, self.state)
        note = self._notes.get(entry.version, "")
        return info_of(entry, self.state, note, self._facts(entry.version), kept)
