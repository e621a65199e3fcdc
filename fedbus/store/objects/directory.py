"""A store in a directory: one file an object, under its key.

    ROOT/<key>                  objects
    ROOT/.parts/<random>        what is being written; no key begins with a dot

An object is written as a part, synced, and renamed to its place, and the directory is synced then: after a power
failure there is the old one or the new one. Several processes may write to one directory, also over a network file
system that renames atomically. What a writer that was killed left in ``.parts`` is removed by a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from fedbus.bus.base import Payload
from fedbus.errors import ConfigError, NotFound, StoreDenied, StoreUnavailable
from fedbus.store.objects.base import PIECE_BYTES, ObjectInfo, StoreKind, check_key, check_range

T = TypeVar("T")

PARTS = ".parts"

LEFT_S = 24 * 3600.0
"""A part that nobody has written to for so long belongs to a writer that is gone."""

LISTED_AT_ONCE = 1000
"""Files looked at in one hop to a thread."""


class DirectoryStore:
    """Objects as files under ``root``, which is made when something is written."""

    def __init__(self, root: Path | str) -> None:
        """Open nothing yet."""
        self.root = Path(root).absolute()

    @property
    def url(self) -> str:
        """As ``file:///...``."""
        return self.root.as_uri()

    async def put(
        self,
        key: str,
        pieces: AsyncIterable[Payload],
        *,
        nbytes: int = 0,  # noqa: ARG002 - a file grows as it comes
    ) -> ObjectInfo:
        """Write an object: a part, synced, renamed."""
        path = await _thread(key, self._path, key)
        part = self.root / PARTS / secrets.token_hex(16)
        file = await _thread(key, self._begin, part)
        try:
            async for piece in pieces:
                await _thread(key, file.write, piece)
            return await _thread(key, _finish, key, file, part, path)
        finally:
            await _thread(key, _drop, file, part)

    def _begin(self, part: Path) -> BinaryIO:
        self._confine(part)
        part.parent.mkdir(parents=True, exist_ok=True)
        for left in part.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - LEFT_S:
                    left.unlink()
        return part.open("xb", buffering=2 * PIECE_BYTES)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[Payload]:
        """Yield what an open file gives: it stays what it was when another is renamed to its place."""
        check_range(start, stop)
        path = await _thread(key, self._path, key)
        file = await _thread(key, _open, path)
        try:
            at = start
            while stop is None or at < stop:
                wanted = PIECE_BYTES if stop is None else min(PIECE_BYTES, stop - at)
                piece = await _thread(key, os.pread, file.fileno(), wanted, at)
                if not piece:
                    return
                at += len(piece)
                yield piece
        finally:
            file.close()

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of the file."""
        path = await _thread(key, self._path, key)
        return await _thread(key, _info, key, path)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Walk below the directory that the prefix names."""
        found = self._walk(prefix)
        while some := await _thread(prefix, _some, found):
            for info in some:
                yield info

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        top, _, _ = prefix.rpartition("/")
        if top:
            check_key(top)
        waiting = [self.root / top]
        while waiting:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    key = Path(entry.path).relative_to(self.root).as_posix()
                    if entry.name.startswith(".") or not (key.startswith(prefix) or prefix.startswith(f"{key}/")):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            yield _info(key, Path(entry.path))

    async def remove(self, key: str) -> None:
        """Remove the file; its directories stay, for others may be about to write there."""
        path = await _thread(key, self._path, key)
        await _thread(key, _remove, path)

    async def close(self) -> None:
        """Nothing is held."""

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        self._confine(path)
        return path

    def _confine(self, path: Path) -> None:
        """Refuse a place that a link leads out of the root: whoever placed it there decides what we would overwrite."""
        root = self.root.resolve()
        if not path.parent.resolve().is_relative_to(root) or path.is_symlink():
            raise ConfigError(f"store {self.url}: {path.relative_to(self.root)} leads out of it by a link")


async def _thread(key: str, call: Callable[..., T], *args: object) -> T:
    """Run in a thread; when cancelled, wait for its end first: it may be writing to what is about to be closed."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args))
    with _translated(key):
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # who cancels wants to hear of nothing else
            raise


def _finish(key: str, file: BinaryIO, part: Path, path: Path) -> ObjectInfo:
    file.flush()
    os.fsync(file.fileno())
    stat = os.fstat(file.fileno())
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)
    for directory in {path.parent, *(parent.parent for parent in made)}:
        _sync(directory)
    return ObjectInfo(key, stat.st_size, stat.st_mtime)


def _drop(file: BinaryIO, part: Path) -> None:
    with contextlib.suppress(OSError):  # a disk that is full complains once more, about what nobody wants
        file.close()
    part.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(path: Path) -> BinaryIO:
    _there(path)
    return path.open("rb", buffering=0)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        _there(path)
        path.unlink()
        _sync(path.parent)


def _info(key: str, path: Path) -> ObjectInfo:
    stat = _there(path)
    return ObjectInfo(key, stat.st_size, stat.st_mtime)


def _there(path: Path) -> os.stat_result:
    """Return what is known of a file; a directory, or what lies below a file, is no object."""
    try:
        found = path.stat()
    except NotADirectoryError:
        found = None
    if found is None or not S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path))
    return found


def _some(found: Iterator[ObjectInfo]) -> list[ObjectInfo]:
    return list(islice(found, LISTED_AT_ONCE))


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    """Say what the system says in the words of a store."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{key}: no such object") from error
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise ConfigError(f"{key}: another object's key is the beginning of it, up to a /: {error}") from error
    except PermissionError as error:
        raise StoreDenied(f"{key}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"{key}: {error}") from error


def _from_url(url: str, options: Mapping[str, str]) -> DirectoryStore:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(f"store: expected file:///DIR with an absolute path, got {url!r:.200}")
    if options:
        raise ConfigError(f"store file: it has no options, got {', '.join(options)}")
    return DirectoryStore(unquote(parts.path))


DIRECTORY = StoreKind("file", _from_url)
