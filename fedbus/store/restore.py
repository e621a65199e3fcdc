"""A backup goes back to a broker: what would be overwritten is looked for first, then models, then journals.

Nothing is overwritten. A journal that the broker has too must be the same, or the beginning of the backup's (the rest
is appended), or go on from it (it is left); anything else refuses the whole restore before a byte is written. In this
order what is cut short can be done again: a model without a journal is nothing but room, a journal names only what is
there.

What is numbered by the journal's sequences - tasks and orders, of which clients and combiners take the newest - must
not go back, or those that lived through the loss would not listen. So an empty journal is advanced first, behind all
that the sessions can have reached since the backup.

A backup of an open workspace goes into one that seals its models only where that is wanted (``from_open``): each of its
messages is sealed on the way, and checked as any other. Journals name digests, and neither keys nor who may do what, so
its sessions go on there.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice

from fedbus.bus.base import Bus
from fedbus.bus.patience import patiently
from fedbus.errors import BadMessage, ConfigError, Conflict
from fedbus.messages.envelope import decode
from fedbus.messages.records import RESTORED, RESTORING, ModelPublished
from fedbus.messages.registry import RegistryState, VersionNote
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import Archive, BlobFile, Contents, Frame, JournalFile
from fedbus.store.deeds import DeedsBackup
from fedbus.store.journal import Journal, at_of, mark_of
from fedbus.store.models import CHUNK_DEADLINE_S, ModelStore
from fedbus.store.registry import RegistryStore
from fedbus.store.sealing import Seal
from fedbus.store.streams import ensure_streams
from fedbus.tensors.digest import Hasher
from fedbus.tensors.manifest import Manifest
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

MARGIN = 1_000_000
"""Sequences left free before the first: a session would have to write so many entries after its last backup to reach
them."""


class WouldOverwrite(ConfigError):
    """The broker holds something else under the same name: restore to another broker or workspace."""


@dataclass(slots=True)
class Restored:
    """What a restore did: names of what it brought back, of what was there already, and of what cannot go on.

    ``registry``: whether stages and retention are the backup's; a broker that has some of its own keeps them.
    ``deeds``: how many of the audit it brought back; ``deeds_lacking``: why it brought none back that the broker lacks.
    ``blobs_sealed``: those of ``blobs`` that came from an open workspace.
    """

    contents: Contents
    sessions: list[str] = field(default_factory=list)
    sessions_there: list[str] = field(default_factory=list)
    entries: int = 0
    blobs: list[str] = field(default_factory=list)
    blobs_there: list[str] = field(default_factory=list)
    blobs_sealed: list[str] = field(default_factory=list)
    nbytes: int = 0
    versions: int = 0
    registry: bool = False
    deeds: int = 0
    deeds_lacking: str = ""
    behind: bool = False


class Restore:
    """Brings a backup back to a broker."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        workers: Workers,
        archive: Archive,
        seal: Seal | None = None,
        *,
        from_open: bool = False,
    ) -> None:
        """``seal``: with which the workspace's models are; a backup has them as they are stored, sealed.

        ``from_open``: what nobody has sealed is sealed on the way: the backup is of an open workspace, and the files
        are as its owner has made them, which nothing in them can show.
        """
        if from_open and seal is None:
            raise ConfigError("what is brought into an open workspace is not sealed: leave --from-open away")
        self._bus = bus
        self._subjects = subjects
        self._workers = workers
        self._archive = archive
        self._deeds = DeedsBackup(bus, subjects, workers, archive)
        self._journal = Journal(bus, subjects)
        self._models = ModelStore(bus, subjects, workers, seal)
        self._registry = RegistryStore(bus, subjects, "restore")
        self._from_open = from_open
        self._run = secrets.token_hex(4)

    async def restore(self) -> Restored:
        """Bring back what the broker has not; returns what was done.

        Raises, before anything is written, `WouldOverwrite`, and `ConfigError` where it is of another workspace or not
        sealed as this one seals; `NotFound` where there is no backup, `BadMessage` where it is damaged, `BusFull`,
        `BusError`. It may be repeated.
        """
        contents = await self._workers.run(self._archive.load)
        if contents.workspace != self._subjects.workspace:
            ours = f"--workspace {contents.workspace}"
            raise ConfigError(f"the backup is of workspace {contents.workspace!r}: restore it with {ours}")
        await patiently(self._bus, lambda: ensure_streams(self._bus, self._subjects))
        done = Restored(contents)
        left = [found for journal in contents.journals if (found := await self._left(journal, done)) is not None]
        missing = [blob for blob in contents.blobs if not await self._is_there(blob)]
        done.blobs_there = [blob.blob for blob in contents.blobs if blob not in missing]
        done.blobs_sealed = [blob.blob for blob in missing if not await self._workers.run(self._is_as_stored, blob)]
        await self._call_back({blob.blob for blob in missing})
        for blob in missing:
            await self._put_blob(blob, done)
        await self._enter(contents, done)
        await self._register(contents, done)
        done.deeds, done.deeds_lacking = await self._deeds.bring_back(contents.audit)
        await self._advance(contents, done)
        await self._append(left, done)
        return done

    # ---- what is there

    async def _left(self, journal: JournalFile, done: Restored) -> _Left | None:
        """Compare a journal with the broker's; returns what is left to be appended, if anything."""
        there = await self._journal.messages(journal.session)
        marks = [mark for message in there if (mark := mark_of(message.data))]
        theirs = [bytes(message.data) for message in there if not mark_of(message.data)]
        left = _Left(journal, last=there[-1].sequence if there else 0)
        for frame in self._archive.frames(journal.file, journal.nbytes):
            if mark_of(frame.data):
                continue
            if left.matched == len(theirs):
                left.count += 1
            elif theirs[left.matched] == frame.data:
                left.matched += 1
            else:
                where = f"entry {left.matched + 1} of session {journal.session}"
                raise WouldOverwrite(f"{where} is another in the broker than in the backup: nothing was written")
            left.at = at_of(frame.data)
        if not left.count and marks[-1:] != [RESTORING]:
            done.sessions_there.append(journal.session)
            return None
        done.sessions.append(journal.session)
        return left

    async def _is_there(self, blob: BlobFile) -> bool:
        stream = self._subjects.stream("blob")
        if not blob.digest:
            pattern = self._subjects.blob(blob.blob)
            return await patiently(self._bus, lambda: self._bus.pending(stream, pattern)) == blob.count
        subject = self._subjects.blob(blob.blob, "manifest")
        head = await patiently(self._bus, lambda: self._bus.last(stream, subject))
        if head is None:
            return False
        found = (await self._models.manifest(blob.blob)).digest
        if found != blob.digest:
            what = f"blob {blob.blob} has the digest {found} in the broker, {blob.digest} in the backup"
            raise WouldOverwrite(f"{what}: nothing was written")
        return await self._models.is_whole(blob.blob)  # a broker that lost its store in between may have some of it

    def _is_as_stored(self, blob: BlobFile) -> bool:
        """Whether a blob's messages go back as they are; `ConfigError` where they may not, before any is written."""
        first = next(self._archive.frames(blob.file, blob.nbytes), None)
        if first is None:
            return True
        try:
            self._models.opened(blob.blob, first.part, first.data)
        except BadMessage as error:
            if self._from_open:
                return False
            raise ConfigError(
                f"{blob.file} is not sealed with the key of workspace {self._subjects.workspace}, and nothing was "
                "written: if the backup is of an open workspace, --from-open seals it on the way; if it is of one with "
                "other keys, restore it beside those, and take the models along (`fedbus model download`, `import`)"
            ) from error
        return True

    # ---- what is brought back

    async def _call_back(self, blobs: set[str]) -> None:
        """Forget removals of what is brought back, or whoever goes on with them removes it again."""

        async def decide(state: RegistryState) -> RegistryState | None:
            left = tuple(one for one in state.retired if one.blob not in blobs)
            return None if left == state.retired else state.model_copy(update={"retired": left})

        await self._registry.change("brought back from a backup", decide)

    async def _put_blob(self, blob: BlobFile, done: Restored) -> None:
        frames, seals = self._archive.frames(blob.file, blob.nbytes), blob.blob in done.blobs_sealed
        hasher, stream, count = Hasher(), self._subjects.stream("blob"), 0
        while (frame := await self._workers.run(next, frames, None)) is not None:
            count += 1
            if seals:
                frame = frame._replace(data=bytes(self._models.sealed(blob.blob, frame.part, frame.data)))
            if blob.digest and frame.part == "manifest":
                self._check(blob, frame, hasher)
            elif blob.digest:
                await self._workers.run(hasher.update, self._models.opened(blob.blob, frame.part, frame.data))
            await self._put(stream, self._subjects.blob(blob.blob, frame.part), frame.data)
        if count != blob.count:
            raise BadMessage(f"{blob.file}: expected {blob.count} messages, got {count}")
        done.blobs.append(blob.blob)
        done.nbytes += blob.nbytes

    def _check(self, blob: BlobFile, frame: Frame, hasher: Hasher) -> None:
        """Make sure, before the manifest makes the blob whole, that these are the bytes of the version."""
        manifest, data = self._models.unpack(blob.blob, frame.data)
        if data is not None:
            hasher.update(data)
        self._check_digest(blob, manifest, hasher.hexdigest())

    @staticmethod
    def _check_digest(blob: BlobFile, manifest: Manifest, found: str) -> None:
        if not found == manifest.digest == blob.digest:
            raise BadMessage(f"{blob.file}: expected the digest {blob.digest}, got {found}")

    async def _put(self, stream: str, subject: str, data: bytes) -> None:
        # An id of this run: what was removed a minute ago must not be taken for a repeat of when it was first stored.
        id_ = f"{self._run}-{subject}"[:200]

        async def append() -> int:
            return await self._bus.append(stream, subject, data, message_id=id_, deadline_s=CHUNK_DEADLINE_S)

        await patiently(self._bus, append)

    async def _enter(self, contents: Contents, done: Restored) -> None:
        """Enter the catalogue's versions; those that are there already are not entered twice."""
        if not contents.catalogue:
            return
        file, whole = contents.catalogue, {*done.blobs, *done.blobs_there}
        for frame in self._archive.frames(file, self._archive.size(file)):
            body = decode(frame.data, f"{file}, version {frame.part}").body
            if not isinstance(body, ModelPublished):
                raise BadMessage(f"{file}: expected ModelPublished, got {body.kind}")
            if not body.removed_at and body.blob in whole:
                await self._models.mark_restored(body)
            else:
                await self._models.enter(body)
            done.versions += 1

    async def _register(self, contents: Contents, done: Restored) -> None:
        """Bring back stages, retention and notes, where the broker has none."""
        if not contents.registry:
            return
        state = RegistryState()
        notes: dict[str, VersionNote] = {}
        for frame in self._archive.frames(contents.registry, self._archive.size(contents.registry)):
            try:
                body = decode(frame.data, f"{contents.registry}, {frame.part}").body
            except BadMessage as error:
                log.warning("a revision of the registry is passed over: %s", error)
                continue
            if isinstance(body, RegistryState):
                state = body
            elif isinstance(body, VersionNote):
                notes[body.version] = body

        async def decide(there: RegistryState) -> RegistryState | None:
            done.registry = not (there.stages or there.retired or there.imports or there.keep_last)
            return state.model_copy(update={"imports": ()}) if done.registry else None

        await self._registry.change("restored from a backup", decide)
        known = await self._registry.notes()
        for version, note in notes.items():
            if note.note and version not in known:
                await self._registry.annotate(version, note.note)

    async def _advance(self, contents: Contents, done: Restored) -> None:
        if not done.sessions:
            return
        try:
            stream = self._subjects.stream("journal")
            await patiently(self._bus, lambda: self._bus.advance(stream, contents.sequence + MARGIN))
        except Conflict as error:
            log.warning("the journal is not empty, so it is not advanced: %s", error)
            done.behind = True

    async def _append(self, left: list[_Left], done: Restored) -> None:
        """Append entries in the order in which they were written, of all sessions together.

        A coordinator that is there does not go on from the middle of it: it waits for the second mark.
        """
        for one in left:
            one.last = await self._journal.mark(one.journal.session, RESTORING, one.at, one.last)
        for one, frame in merge(*(each.entries(self._archive) for each in left), key=lambda item: item[1].sequence):
            one.last = await self._journal.append_again(one.journal.session, frame.data, one.last)
            done.entries += 1
            done.nbytes += len(frame.data)
        for one in left:
            one.last = await self._journal.mark(one.journal.session, RESTORED, one.at, one.last)


@dataclass(slots=True)
class _Left:
    """What is left of a journal behind its first ``matched`` entries: ``count``, the newest written ``at``.

    ``last``: the sequence to append behind.
    """

    journal: JournalFile
    last: int
    matched: int = 0
    count: int = 0
    at: float = 0.0

    def entries(self, archive: Archive) -> Iterator[tuple[_Left, Frame]]:
        frames = archive.frames(self.journal.file, self.journal.nbytes)
        for frame in islice((frame for frame in frames if not mark_of(frame.data)), self.matched, None):
            yield self, frame
