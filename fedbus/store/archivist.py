"""Copies every published version to a store behind the bus, and says what waits.

The catalogue is followed from its beginning: what the store has is passed over, everything else is copied chunk by
chunk, checked on the way, first its file, then its record. Nothing is remembered but what can be looked up: an
archivist may be killed at any time, and several may run at once, which costs a copy made twice and nothing else.

A record tells settings and metrics, too. Metrics come after the version: so a record is written again when they are
there, until the session has ended. A store that is away is tried again, less and less often; versions wait meanwhile on
the bus, and `Archivist.state` tells how many, since when, and why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from fedbus.bus.base import Bus, Payload
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusError, ConfigError, FedbusError, NotFound, StoreError, StoreUnavailable
from fedbus.messages.envelope import decode
from fedbus.messages.records import ModelPublished
from fedbus.messages.subjects import Subjects
from fedbus.store.facts import Facts, facts_of
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.objects.archived import Archive
from fedbus.store.objects.published import model_file
from fedbus.store.objects.records import file_head, keys_of, record_of
from fedbus.tensors.digest import Hasher
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

PAUSE_S, PAUSE_S_MAX = 1.0, 60.0
"""Between tries of a store that is away: a restart is a second, an outage an hour; it is asked once a minute then."""

LOOK_S, LOOK_S_MAX = 5.0, 900.0
"""Between looks for the metrics of a version: an evaluation takes seconds, or until its deadline."""

RECENT_S = 24 * 3600.0
"""Versions so old are taken to have their metrics when an archivist starts: it was there when they came."""

CLOCKS_S = 300.0
"""How far the store's clock may be behind: a record that was written so long before its version is looked at. Each look
is two requests, so not all are looked at; whoever lets go of a version does look (`Archive.has`)."""

REFUSED_MAX = 1000
"""Versions that cannot be copied, with the reason, that are told."""


@dataclass(frozen=True, slots=True)
class ArchivistState:
    """How far the copying is.

    ``archived``: versions that the store has; ``waiting``, ``waiting_bytes``: published, and not there yet;
    ``since_at``: when the oldest of them was published, seconds since the epoch, 0 where none waits. ``copied``,
    ``copied_bytes``: by this archivist. ``error``, ``error_at``: why it does not go on now, '' while it does.
    ``refused``: versions that cannot be copied, and why.
    """

    store: str
    archived: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    since_at: float = 0.0
    copied: int = 0
    copied_bytes: int = 0
    error: str = ""
    error_at: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Look:
    """A record that may be told more: looked at next ``at``, by the loop's clock."""

    entry: ModelPublished
    at: float
    pause_s: float = LOOK_S


class Archivist:
    """Copies the versions of a workspace; one object, one `run` or `once`."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        archive: Archive,
        *,
        workers: Workers,
        clock: Clock,
        models: ModelStore | None = None,
    ) -> None:
        """``models``: of the workspace, where they are sealed."""
        self.archive = archive
        self._bus = bus
        self._subjects = subjects
        self._workers = workers
        self._clock = clock
        self._models = models or ModelStore(bus, subjects, workers)
        self._journal = Journal(bus, subjects)
        self._archived: dict[str, float] = {}
        self._waiting: dict[str, ModelPublished] = {}
        self._looks: dict[str, _Look] = {}
        self._refused: dict[str, str] = {}
        self._copied = self._copied_bytes = 0
        self._error, self._error_at = "", 0.0
        self._wake = asyncio.Event()

    @property
    def state(self) -> ArchivistState:
        """How far it is."""
        waiting = self._waiting.values()
        return ArchivistState(
            self.archive.store.url,
            archived=len(self._archived),
            waiting=len(waiting),
            waiting_bytes=sum(entry.nbytes for entry in waiting),
            since_at=min((entry.at for entry in waiting), default=0.0),
            copied=self._copied,
            copied_bytes=self._copied_bytes,
            error=self._error,
            error_at=self._error_at,
            refused=dict(self._refused),
        )

    def has(self, version: str) -> bool:
        """Whether a version is known to be archived; what it does not know yet it denies."""
        return version in self._archived

    async def run(self) -> None:
        """Copy what there is and what comes; runs until cancelled. Raises `BusClosed`."""
        async with together() as group:
            group.create_task(self._copy_all())
            await self._follow()

    async def once(self) -> ArchivistState:
        """Copy what there is now; raises what a store that is away raises."""
        await self._look_up()
        for entry in await self._models.list():
            self._take(entry)
        while self._waiting:
            await self._copy_next()
        return self.state

    # --- what there is to do ---

    async def _follow(self) -> None:
        stream, pattern = self._subjects.stream("model"), self._subjects.model()
        subscription = await self._bus.follow(stream, pattern)
        try:
            async for message in subscription:
                try:
                    body = decode(message.data, message.subject).body
                except BadMessage as error:
                    log.warning("an entry of the catalogue is passed over: %s", error)
                    continue
                if isinstance(body, ModelPublished):
                    self._take(body)
        finally:
            await subscription.close()

    def _take(self, entry: ModelPublished) -> None:
        """Take note of an entry: copied are those whose arrays the bus has."""
        self._waiting.pop(entry.version, None)
        if entry.removed_at:
            self._looks.pop(entry.version, None)
            return
        written_at = self._archived.get(entry.version)
        if written_at is None or written_at + CLOCKS_S < entry.at:  # none, or one of a broker that was lost
            self._archived.pop(entry.version, None)
            self._waiting[entry.version] = entry
        elif entry.at > self._clock.now() - RECENT_S:
            self._look_again(entry)
        parent = self._looks.get(entry.parent)
        if parent is not None:  # the next version is made, so this one's evaluation is over
            parent.at = 0.0
        self._wake.set()

    async def _look_up(self) -> None:
        """Find out what the store has, and pass it over."""
        self._archived = {version: at async for version, at in self.archive.versions()}
        for version in self._archived.keys() & self._waiting.keys():
            self._take(self._waiting[version])

    # --- doing it ---

    async def _copy_all(self) -> None:
        pause_s, looked_up = PAUSE_S, False
        while True:
            try:
                if not looked_up:
                    await self._look_up()
                    looked_up = True
                if self._waiting:
                    await self._copy_next()
                else:
                    await self._tell_more()
            except (StoreError, BusError) as error:
                self._fail(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
                continue
            pause_s, self._error, self._error_at = PAUSE_S, "", 0.0
            if not self._waiting:
                await self._rest()

    async def _rest(self) -> None:
        """Wait for something to do: a version, or the next look for metrics."""
        now = asyncio.get_running_loop().time()
        due = min((look.at for look in self._looks.values()), default=now + LOOK_S_MAX)
        try:
            async with asyncio.timeout(max(0.0, due - now)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _fail(self, error: FedbusError) -> None:
        if not self._error:
            self._error_at = self._clock.now()
            log.warning("%d versions wait to be archived in %s: %s", len(self._waiting), self.archive.store.url, error)
        self._error = str(error) or type(error).__name__

    async def _copy_next(self) -> None:
        version, entry = next(iter(self._waiting.items()))
        try:
            await self._copy(entry)
        except (BadMessage, NotFound, ConfigError) as error:
            log.warning("model %s cannot be archived: %s", version, error)
            if len(self._refused) < REFUSED_MAX:
                self._refused[version] = str(error)
        else:
            self._archived[version] = max(self._clock.now(), entry.at)
            self._refused.pop(version, None)
            self._look_again(entry)
        if self._waiting.get(version) is entry:
            del self._waiting[version]

    async def _copy(self, entry: ModelPublished) -> None:
        there = await self.archive.digest(entry.version)
        if there == entry.digest:
            return  # another archivist was quicker
        if there:
            what = f"{self.archive.store.url} has another model under this name, of the digest {there}, which stays"
            raise BadMessage(f"model {entry.version}: {what}: archive this workspace in another place")
        manifest = await self._models.manifest(entry.blob)
        file, record = keys_of(self._subjects.workspace, entry.version)
        nbytes = len(file_head(entry, manifest.spec)) + manifest.spec.nbytes
        info = await self.archive.store.put(file, self._checked(entry, nbytes), nbytes=nbytes)
        if info.nbytes != nbytes:
            raise StoreUnavailable(f"{file}: {nbytes} bytes were put, the store has {info.nbytes}; it is put again")
        await self._write_record(record, entry, await self._facts(entry))
        self._copied, self._copied_bytes = self._copied + 1, self._copied_bytes + entry.nbytes
        log.info("model %s is archived in %s", entry.version, self.archive.store.url)

    async def _checked(self, entry: ModelPublished, nbytes: int) -> AsyncGenerator[Payload, None]:
        """Yield a version's file; `BadMessage`, before the store takes it for whole, where its digest is another."""
        hasher, head = Hasher(), nbytes - entry.nbytes
        async with aclosing(model_file(self._models, entry)) as pieces:
            async for piece in pieces:
                if head:
                    head -= len(piece)  # it comes as one piece, before the first chunk
                else:
                    await self._workers.run(hasher.update, piece)
                yield piece
        if hasher.hexdigest() != entry.digest:
            raise BadMessage(f"model {entry.version}: expected the digest {entry.digest}, got {hasher.hexdigest()}")

    # --- records ---

    async def _facts(self, entry: ModelPublished) -> Facts:
        return await facts_of(self._journal, entry)

    async def _write_record(self, key: str, entry: ModelPublished, facts: Facts) -> None:
        await self.archive.store.put(key, _one(record_of(entry, facts.as_json())))

    def _look_again(self, entry: ModelPublished) -> None:
        if entry.version not in self._looks:
            self._looks[entry.version] = _Look(entry, asyncio.get_running_loop().time() + LOOK_S)

    async def _tell_more(self) -> None:
        """Write the records again whose versions have metrics now; give those up of which none will come."""
        now = asyncio.get_running_loop().time()
        for look in [look for look in self._looks.values() if look.at <= now]:
            facts = await self._facts(look.entry)
            if facts.metrics:
                _, key = keys_of(self._subjects.workspace, look.entry.version)
                await self._write_record(key, look.entry, facts)
            if facts.metrics or facts.ended or not facts.known:
                del self._looks[look.entry.version]
            else:
                look.at, look.pause_s = now + look.pause_s, min(2 * look.pause_s, LOOK_S_MAX)


async def _one(data: bytes) -> AsyncIterator[Payload]:
    yield data
