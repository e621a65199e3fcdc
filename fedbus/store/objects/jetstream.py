"""A store on a bus: what the workspace has published, and objects of its own, in streams that the broker keeps.

    jetstream://127.0.0.1:4222?workspace=default

Where no other store is named, this is where models are. Read through it, every published version is
``<workspace>/<version>.safetensors``, as if it lay in a bucket: whoever copies between stores needs to know one
contract. On a broker of its own it serves as an archive, too.

An object is pieces of `PIECE_BYTES`, then a head that names their generation: the head makes it whole. Another put
writes a generation of its own, then the head in place of the old one, behind the sequence that it has read, then
removes the old one's pieces: of several writers each puts a whole object, and the last one stays. What a writer that
was killed left of a generation goes when its key is put again a day later, or removed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import msgpack
from blake3 import blake3

from fedbus.bus.base import Bus, Payload, Storage, StreamSpec
from fedbus.bus.nats import connect
from fedbus.bus.stored import until_now
from fedbus.errors import (
    BadMessage,
    BusDenied,
    BusError,
    ConfigError,
    Conflict,
    NotFound,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from fedbus.foreign import unpacked
from fedbus.messages.ids import check_name
from fedbus.messages.subjects import Subjects
from fedbus.store.objects.base import ObjectInfo, Store, StoreKind, check_key, check_range
from fedbus.store.objects.published import Published
from fedbus.store.reading import Ahead
from fedbus.store.sealing import Seal
from fedbus.tensors.digest import chunk_digest

PIECE_BYTES = 512 * 1024
"""A message; the broker takes 1 MiB and more."""

WRITES = 8
"""Pieces stored at once."""

TRIES_MAX = 100
"""Writers of one key that were quicker, before we say that the store is busy."""

LEFT_S = 24 * 3600.0
"""A generation without a head that began so long ago belongs to a writer that is gone."""

HEAD = "head"
DIGEST = "Fedbus-Xxh3"


class _Head(NamedTuple):
    """What makes an object whole."""

    key: str
    generation: str
    nbytes: int
    at: float


class JetStreamStore:
    """Objects in the stream of a workspace; ``bus`` gives the connection. ``published``: None shows none of those.

    ``credentials``: the file with which it is connected, where there is one.
    """

    def __init__(
        self,
        bus: Callable[[], Awaitable[Bus]],
        subjects: Subjects,
        *,
        url: str = "jetstream:",
        published: Published | None = None,
        end: Callable[[], Awaitable[None]] | None = None,
        credentials: str = "",
    ) -> None:
        self.credentials = credentials
        self._connected = bus
        self._subjects = subjects
        self._stream = subjects.stream("object")
        self._url = url
        self._published = published
        self._end = end
        self._is_there = False

    @property
    def url(self) -> str:
        """Where it is, without who we are."""
        return self._url

    def unseal(self, seal: Seal | None) -> None:
        """Read published models that are sealed: whoever has the workspace's secret can."""
        if self._published is not None:
            self._published.seal = seal

    async def _bus(self) -> Bus:
        bus = await self._connected()
        if not self._is_there:
            if await bus.usage(self._stream) is None:  # a coordinator makes it; a broker that is an archive has none
                await bus.ensure(StreamSpec(self._stream, (self._subjects.objects(),), Storage.FILE, per_subject_max=1))
            self._is_there = True
        return bus

    async def put(
        self,
        key: str,
        pieces: AsyncIterable[Payload],
        *,
        nbytes: int = 0,  # noqa: ARG002 - pieces are of one size
    ) -> ObjectInfo:
        """Store the pieces of a new generation, then its head."""
        id_ = _id(check_key(key))
        generation = f"{int(time.time()):x}-{secrets.token_hex(6)}"
        try:
            size = await self._write(key, id_, generation, pieces)
        except BaseException:
            await asyncio.shield(self._drop(id_, generation))
            raise
        head = _Head(key, generation, size, time.time())
        before = await self._named(key, id_, head)
        if before is not None:
            await self._drop(id_, before.generation)
        await self._sweep(id_, generation)
        return ObjectInfo(key, head.nbytes, head.at)

    async def _write(self, key: str, id_: str, generation: str, pieces: AsyncIterable[Payload]) -> int:
        with _translated(key):
            bus = await self._bus()
        count = size = 0
        rest = bytearray()
        under_way: set[asyncio.Task[int]] = set()

        async def store(data: bytes) -> None:
            nonlocal count
            subject, count = self._subjects.object(id_, generation, count), count + 1
            headers = {DIGEST: f"{chunk_digest(data):016x}"}
            under_way.add(asyncio.ensure_future(bus.append(self._stream, subject, data, headers=headers)))
            if len(under_way) >= WRITES:
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                under_way.difference_update(done)
                with _translated(key):
                    for one in done:
                        one.result()

        try:
            async for piece in pieces:
                rest += piece
                size += len(piece)
                while len(rest) >= PIECE_BYTES:
                    data = bytes(memoryview(rest)[:PIECE_BYTES])
                    del rest[:PIECE_BYTES]
                    await store(data)
            if rest:
                await store(bytes(rest))
            with _translated(key):
                await asyncio.gather(*under_way)
        finally:
            # what is under way comes to its end first: it might be stored after it was removed
            await asyncio.gather(*under_way, return_exceptions=True)
        return size

    async def _named(self, key: str, id_: str, head: _Head) -> _Head | None:
        """Store the head; returns the one that was there. Where it could not be, its pieces go.

        Where nobody knows whether it was stored, they stay until a later put finds that they belong to no head: a head
        without pieces would stand in the place of what was there.
        """
        was: list[_Head] = []
        try:
            await self._name(key, id_, head, was)
        except StoreError:
            stands = await self._find(key)
            if stands != head:
                await self._drop(id_, head.generation)
                raise
        return was[-1] if was else None

    async def _name(self, key: str, id_: str, head: _Head, was: list[_Head]) -> None:
        """Store the head behind the one that is there, which is noted in ``was``."""
        subject = self._subjects.object(id_, HEAD)
        with _translated(key):
            bus = await self._bus()
            for _ in range(TRIES_MAX):
                last = await bus.last(self._stream, subject)
                was[:] = [_head(last.data)] if last else []
                try:
                    await bus.append(
                        self._stream, subject, msgpack.packb(head), expected_last=last.sequence if last else 0
                    )
                except Conflict:
                    continue
                return
        raise StoreUnavailable(f"{key}: {TRIES_MAX} others have put it meanwhile")

    async def _sweep(self, id_: str, kept: str = "") -> None:
        """Remove what writers that are gone left of this key."""
        with _translated(id_):
            bus = await self._bus()
            firsts = await bus.newest(self._stream, self._subjects.object(id_, "*", 0))
        for generation in (message.subject.split(".")[-2] for message in firsts):
            begun, _, _ = generation.partition("-")
            if generation != kept and int(begun, 16) < time.time() - LEFT_S:
                await self._drop(id_, generation)

    async def _drop(self, id_: str, generation: str) -> None:
        with _translated(id_):
            bus = await self._bus()
            await bus.purge(self._stream, self._subjects.object(id_, generation, "*"))

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[Payload]:
        """Ask for pieces ahead; where another object was put meanwhile, `StoreUnavailable`."""
        check_range(start, stop)
        head = await self._find(key)
        if head is None:
            if self._published is None:
                raise NotFound(f"{key}: no such object")
            async with aclosing(self._published.read(key, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        end = head.nbytes if stop is None else min(stop, head.nbytes)
        id_, indices = _id(key), range(start // PIECE_BYTES, -(-end // PIECE_BYTES) if end > start else 0)
        bus = await self._bus()
        ahead = Ahead(lambda index: self._piece(bus, id_, head, index), indices, lambda _: PIECE_BYTES, None)
        try:
            while found := await ahead.take():
                for index, data in found:
                    first = index * PIECE_BYTES
                    yield memoryview(data)[max(start - first, 0) : max(end - first, 0)]
        finally:
            await ahead.close()

    async def _piece(self, bus: Bus, id_: str, head: _Head, index: int) -> Payload:
        with _translated(head.key):
            message = await bus.last(self._stream, self._subjects.object(id_, head.generation, index))
        if message is None:
            raise StoreUnavailable(f"{head.key}: another object was put in its place while it was read; read it again")
        if message.headers.get(DIGEST) != f"{chunk_digest(message.data):016x}":
            raise BadMessage(f"{head.key}: piece {index} is damaged")
        return message.data

    async def _find(self, key: str) -> _Head | None:
        with _translated(key):
            bus = await self._bus()
            message = await bus.last(self._stream, self._subjects.object(_id(check_key(key)), HEAD))
        return _head(message.data) if message else None

    async def head(self, key: str) -> ObjectInfo:
        """Return what the head says, or what is published."""
        head = await self._find(key)
        if head is not None:
            return ObjectInfo(key, head.nbytes, head.at)
        if self._published is None:
            raise NotFound(f"{key}: no such object")
        return await self._published.head(key)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Read all heads, then the catalogue."""
        seen: set[str] = set()
        for head in await self._heads():
            if head.key.startswith(prefix):
                seen.add(head.key)
                yield ObjectInfo(head.key, head.nbytes, head.at)
        if self._published is not None:
            async for info in self._published.list(prefix):
                if info.key not in seen:
                    yield info

    async def _heads(self) -> Sequence[_Head]:
        pattern = self._subjects.object("*", HEAD)
        with _translated("list"):
            bus = await self._bus()
            if not await bus.pending(self._stream, pattern):
                return []
            async with aclosing(until_now(await bus.follow(self._stream, pattern))) as stored:
                return [_head(message.data) async for message in stored]

    async def remove(self, key: str) -> None:
        """Remove the head, then all pieces; of a published version nothing is removed here."""
        id_ = _id(check_key(key))
        with _translated(key):
            bus = await self._bus()
            head = await self._find(key)
            await bus.purge(self._stream, self._subjects.object(id_, HEAD))
        if head is not None:
            await self._drop(id_, head.generation)
        await self._sweep(id_)

    async def close(self) -> None:
        """Close the connection, if it is ours."""
        end, self._end = self._end, None
        if end is not None:
            await end()


def _id(key: str) -> str:
    """A key as one token of a subject."""
    return blake3(key.encode()).hexdigest(16)


def _head(data: Payload) -> _Head:
    try:
        key, generation, nbytes, at = unpacked(data, "the head of an object")
        return _Head(check_key(str(key)), check_name("generation", generation), max(0, int(nbytes)), float(at))
    except (ValueError, TypeError, OverflowError, ConfigError) as error:
        raise BadMessage(f"expected the head of an object, got {len(data)} bytes: {error}") from error


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """Say what the bus says in the words of a store."""
    try:
        yield
    except BusDenied as error:
        raise StoreDenied(f"{key}: {error}") from error
    except BusError as error:
        raise StoreUnavailable(f"{key}: {error}") from error


class _Own:
    """A connection of our own, made when it is needed; and made again where it could not be."""

    def __init__(self, url: str, credentials: str | None) -> None:
        self._url = url
        self._credentials = credentials
        self._bus: Bus | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> Bus:
        async with self._lock:
            if self._bus is None:
                self._bus = await connect(self._url, name="fedbus-store", credentials=self._credentials)
            return self._bus

    async def close(self) -> None:
        async with self._lock:
            bus, self._bus = self._bus, None
            if bus is not None:
                await bus.close()


OPTIONS = {"workspace", "credentials"}


def _from_url(url: str, options: Mapping[str, str]) -> Store:
    parts = urlsplit(url)
    if not parts.hostname or parts.path.strip("/"):
        raise ConfigError("store jetstream: expected jetstream://HOST:PORT?workspace=NAME")
    if unknown := options.keys() - OPTIONS:
        known = ", ".join(sorted(OPTIONS))
        raise ConfigError(f"store jetstream: unknown option {', '.join(sorted(unknown))} (known: {known})")
    workspace = options.get("workspace", "default")
    own = _Own(f"nats://{parts.netloc}", options.get("credentials"))
    shown = f"jetstream://{parts.netloc.rpartition('@')[2]}?workspace={workspace}"
    subjects = Subjects(workspace)
    published, credentials = Published(own.get, subjects), options.get("credentials", "")
    return JetStreamStore(own.get, subjects, url=shown, published=published, end=own.close, credentials=credentials)


JETSTREAM = StoreKind("jetstream", _from_url)
