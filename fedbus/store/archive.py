"""A backup as files: what lies in its directory, and how each byte of it is checked.

    DIR/backup.json                      what the backup holds; written last, and by a rename: what it names is whole
    DIR/journals/<session>.<n>.journal   the entries of a session's journal, as they were stored
    DIR/blobs/<blob>.blob                the messages of a blob, as they were stored: chunks, then the manifest
    DIR/catalogue.<n>                    the catalogue's entries, as they were stored
    DIR/registry.<n>                     the registry's revisions and notes, as they were stored
    DIR/audit.<n>                        the deeds of the audit, as they were stored

All but ``backup.json`` are frames, one for a message:

    4 bytes  length of what follows the digest, little-endian
    8 bytes  XXH3-64 of what follows, little-endian
    ...      msgpack: [sequence in its stream, last token of its subject, data]

A journal grows at its end: ``backup.json`` says how many bytes of it count, so what a backup that was cut short wrote
behind them is nothing. A blob never changes. ``<n>`` rises where a file had to be written anew.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedbus.errors import BadMessage, ConfigError, NotFound
from fedbus.foreign import shown, unpacked
from fedbus.messages.ids import Count, Digest, Name, Number, is_name
from fedbus.tensors.digest import chunk_digest

MANIFEST = "backup.json"
HEAD_BYTES = 12
FRAME_BYTES_MAX = 2**26
"""No message is larger than 8 MiB by far; a length beyond it is damage, and must not be taken for a size to read."""


# Names of files in a backup, which may be somebody else's word: none leads out of its directory.
JournalName = Annotated[str, Field(pattern=r"^journals/[A-Za-z0-9_-]{1,64}\.[0-9]{1,9}\.journal$")]
BlobName = Annotated[str, Field(pattern=r"^blobs/[A-Za-z0-9_-]{1,64}\.blob$")]
CatalogueName = Annotated[str, Field(pattern=r"^(catalogue\.[0-9]{1,9})?$")]
RegistryName = Annotated[str, Field(pattern=r"^(registry\.[0-9]{1,9})?$")]
AuditName = Annotated[str, Field(pattern=r"^audit\.[0-9]{1,9}$")]


class Frame(NamedTuple):
    """A message of a stream: ``part`` is the last token of its subject, of registry notes and deeds the last two."""

    sequence: int
    part: str
    data: bytes


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Version(_Part):
    """A published version as its journal names it."""

    version: Name
    blob: Name
    digest: Digest


class JournalFile(_Part):
    """The journal of a session: ``count`` entries in the first ``nbytes`` of ``file``, up to ``sequence``.

    The last of them begins at byte ``last_at``. ``best``: the version that evaluations found to be the best so far, by
    ``best_metric``, with its value.
    """

    session: Name
    file: JournalName
    nbytes: Count = 0
    last_at: Count = 0
    count: Count = 0
    sequence: Count = 0
    ended: bool = False
    versions_kept: int | None = None
    versions: tuple[Version, ...] = ()
    best_metric: str | None = None
    best: str = ""
    best_value: Number = 0.0

    @property
    def wanted(self) -> tuple[Version, ...]:
        """The versions whose arrays the session keeps, oldest first."""
        newest = {one.version for one in self.versions[-self.versions_kept :]} if self.versions_kept else set()
        return tuple(one for one in self.versions if self.versions_kept is None or one.version in newest | {self.best})


class BlobFile(_Part):
    """A blob: ``count`` messages in a file of ``nbytes``; ``digest`` of the model's bytes, empty for other blobs."""

    blob: Name
    file: BlobName
    nbytes: Count
    count: Count
    digest: Digest | Literal[""] = ""


class AuditFile(_Part):
    """The audit: ``count`` deeds in the first ``nbytes`` of ``file``, the last, ``sequence``, from ``last_at`` on."""

    file: AuditName
    nbytes: Count = 0
    last_at: Count = 0
    count: Count = 0
    sequence: Count = 0


class Skipped(_Part):
    """What the backup does not hold, and why."""

    what: str
    reason: str


class Contents(_Part):
    """What a backup holds; ``sequence``: the newest of the journals', of all sessions together."""

    format: Literal[1] = 1
    workspace: Name
    at: Number = 0.0
    sequence: Count = 0
    journals: tuple[JournalFile, ...] = ()
    blobs: tuple[BlobFile, ...] = ()
    catalogue: CatalogueName = ""
    catalogue_count: Count = 0
    registry: RegistryName = ""
    registry_count: Count = 0
    audit: AuditFile | None = None
    skipped: tuple[Skipped, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of journals and blobs."""
        return sum(journal.nbytes for journal in self.journals) + sum(blob.nbytes for blob in self.blobs)


class Archive:
    """The files of a backup. Calls block: run them in a thread where that matters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory, made where it is not there: `ConfigError` where another process writes a backup here."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.directory}: another process writes a backup here: choose another one") from error
        else:
            yield
        finally:
            os.close(descriptor)

    def load(self) -> Contents:
        """Return what the backup holds; `NotFound` where there is none, `BadMessage` where it can't be read."""
        path = self.directory / MANIFEST
        try:
            return Contents.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(f"{path}: there is no backup here; `fedbus backup DIR` makes one") from error
        except ValidationError as error:
            raise BadMessage(f"{path}: expected the contents of a backup of format 1: {error}") from error

    def begin(self, workspace: str) -> Contents:
        """Return what a former backup of this workspace left here, or empty contents; makes the directories."""
        for part in ("journals", "blobs"):
            (self.directory / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            found = self.load()
        except NotFound:
            return Contents(workspace=workspace)
        if found.workspace != workspace:
            where = f"{self.directory} holds a backup of workspace {found.workspace!r}, not of {workspace!r}"
            raise ConfigError(f"{where}: choose another directory")
        return found

    def commit(self, contents: Contents) -> None:
        """Make these the contents, at once; then remove what they do not name."""
        part = self.directory / f"{MANIFEST}.part"
        with part.open("wb") as file:
            file.write(contents.model_dump_json(indent=1).encode())
            os.fsync(file.fileno())
        part.replace(self.directory / MANIFEST)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        named = {journal.file for journal in contents.journals} | {blob.file for blob in contents.blobs}
        named |= {contents.catalogue, contents.registry, contents.audit.file if contents.audit else ""}
        for pattern in ("journals/*", "blobs/*", "catalogue.*", "registry.*", "audit.*"):
            for path in self.directory.glob(pattern):
                if path.relative_to(self.directory).as_posix() not in named:
                    path.unlink()

    def size(self, file: str) -> int:
        """Return how many bytes a file has, -1 where there is none."""
        try:
            return (self.directory / file).stat().st_size
        except FileNotFoundError:
            return -1

    def cut(self, file: str, nbytes: int) -> None:
        """Take away what stands behind the bytes that count; `BadMessage` where they are not all there."""
        if self.size(file) < nbytes:
            raise BadMessage(f"{self.directory / file}: expected {nbytes} bytes at least, it has {self.size(file)}")
        os.truncate(self.directory / file, nbytes)

    def append(self, file: str, frames: Iterable[Frame]) -> tuple[int, int]:
        """Append frames to a file, made where it is not there; returns where the last begins, and its new length."""
        with (self.directory / file).open("ab") as out:
            last_at = end = out.tell()
            for frame in frames:
                packed = msgpack.packb(tuple(frame))
                out.write(len(packed).to_bytes(4, "little") + chunk_digest(packed).to_bytes(8, "little"))
                out.write(packed)
                last_at, end = end, end + HEAD_BYTES + len(packed)
            return last_at, end

    def sync(self, file: str) -> None:
        """Wait until a file is on disk."""
        with (self.directory / file).open("rb") as written:
            os.fsync(written.fileno())

    def remove(self, file: str) -> None:
        """Remove a file; none there is no error."""
        (self.directory / file).unlink(missing_ok=True)

    def frames(self, file: str, nbytes: int, start: int = 0) -> Iterator[Frame]:
        """Yield the frames in the first bytes of a file, each checked; `BadMessage` says what is damaged.

        ``start``: where one of them begins.
        """
        path = self.directory / file
        if not nbytes:
            return
        try:
            opened = path.open("rb")
        except FileNotFoundError as error:
            raise BadMessage(f"{path}: expected {nbytes} bytes of a backup, there is no such file") from error
        with opened as source:
            place = source.seek(start)
            while place < nbytes:
                head = source.read(HEAD_BYTES)
                length = int.from_bytes(head[:4], "little")
                packed = source.read(length) if length <= FRAME_BYTES_MAX else b""
                if len(packed) != length or int.from_bytes(head[4:], "little") != chunk_digest(packed):
                    raise BadMessage(f"{path}: what stands at byte {place} is damaged")
                yield _frame(packed, f"{path}: what stands at byte {place}")
                place += HEAD_BYTES + length
            if place != nbytes:
                raise BadMessage(f"{path}: expected a frame to end at byte {nbytes}, it ends at {place}")


def _is_part(part: str) -> bool:
    return all(map(is_name, part.split(".")))


def _frame(packed: bytes, what: str) -> Frame:
    """Return a frame of which the digest is right; `BadMessage` where it holds something else."""
    match unpacked(packed, what):
        case [int() as sequence, str() as part, bytes() as data] if _is_part(part) and type(sequence) is int:
            return Frame(sequence, part, data)
        case found:
            raise BadMessage(f"{what}: expected a sequence, a part and its data, got {shown(found)}")
