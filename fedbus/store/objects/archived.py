"""The versions that a store keeps: what there is of each, and its bytes, checked.

A version is archived when its record stands there, with the digest of its file, which was put first. What is read of a
file in order, and to its end, is checked against the digest that the catalogue or the record names; a range cannot be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from fedbus.bus.base import Payload
from fedbus.errors import BadMessage, NotFound, StoreError, StoreUnavailable
from fedbus.messages.records import ModelPublished
from fedbus.store.objects.base import Store
from fedbus.store.objects.records import FILE, RECORD, RECORD_BYTES_MAX, entry_of, keys_of
from fedbus.store.reading import StoredModel
from fedbus.tensors.chunks import CHUNK_BYTES
from fedbus.tensors.codec import Buffer, unpack
from fedbus.tensors.digest import Hasher
from fedbus.tensors.heads import LENGTH_BYTES, length_of, spec_of
from fedbus.tensors.manifest import Manifest
from fedbus.tensors.spec import ModelSpec
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

LISTED_S, MISSED_S = 60.0, 5.0
"""How old a listing may be that lists of versions are made with, and one that lacks what is asked for: to ask for each
version would be a request each."""

AWAY_S = 30.0
"""How long a store that did not answer is not asked for a listing: each try takes some ten seconds."""


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a file's data: ``nbytes`` of it, and what it says."""

    spec: ModelSpec
    nbytes: int


class Archive:
    """The versions of a workspace in a store."""

    def __init__(self, store: Store, workspace: str, workers: Workers) -> None:
        """``workers``: where digests are taken."""
        self.store = store
        self.workspace = workspace
        self._workers = workers
        self._listed: frozenset[str] = frozenset()
        self._listed_at: float | None = None
        self._away_until = 0.0
        self._listing = asyncio.Lock()

    async def versions(self) -> AsyncIterator[tuple[str, float]]:
        """Yield every archived version, with the time at which its record was written, in any order."""
        start = f"{self.workspace}/"
        async for info in self.store.list(start):
            name = info.key.removeprefix(start)
            if name.endswith(RECORD) and "/" not in name:
                yield name.removesuffix(RECORD), info.modified_at

    async def find(self, version: str) -> ModelPublished:
        """Return what a version's record says; `NotFound` where there is none."""
        _, key = keys_of(self.workspace, version)
        data = bytearray()
        async for piece in self.store.read(key, 0, RECORD_BYTES_MAX):
            data += piece
        entry = entry_of(key, bytes(data))
        if entry.version != version:
            raise BadMessage(f"{key}: expected the record of {version}, got that of {entry.version}")
        return entry

    async def has(self, entry: ModelPublished) -> bool:
        """Whether a version is archived, whole, with the digest that the catalogue says."""
        return await self.digest(entry.version) == entry.digest

    async def digest(self, version: str) -> str:
        """Return the digest of the model that is archived, whole, as a version; '' where none is."""
        file, _ = keys_of(self.workspace, version)
        try:
            found = await self.find(version)
            nbytes = (await self.store.head(file)).nbytes
        except (NotFound, BadMessage):
            return ""
        return found.digest if nbytes > found.nbytes else ""  # a copy of a store may have broken off

    async def lists(self, version: str, within_s: float = LISTED_S) -> bool:
        """Whether a version's record was there when the store was listed last, at most so long ago: for lists.

        A store that is away is told of as it was; where it was never listed, its error is raised.
        """
        async with self._listing:
            now = asyncio.get_running_loop().time()
            old_s = within_s if version in self._listed else min(within_s, MISSED_S)
            if self._listed_at is None and now < self._away_until:
                raise StoreUnavailable(f"{self.store.url}: it did not answer a moment ago")
            if self._listed_at is None or now > max(self._listed_at + old_s, self._away_until):
                try:
                    self._listed = frozenset([name async for name, _ in self.versions()])
                    self._listed_at = now
                except StoreError as error:
                    self._away_until = asyncio.get_running_loop().time() + AWAY_S
                    if self._listed_at is None:
                        raise
                    log.warning("lists tell what %s had a while ago: %s", self.store.url, error)
        return version in self._listed

    async def head(self, version: str) -> Head:
        """Return what a version's file holds; `NotFound` where there is none."""
        file, _ = keys_of(self.workspace, version)
        length = length_of(await self._some(file, 0, LENGTH_BYTES))
        return Head(spec_of(await self._some(file, 0, length)), length)

    async def _some(self, key: str, start: int, stop: int) -> bytes:
        return b"".join([bytes(piece) async for piece in self.store.read(key, start, stop)])

    async def span(self, version: str, start: int, stop: int) -> AsyncGenerator[Payload, None]:
        """Yield the bytes ``start`` to ``stop`` of a version's buffer, as they are: nothing of a range is checked."""
        file, _ = keys_of(self.workspace, version)
        head = await self.head(version)
        async for piece in self.store.read(file, head.nbytes + start, head.nbytes + stop):
            yield piece

    async def chunks(self, entry: ModelPublished) -> AsyncGenerator[Payload, None]:
        """Yield a version's buffer in order; `BadMessage` behind the last piece where all of it has another digest."""
        hasher, came = Hasher(), 0
        async with aclosing(self.span(entry.version, 0, entry.nbytes + 1)) as pieces:
            async for piece in pieces:
                await self._workers.run(hasher.update, piece)
                came += len(piece)
                yield piece
        found = hasher.hexdigest()
        if found != entry.digest or came != entry.nbytes:
            raise BadMessage(
                f"model {entry.version}: expected {entry.nbytes} bytes of the digest {entry.digest} in "
                f"{self.store.url}, got {came} of {found}: the store's object was changed, or is damaged"
            )

    async def read(self, entry: ModelPublished, chunk_bytes: int = CHUNK_BYTES) -> StoredModel:
        """Fetch a version as a whole, checked."""
        head = await self.head(entry.version)
        if head.spec.nbytes != entry.nbytes:
            raise BadMessage(f"model {entry.version}: expected {entry.nbytes} bytes, its file has {head.spec.nbytes}")
        buffer = bytearray(entry.nbytes)
        at = 0
        async with aclosing(self.chunks(entry)) as pieces:
            async for piece in pieces:
                _place(buffer, at, piece)
                at += len(piece)
        view = memoryview(buffer).toreadonly()
        arrays = unpack(head.spec, view)
        manifest = await self._workers.run(Manifest.of, arrays, chunk_bytes)
        return StoredModel(manifest, arrays, entry.nbytes, view)


def _place(buffer: bytearray, at: int, piece: Buffer) -> None:
    if at + len(piece) <= len(buffer):  # what is too long is found by its digest
        buffer[at : at + len(piece)] = piece


__all__ = ["FILE", "RECORD", "Archive", "Head"]
