"""What the gateway knows of models, kept up to date: the catalogue, the registry and its notes, each followed.

It is for lists, which would cost a read of the whole catalogue each. One version is read when it is asked for; whoever
has just changed one tells it here (`Catalogue.refresh`), so that a list which is asked for next shows it.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fedbus.bus.base import Message
from fedbus.bus.patience import patiently
from fedbus.errors import BadMessage, BusUnavailable, NotFound
from fedbus.federation.registered import ModelInfo
from fedbus.federation.registry import info_of, session_of
from fedbus.federation.service import Federation
from fedbus.federation.versions import VersionFacts
from fedbus.messages.envelope import decode
from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import RegistryState, VersionNote

log = logging.getLogger("fedbus.gateway")

READY_S_MAX = 30.0
"""How long a request waits for a gateway that has just begun; then it is told to come again."""

PAUSE_ENTRIES = 200
"""Entries that are read in one go; others have their turn in between."""

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


class Catalogue:
    """The versions of a workspace. ``importing``, ``downloading``: places of those who bring models in, and fetch them.

    ``facts``: what journals say of a version.
    """

    def __init__(self, federation: Federation, facts: Callable[[str], VersionFacts | None]) -> None:
        self.state = RegistryState()
        self._federation = federation
        self._facts = facts
        self._entries: dict[str, ModelPublished] = {}
        self._places: list[Place] = []
        self._children: dict[str, list[str]] = {}
        self._notes: dict[str, str] = {}
        self._caught_up = asyncio.Event()
        self.importing = asyncio.Semaphore(IMPORTS_AT_ONCE)
        self.downloading = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

    def __len__(self) -> int:
        return len(self._entries)

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
            except (BusUnavailable, BadMessage):
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
            self._entries, self._places, self._children = {}, [], {}

    def _take_entry(self, message: Message) -> None:
        body = decode(message.data, message.subject).body
        if isinstance(body, ModelPublished):
            self.enter(body)

    def enter(self, entry: ModelPublished) -> None:
        """Take an entry of the catalogue, new or changed."""
        before = self._entries.get(entry.version)
        if before is not None:
            del self._places[bisect_left(self._places, Place(before.at, before.version))]
            if before.parent:
                self._children[before.parent].remove(before.version)
        self._entries[entry.version] = entry
        insort(self._places, Place(entry.at, entry.version))
        if entry.parent:
            self._children.setdefault(entry.parent, []).append(entry.version)

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

    def children(self, version: str) -> tuple[str, ...]:
        """Return the versions that were made from one."""
        return tuple(self._children.get(version, ()))

    def entries(self) -> Iterator[ModelPublished]:
        """Yield all entries, in the order in which they came."""
        yield from self._entries.values()

    async def page(self, asked: Asked, before: Place | None, limit: int) -> tuple[list[ModelInfo], bool]:
        """Return versions, newest first, behind a place of this order; and whether more follow."""
        found: list[ModelInfo] = []
        stop = bisect_left(self._places, before) if before is not None else len(self._places)
        for place in self._places[:stop][::-1]:
            info = await self._wanted(self._entries.get(place.version), asked)
            if info is None:
                continue
            if len(found) == limit:
                return found, True
            found.append(info)
        return found, False

    async def _wanted(self, entry: ModelPublished | None, asked: Asked) -> ModelInfo | None:
        if entry is None or (asked.session and session_of(entry) != asked.session):
            return None
        if asked.stage and asked.stage not in self.state.stages_of(entry.version):
            return None
        if asked.text and asked.text.lower() not in f"{entry.version}\n{self._notes.get(entry.version, '')}".lower():
            return None
        if asked.kept in ("kept", "retired") and entry.removed_at:
            return None
        info = await self.info(entry)
        return info if not asked.kept or info.kept == asked.kept else None

    async def info(self, entry: ModelPublished) -> ModelInfo:
        """Return a version at a glance."""
        kept = await self._federation.registry.kept(entry, self.state)
        note = self._notes.get(entry.version, "")
        return info_of(entry, self.state, note, self._facts(entry.version), kept)
