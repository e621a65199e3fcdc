"""A backup of a workspace into a directory, while sessions run: journals first, then the models that they name.

What comes out is a moment of each session: its journal up to an entry, and every version that this journal names, as
far as its arrays are still kept. A session may expire a version while it is read; then more of the journal is read, and
the version that it goes on from now. A backup into the directory of an earlier one fetches what is new: the entries
behind those it has, the blobs that it lacks. The files are those of `fedbus.store.archive`.

What a backup has, and the broker has not any more, stays: a broker that came back empty must not empty the backup. And
of a journal that is not a continuation of the one in the backup - the broker lost its end, and the session went on
otherwise - the backup keeps its own, and says so.

Memory does not grow with models: a blob goes to its file message by message, of a journal some megabytes at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, BusUnavailable, NotFound
from fedbus.messages import records
from fedbus.messages.envelope import decode, is_envelope
from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import IMPORTED, RegistryState
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import Archive, BlobFile, Contents, Frame, JournalFile, Skipped, Version
from fedbus.store.deeds import DeedsBackup
from fedbus.store.journal import entry_of, mark_of
from fedbus.store.models import ModelStore
from fedbus.store.registry import RESERVE
from fedbus.store.sealing import Seal
from fedbus.tensors.digest import Hasher
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

WAITING_BYTES = 4 * 2**20
"""Entries that are read before they are written to their files."""

SILENCE_S_MAX = 30.0
"""For the next of some messages that the broker has: longer, and they were removed while they were read."""

TURNS_MAX = 10
"""How often more of the journals is read because a session has replaced the version that it goes on from."""


@dataclass(slots=True)
class Taken:
    """What one backup added to its directory."""

    contents: Contents
    entries: int = 0
    blobs: int = 0
    nbytes: int = 0


@dataclass(slots=True)
class _Journal:
    """A journal that is being read: what counts of its file, and the frames that are not written yet."""

    file: JournalFile
    waiting: list[Frame] = field(default_factory=list)

    def take(self, message: Message) -> None:
        entry = entry_of(message)
        frame = Frame(message.sequence, self.file.session, bytes(message.data))
        self.waiting.append(frame)
        found = self.file
        versions, kept, ended = found.versions, found.versions_kept, found.ended
        metric, best, best_value = found.best_metric, found.best, found.best_value
        for record in entry.unpack():
            match record:
                case records.SessionStarted():
                    kept, metric = record.config.versions_kept, record.config.best_metric
                    if not record.config.rounds:
                        continue  # a model that is evaluated: another session's, or gone when this one has ended
                    versions += (Version(version=record.version, blob=record.blob, digest=record.digest),)
                case records.ModelPublished():
                    versions += (Version(version=record.version, blob=record.blob, digest=record.digest),)
                case records.RoundEvaluated():
                    by = SessionConfig(best_metric=metric)
                    value = by.best_value(record.metrics)
                    if value is not None and (not best or by.is_better(value, best_value)):
                        best, best_value = record.version, value
                case records.SessionEnded():
                    ended = True
                case _:
                    pass
        self.file = found.model_copy(
            update={
                "count": found.count + 1,
                "sequence": message.sequence,
                "versions": versions,
                "versions_kept": kept,
                "best_metric": metric,
                "best": best,
                "best_value": best_value,
                "ended": ended,
            }
        )


@dataclass(slots=True)
class _Named:
    """What is known beyond the journals: the registry, the versions that it or an import names, and blobs that went.

    ``lost``: the broker has nothing of the registry that a former backup has; ``frames`` are those then.
    """

    frames: list[Frame] = field(default_factory=list)
    lost: bool = False
    wanted: list[Version] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)


class Backup:
    """Takes backups of a workspace into one directory."""

    def __init__(
        self, bus: Bus, subjects: Subjects, workers: Workers, archive: Archive, seal: Seal | None = None
    ) -> None:
        """``seal``: with which the workspace's models are; a backup has them as they are stored, sealed."""
        self._bus = bus
        self._subjects = subjects
        self._workers = workers
        self._archive = archive
        self._deeds = DeedsBackup(bus, subjects, workers, archive)
        self._models = ModelStore(bus, subjects, workers, seal)

    async def take(self, at: float) -> Taken:
        """Take a backup now (``at``: seconds since the epoch, to be shown); returns what it added.

        Raises `ConfigError` for a directory of another workspace, `BadMessage` where files of an earlier backup are
        damaged, `BusError` and `OSError`. An earlier backup in the directory stays what it was until this one is whole.
        """
        former = await self._workers.run(self._archive.begin, self._subjects.workspace)
        taken = Taken(former)
        named = await self._named(former)
        journals, skipped = await self._journals(former, taken)
        blobs = {blob.blob: blob for blob in former.blobs if self._archive.size(blob.file) == blob.nbytes}
        gone: dict[str, Skipped] = {}
        for turn in range(TURNS_MAX):
            unsettled = await self._blobs(journals, named.removed, blobs, gone, taken)
            if not unsettled or turn + 1 == TURNS_MAX:
                break
            before = {name: journal.file.sequence for name, journal in journals.items()}
            journals, skipped = await self._further(journals, skipped, taken)
            if all(journals[name].file.sequence == before[name] for name in unsettled):
                break  # what they go on from is not there, and nothing newer is: the broker has lost it
        for version in named.wanted:
            await self._model(version, blobs, gone, taken)
        for journal in journals.values():
            await self._workers.run(self._archive.sync, journal.file.file)
        catalogue, count = await self._catalogue(former)
        registry = await self._registry(former, named)
        audit, lacking = await self._deeds.take(former.audit)
        wanted = {blob for journal in journals.values() for blob in _blobs_of(journal.file)} - named.removed
        wanted |= {version.blob for version in named.wanted}
        taken.contents = Contents(
            workspace=self._subjects.workspace,
            at=at,
            sequence=max((journal.file.sequence for journal in journals.values()), default=0),
            journals=tuple(journal.file for journal in journals.values()),
            blobs=tuple(blob for name, blob in blobs.items() if name in wanted),
            catalogue=catalogue,
            catalogue_count=count,
            registry=registry,
            registry_count=len(named.frames),
            audit=audit,
            skipped=(
                *skipped,
                *(one for name, one in gone.items() if name in wanted),
                *((lacking,) if lacking is not None else ()),
            ),
        )
        await self._workers.run(self._archive.commit, taken.contents)
        return taken

    # ---- journals

    async def _journals(self, former: Contents, taken: Taken) -> tuple[dict[str, _Journal], list[Skipped]]:
        """Read what is new; everything, where what the backup has is not what the broker has."""
        known = {journal.session: _Journal(journal) for journal in former.journals}
        for journal in known.values():
            await self._workers.run(self._archive.cut, journal.file.file, journal.file.nbytes)
        return await self._further(known, [], taken)

    async def _further(
        self, known: dict[str, _Journal], skipped: list[Skipped], taken: Taken
    ) -> tuple[dict[str, _Journal], list[Skipped]]:
        newest = max(known.values(), key=lambda journal: journal.file.sequence, default=None)
        if newest is None or not newest.file.sequence:
            return await self._read(known, self._messages(1), taken), skipped
        if skipped:
            return known, skipped  # they are looked at anew by the next backup
        last = await self._last_frame(newest.file)
        subject = self._subjects.journal(newest.file.session)
        there = await patiently(self._bus, lambda: self._bus.last(self._subjects.stream("journal"), subject))
        if there is not None and there.sequence >= last.sequence:
            async with aclosing(self._messages(last.sequence)) as messages:
                first = await anext(messages, None)
                if first is not None and (first.sequence, first.data) == (last.sequence, last.data):
                    return await self._read(known, messages, taken), []
        return await self._anew(known, taken)

    async def _last_frame(self, journal: JournalFile) -> Frame:
        def last() -> Frame:
            (frame,) = self._archive.frames(journal.file, journal.nbytes, journal.last_at)
            return frame

        return await self._workers.run(last)

    async def _messages(self, from_sequence: int) -> AsyncGenerator[Message, None]:
        """Yield what stands in the journals now, from a sequence on."""
        stream, pattern = self._subjects.stream("journal"), self._subjects.journal()
        if not await patiently(self._bus, lambda: self._bus.pending(stream, pattern)):
            return
        subscription = await self._bus.follow(stream, pattern, from_sequence=from_sequence)
        async with aclosing(until_now(subscription)) as stored:
            async for message in stored:
                yield message

    async def _read(
        self, journals: dict[str, _Journal], messages: AsyncIterator[Message], taken: Taken
    ) -> dict[str, _Journal]:
        waiting = 0
        async for message in messages:
            (session,) = self._subjects.tokens(message.subject, "journal", 1)
            if session not in journals:
                file = f"journals/{session}.0.journal"
                self._archive.remove(file)
                journals[session] = _Journal(JournalFile(session=session, file=file))
            journals[session].take(message)
            taken.entries += 1
            waiting += len(message.data)
            if waiting >= WAITING_BYTES:
                await self._write(journals, taken)
                waiting = 0
        await self._write(journals, taken)
        return journals

    async def _write(self, journals: dict[str, _Journal], taken: Taken) -> None:
        for journal in journals.values():
            if journal.waiting:
                last_at, end = await self._workers.run(self._archive.append, journal.file.file, journal.waiting)
                taken.nbytes += end - journal.file.nbytes
                journal.file = journal.file.model_copy(update={"nbytes": end, "last_at": last_at})
                journal.waiting = []

    async def _anew(self, known: dict[str, _Journal], taken: Taken) -> tuple[dict[str, _Journal], list[Skipped]]:
        """Read every journal into new files; keep those of the backup that the broker has lost, or has otherwise."""
        found: dict[str, _Journal] = {}
        for session, journal in known.items():
            number = int(journal.file.file.split(".")[-2]) + 1
            file = f"journals/{session}.{number}.journal"
            self._archive.remove(file)
            found[session] = _Journal(JournalFile(session=session, file=file))
        await self._read(found, self._messages(1), taken)
        skipped = []
        for session, journal in known.items():
            if not await self._workers.run(self._is_continued, journal.file, found[session].file):
                if found[session].file.count:
                    reason = "what the broker has is no continuation of what is kept here: back up to another directory"
                    skipped.append(Skipped(what=f"session {session}", reason=reason))
                found[session] = journal
        return found, skipped

    def _is_continued(self, kept: JournalFile, found: JournalFile) -> bool:
        """Whether a journal begins with all that is kept of it; its sequences may be others."""
        theirs = self._facts(found)
        return all(next(theirs, None) == data for data in self._facts(kept))

    def _facts(self, journal: JournalFile) -> Iterator[bytes]:
        """Yield the entries of a journal, without the marks of a restore."""
        for frame in self._archive.frames(journal.file, journal.nbytes):
            if not mark_of(frame.data):
                yield frame.data

    # ---- blobs

    async def _blobs(
        self,
        journals: dict[str, _Journal],
        removed: set[str],
        blobs: dict[str, BlobFile],
        gone: dict[str, Skipped],
        taken: Taken,
    ) -> list[str]:
        """Fetch what is not here; returns the sessions that have no version here to go on from."""
        unsettled = []
        for session, journal in sorted(journals.items()):
            for version in journal.file.wanted:
                if version.blob not in removed:
                    await self._model(version, blobs, gone, taken)
            newest = journal.file.versions[-1:]
            if journal.file.ended or not newest:
                continue
            if newest[0].blob not in blobs or not await self._state(newest[0].blob, journal.file, blobs, taken):
                unsettled.append(session)
        return unsettled

    async def _model(
        self, version: Version, blobs: dict[str, BlobFile], gone: dict[str, Skipped], taken: Taken
    ) -> None:
        known = blobs.get(version.blob)
        if known is not None and known.digest == version.digest:
            return
        try:
            blobs[version.blob] = await self._fetched(version.blob, self._chunks(version), taken, version.digest)
        except (NotFound, BadMessage) as error:
            gone[version.blob] = Skipped(what=f"version {version.version}", reason=str(error))
        else:
            gone.pop(version.blob, None)

    async def _chunks(self, version: Version) -> AsyncIterator[Frame]:
        """Yield a model's messages, every chunk and the whole checked; sealed as on the bus, where it is secured."""
        blob, stream = version.blob, self._subjects.stream("blob")
        manifest = await self._models.manifest(blob)
        subject = self._subjects.blob(blob, "manifest")
        head = await patiently(self._bus, lambda: self._bus.last(stream, subject))
        if head is None or manifest.digest != version.digest:
            raise BadMessage(f"blob {blob}: expected the digest {version.digest}, got {manifest.digest}")
        hasher, within = Hasher(), self._models.is_within(blob)
        index = 0
        async with aclosing(self._models.chunks(blob, manifest)) as chunks:
            async for chunk in chunks:
                await self._workers.run(hasher.update, chunk)
                if not within:
                    yield Frame(0, str(index), bytes(self._models.sealed(blob, index, chunk)))
                index += 1
        if hasher.hexdigest() != version.digest:
            raise BadMessage(f"blob {blob}: expected the digest {version.digest}, got {hasher.hexdigest()}")
        yield Frame(0, "manifest", bytes(head.data))

    async def _state(self, blob: str, journal: JournalFile, blobs: dict[str, BlobFile], taken: Taken) -> bool:
        """Fetch what a strategy keeps beside a session's newest version; whether it is whole, or there is none."""
        state = f"{blob}-state"
        if state in blobs:
            return True
        stream, pattern = self._subjects.stream("blob"), self._subjects.blob(state)
        count = await patiently(self._bus, lambda: self._bus.pending(stream, pattern))
        if count:
            found = await self._fetched(state, self._messages_of(stream, pattern, count), taken)
            if await patiently(self._bus, lambda: self._bus.pending(stream, pattern)) == found.count == count:
                blobs[state] = found
                return True
            return False
        # None: or it was removed a moment ago, as the session has gone on to another version.
        subject = self._subjects.journal(journal.session)
        last = await patiently(self._bus, lambda: self._bus.last(self._subjects.stream("journal"), subject))
        return last is None or last.sequence <= journal.sequence

    async def _messages_of(self, stream: str, pattern: str, count: int) -> AsyncIterator[Frame]:
        subscription = await self._bus.follow(stream, pattern)
        try:
            while count:
                count -= 1
                async with asyncio.timeout(SILENCE_S_MAX):
                    message = await anext(subscription)
                yield Frame(message.sequence, message.subject.rpartition(".")[2], bytes(message.data))
        except TimeoutError:
            return  # it was removed while it was read
        finally:
            await subscription.close()

    async def _fetched(self, blob: str, frames: AsyncIterator[Frame], taken: Taken, digest: str = "") -> BlobFile:
        file, count, nbytes = f"blobs/{blob}.blob", 0, 0
        self._archive.remove(file)
        async for frame in frames:
            _, nbytes = await self._workers.run(self._archive.append, file, [frame])
            count += 1
        await self._workers.run(self._archive.sync, file)
        taken.blobs += 1
        taken.nbytes += nbytes
        return BlobFile(blob=blob, file=file, nbytes=nbytes, count=count, digest=digest)

    # ---- what people have decided

    async def _named(self, former: Contents) -> _Named:
        """Read what the registry and the catalogue say of versions beyond the journals.

        Where the broker came back without them, what the former backup says: those versions are in no journal.
        """
        named = _Named(frames=await self._registered())
        if former.registry and not _has_said(named.frames):
            named.lost, named.frames = True, await self._frames(former.registry)
        state = RegistryState()
        for frame in named.frames:
            with suppress(BadMessage):
                body = decode(frame.data, "the registry").body
                state = body if isinstance(body, RegistryState) else state
        entries = {entry.version: entry for entry in await self._former_entries(former)}
        entries |= {entry.version: entry for entry in await self._models.list()}
        for entry in entries.values():
            if entry.removed_at:
                named.removed.add(entry.blob)
            elif entry.session == IMPORTED or entry.blob in state.protected:
                named.wanted.append(Version(version=entry.version, blob=entry.blob, digest=entry.digest))
        return named

    async def _registered(self) -> list[Frame]:
        """Read the registry's revisions and notes; none in a workspace that only an older release has served."""
        stream, pattern = self._subjects.stream("registry"), self._subjects.registry()
        try:
            count = await self._bus.pending(stream, pattern)
        except BusUnavailable:
            if not self._bus.connected:
                raise
            return []
        if not count:
            return []
        start = f"{pattern.removesuffix('>')}"
        async with aclosing(until_now(await self._bus.follow(stream, pattern))) as messages:
            return [
                Frame(message.sequence, message.subject.removeprefix(start), bytes(message.data))
                async for message in messages
            ]

    async def _frames(self, file: str) -> list[Frame]:
        def read() -> list[Frame]:
            return list(self._archive.frames(file, self._archive.size(file)))

        return await self._workers.run(read) if file else []

    async def _former_entries(self, former: Contents) -> list[ModelPublished]:
        found = []
        for frame in await self._frames(former.catalogue):
            with suppress(BadMessage):
                body = decode(frame.data, former.catalogue).body
                found += [body] if isinstance(body, ModelPublished) else []
        return found

    async def _registry(self, former: Contents, named: _Named) -> str:
        """Write the registry anew; one that the broker has lost stays as it was."""
        if named.lost:
            return former.registry
        if not named.frames:
            return ""
        number = int(former.registry.rpartition(".")[2]) + 1 if former.registry else 0
        file = f"registry.{number}"
        self._archive.remove(file)
        await self._workers.run(self._archive.append, file, named.frames)
        await self._workers.run(self._archive.sync, file)
        return file

    # ---- the catalogue

    async def _catalogue(self, former: Contents) -> tuple[str, int]:
        """Write the catalogue anew, with the entries of the former backup that the broker has lost."""
        stream, pattern = self._subjects.stream("model"), self._subjects.model()
        count = await patiently(self._bus, lambda: self._bus.pending(stream, pattern))
        if not count:
            return former.catalogue, former.catalogue_count
        frames = [frame async for frame in self._messages_of(stream, pattern, count)]
        there = {frame.part for frame in frames}
        lost = [frame for frame in await self._frames(former.catalogue) if frame.part not in there]
        number = int(former.catalogue.rpartition(".")[2]) + 1 if former.catalogue else 0
        file = f"catalogue.{number}"
        self._archive.remove(file)
        await self._workers.run(self._archive.append, file, [*lost, *frames])
        await self._workers.run(self._archive.sync, file)
        return file, len(lost) + len(frames)


def _has_said(frames: list[Frame]) -> bool:
    """Whether a registry says anything: one that a coordinator has just made anew holds nothing but its reserve."""
    for frame in frames:
        try:
            body = decode(frame.data, "the registry").body
        except BadMessage:
            if is_envelope(frame.data):
                return True  # a newer release's
            continue
        if not isinstance(body, RegistryState) or body.what.strip() != RESERVE.strip():
            return True
    return False


def _blobs_of(journal: JournalFile) -> Iterator[str]:
    """Name the blobs that a journal's session may need."""
    for version in journal.wanted:
        yield version.blob
    if journal.versions and not journal.ended:
        yield f"{journal.versions[-1].blob}-state"
