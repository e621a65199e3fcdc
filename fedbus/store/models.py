"""Models on the bus: a blob is a manifest and its chunks; the catalogue says which version is which blob.

Order of writes: all chunks, then the manifest, then whoever names the blob. A blob without a manifest is nothing; a
name is never used for two contents. Reading fetches chunks in a window, checks each against the manifest, and the whole
against its digest.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgpack

from fedbus.bus.base import Bus, Message, Payload
from fedbus.bus.patience import patiently
from fedbus.errors import BadMessage, FedbusError, NotFound
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.records import ModelPublished
from fedbus.messages.subjects import Subjects
from fedbus.tensors.chunks import CHUNK_BYTES
from fedbus.tensors.codec import Assembly, Source, unpack
from fedbus.tensors.digest import Hasher
from fedbus.tensors.manifest import Manifest
from fedbus.tensors.spec import Arrays
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

T = TypeVar("T")

WINDOW_CHUNKS = 8
"""Chunks under way at once: 4 MiB keep a link of 100 ms and 300 Mbit/s busy, and bound what is buffered."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as read: its arrays are read-only views of one buffer. ``fetched_bytes``: what travelled for it."""

    manifest: Manifest
    arrays: Arrays
    fetched_bytes: int


class ModelStore:
    """Blobs and the catalogue of a workspace."""

    def __init__(self, bus: Bus, subjects: Subjects, workers: Workers) -> None:
        self._bus = bus
        self._subjects = subjects
        self._workers = workers
        self._blobs = subjects.stream("blob")
        self._models = subjects.stream("model")

    # --- blobs ---

    async def put(self, blob: str, arrays: Arrays, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
        """Store arrays as a blob; returns its manifest once everything is stored."""
        manifest = await self._workers.run(Manifest.of, arrays, chunk_bytes)
        source = Source(manifest.layout, arrays)
        try:
            await self.put_chunks(blob, range(manifest.layout.count), source.chunk)
            await self.put_manifest(blob, manifest)
        except FedbusError:
            await self.discard(blob)
            raise
        return manifest

    async def put_chunks(self, blob: str, indices: Iterable[int], chunk: Callable[[int], Payload]) -> None:
        """Store chunks, `WINDOW_CHUNKS` at a time; ``chunk(i)`` gives the bytes of chunk i and is called in order."""

        async def store(index: int) -> None:
            data = chunk(index)
            await self._persist(lambda: self._append(self._subjects.blob(blob, index), data, f"{blob}.{index}"))

        await _windowed(store, indices)

    async def put_chunk(self, blob: str, index: int, data: Payload) -> None:
        """Store one chunk."""
        await self._persist(lambda: self._append(self._subjects.blob(blob, index), data, f"{blob}.{index}"))

    async def put_manifest(self, blob: str, manifest: Manifest) -> None:
        """Store the manifest, which makes the blob whole; every chunk must be stored by now."""
        packed: bytes = msgpack.packb(manifest.to_wire())
        await self._persist(lambda: self._append(self._subjects.blob(blob, "manifest"), packed, f"{blob}.manifest"))

    async def _append(self, subject: str, data: Payload, message_id: str) -> int:
        return await self._bus.append(self._blobs, subject, data, message_id=message_id)

    async def manifest(self, blob: str) -> Manifest:
        """Return a blob's manifest; `NotFound` when there is none."""
        message = await self._persist(lambda: self._bus.last(self._blobs, self._subjects.blob(blob, "manifest")))
        if message is None:
            raise NotFound(f"blob {blob}: no such model is stored; it was never finished, or it was removed")
        try:
            wire = msgpack.unpackb(message.data)
        except (ValueError, msgpack.UnpackException) as error:
            raise BadMessage(
                f"blob {blob}: expected a manifest, got {len(message.data)} bytes that are not msgpack"
            ) from error
        return Manifest.from_wire(wire)

    async def chunk(self, blob: str, index: int) -> Message:
        """Return one chunk as stored; `NotFound` when it is not there."""
        message = await self._persist(lambda: self._bus.last(self._blobs, self._subjects.blob(blob, index)))
        if message is None:
            raise NotFound(f"blob {blob}: chunk {index} is not stored; it was removed while it was read")
        return message

    async def read(self, blob: str, manifest: Manifest | None = None) -> StoredModel:
        """Fetch a whole model, every chunk and the whole checked.

        Raises `NotFound`, `BadMessage` (what is stored is not what its manifest says), `BusUnavailable`.
        """
        manifest = manifest or await self.manifest(blob)
        assembly = Assembly(manifest.layout)

        async def fetch(index: int) -> None:
            message = await self.chunk(blob, index)
            await self._workers.run(_place, assembly, manifest, index, message.data)

        await _windowed(fetch, range(manifest.layout.count))
        found = await self._workers.run(_digest, assembly.buffer)
        if found != manifest.digest:
            raise BadMessage(f"blob {blob}: expected the digest {manifest.digest}, got {found}")
        return StoredModel(manifest, unpack(manifest.spec, assembly.buffer), manifest.spec.nbytes)

    async def chunks(self, blob: str, manifest: Manifest) -> AsyncIterator[Payload]:
        """Yield the checked chunks of a model in order, in memory independent of its size."""
        for index in range(manifest.layout.count):
            message = await self.chunk(blob, index)
            manifest.check_chunk(index, message.data)
            yield message.data

    async def discard(self, blob: str) -> None:
        """Remove what there is of a blob that could not be stored whole, as far as that succeeds.

        A store that is full of half a model has no room for the journal either.
        """
        try:
            await self.remove(blob)
        except FedbusError as error:
            log.warning("blob %s: what was stored of it stays: %s", blob, error)

    async def remove(self, blob: str) -> None:
        """Remove a blob."""
        await self._bus.purge(self._blobs, self._subjects.blob(blob, "*"))

    # --- catalogue ---

    async def enter(self, model: ModelPublished) -> None:
        """Enter a version into the catalogue; entering it again changes nothing."""
        data = encode(Envelope(model.version, self._subjects.workspace, "coordinator", model))
        subject = self._subjects.model(model.version)
        known = await self._persist(lambda: self._bus.last(self._models, subject))
        if known is None or known.data != data:
            await self._persist(lambda: self._bus.append(self._models, subject, data, message_id=f"model-{model.blob}"))

    async def find(self, version: str) -> ModelPublished:
        """Return the catalogue's entry of a version; `NotFound` when there is none."""
        message = await self._persist(lambda: self._bus.last(self._models, self._subjects.model(version)))
        if message is None:
            raise NotFound(f"model {version}: no such version; `fedbus model list` shows those that exist")
        return _entry(message)

    async def list(self) -> list[ModelPublished]:
        """Return the whole catalogue in the order of entry."""
        pattern = self._subjects.model()
        if not await self._bus.pending(self._models, pattern):
            return []
        found: list[ModelPublished] = []
        subscription = await self._bus.follow(self._models, pattern)
        try:
            async for message in subscription:
                try:
                    found.append(_entry(message))
                except BadMessage as error:
                    log.warning("an entry of the catalogue is passed over: %s", error)
                if not message.pending:
                    break
        finally:
            await subscription.close()
        return found

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(self._bus, call)


async def _windowed(work: Callable[[int], Awaitable[None]], indices: Iterable[int]) -> None:
    """Run ``work`` over the indices, started in order, `WINDOW_CHUNKS` at a time; the first error ends all."""
    pending = iter(indices)

    async def worker() -> None:
        for index in pending:
            await work(index)

    async with together() as group:
        for _ in range(WINDOW_CHUNKS):
            group.create_task(worker())


def _place(assembly: Assembly, manifest: Manifest, index: int, data: bytes) -> None:
    manifest.check_chunk(index, data)
    assembly.put(index, data)


def _digest(buffer: Payload) -> str:
    hasher = Hasher()
    hasher.update(buffer)
    return hasher.hexdigest()


def _entry(message: Message) -> ModelPublished:
    body = decode(message.data, message.subject).body
    if not isinstance(body, ModelPublished):
        raise BadMessage(f"{message.subject}: expected ModelPublished in the catalogue, got {body.kind}")
    return body
