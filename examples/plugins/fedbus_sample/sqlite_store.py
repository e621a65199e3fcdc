"""A store in one SQLite file: ``--store sqlite:///var/lib/models.db``.

An object is pieces of one size under a number of its own; one transaction at the end gives that number the key, and
removes the pieces of the one before. Until then nobody can see it. `fedbus.testing.store` says whether that is enough.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from fedbus.errors import ConfigError, NotFound, StoreUnavailable
from fedbus.store.objects import ObjectInfo, StoreKind, check_key
from fedbus.store.objects.base import check_range

T = TypeVar("T")
Data = bytes | bytearray | memoryview

PIECE_BYTES = 2**20
WAIT_S = 30.0
"""How long a writer waits for another one's transaction."""

TABLES = """
pragma journal_mode = wal;
create table if not exists numbers (number integer primary key autoincrement, begun_at real not null);
create table if not exists objects (key text primary key, number integer, nbytes integer, modified_at real);
create table if not exists pieces (number integer, place integer, data blob, primary key (number, place));
"""


class SQLiteStore:
    """Objects in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._turn = threading.Lock()

    @property
    def url(self) -> str:
        """As it was given."""
        return f"sqlite://{self._path}"

    async def put(self, key: str, pieces: AsyncIterable[Data], *, nbytes: int = 0) -> ObjectInfo:  # noqa: ARG002
        """Write the pieces under a new number, then give it the key."""
        check_key(key)
        number, place, rest = await self._do(_begin), 0, bytearray()
        try:
            async for piece in pieces:
                rest += piece
                while len(rest) >= PIECE_BYTES:
                    data = bytes(rest[:PIECE_BYTES])
                    del rest[:PIECE_BYTES]
                    await self._do(_add, number, place, data)
                    place += 1
            await self._do(_add, number, place, bytes(rest))
            return await self._do(_name, key, number, place * PIECE_BYTES + len(rest))
        except BaseException:
            await asyncio.shield(self._do(_forget, number))
            raise

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[Data]:
        """Read piece by piece."""
        check_range(start, stop)
        number, info = await self._do(_find, check_key(key))
        end = info.nbytes if stop is None else min(stop, info.nbytes)
        for place in range(start // PIECE_BYTES, -(-end // PIECE_BYTES) if end > start else 0):
            data = await self._do(_piece, key, number, place)
            first = place * PIECE_BYTES
            yield data[max(start - first, 0) : end - first]

    async def head(self, key: str) -> ObjectInfo:
        """Look up the key."""
        return (await self._do(_find, check_key(key)))[1]

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Look up all keys."""
        for info in await self._do(_list):
            if info.key.startswith(prefix):
                yield info

    async def remove(self, key: str) -> None:
        """Take the key away, and its pieces."""
        await self._do(_remove, check_key(key))

    async def close(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        with self._turn:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    async def _do(self, call: Callable[..., T], *args: object) -> T:
        running = asyncio.ensure_future(asyncio.to_thread(self._in_transaction, call, *args))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])  # or what it does would come behind what undoes it
            raise

    def _in_transaction(self, call: Callable[..., T], *args: object) -> T:
        try:
            with self._turn, self._opened() as database:
                return call(database, *args)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self.url}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect(self._path, timeout=WAIT_S, check_same_thread=False)
            self._database.executescript(TABLES)
        return self._database


def _begin(database: sqlite3.Connection) -> int:
    """Take a number; those that writers took a day ago and did not name are forgotten."""
    left = "select number from numbers where begun_at < ? and number not in (select number from objects)"
    for (number,) in database.execute(left, (time.time() - 86_400,)).fetchall():
        _forget(database, number)
    number = database.execute("insert into numbers (begun_at) values (?)", (time.time(),)).lastrowid
    assert number is not None, "an insert gives a number"
    return number


def _add(database: sqlite3.Connection, number: int, place: int, data: bytes) -> None:
    database.execute("insert into pieces values (?, ?, ?)", (number, place, data))


def _forget(database: sqlite3.Connection, number: int) -> None:
    database.execute("delete from pieces where number = ?", (number,))
    database.execute("delete from numbers where number = ?", (number,))


def _name(database: sqlite3.Connection, key: str, number: int, nbytes: int) -> ObjectInfo:
    _remove(database, key)
    info = ObjectInfo(key, nbytes, time.time())
    database.execute("insert into objects values (?, ?, ?, ?)", (key, number, nbytes, info.modified_at))
    return info


def _remove(database: sqlite3.Connection, key: str) -> None:
    for (number,) in database.execute("select number from objects where key = ?", (key,)).fetchall():
        _forget(database, number)
    database.execute("delete from objects where key = ?", (key,))


def _find(database: sqlite3.Connection, key: str) -> tuple[int, ObjectInfo]:
    row = database.execute("select number, nbytes, modified_at from objects where key = ?", (key,)).fetchone()
    if row is None:
        raise NotFound(f"{key}: no such object")
    return row[0], ObjectInfo(key, row[1], row[2])


def _piece(database: sqlite3.Connection, key: str, number: int, place: int) -> bytes:
    row = database.execute("select data from pieces where number = ? and place = ?", (number, place)).fetchone()
    if row is None:
        raise StoreUnavailable(f"{key}: another object was put in its place while it was read; read it again")
    return bytes(row[0])


def _list(database: sqlite3.Connection) -> list[ObjectInfo]:
    return [ObjectInfo(*row) for row in database.execute("select key, nbytes, modified_at from objects").fetchall()]


def _from_url(url: str, options: Mapping[str, str]) -> SQLiteStore:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/") or options:
        raise ConfigError(f"store: expected sqlite:///FILE, got {url!r:.200}")
    return SQLiteStore(Path(unquote(parts.path)))


SQLITE = StoreKind("sqlite", _from_url)
