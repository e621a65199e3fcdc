"""Models on the bus: a blob is a manifest and its chunks; the catalogue says which version is which blob.

Order of writes: all chunks, then the manifest, then whoever names the blob. A blob without a manifest is nothing; a
name is never used for two contents. A small blob has no chunks: its bytes travel within the manifest. Beside a blob may
lie others that end with it: ``<blob>-state``, ``-inner`` (`fedbus.combiner`), and ``<blob>-down``, the chunks of the
encoded difference to the version before (`fedbus.codecs.downlink`), of which the manifest tells under ``down``.

Reading (`fedbus.store.reading`) fetches chunks ahead, within a window that follows the line (`fedbus.store.window`),
checks each against the manifest, and the whole against its digest.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import msgpack

from fedbus.bus.base import Bus, Message, Payload
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.codecs.downlink import Downlink
from fedbus.errors import BadMessage, Conflict, FedbusError, NotFound
from fedbus.foreign import shown, unpacked
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.records import REMOVED_CHARS_MAX, ModelPublished
from fedbus.messages.subjects import Subjects
from fedbus.messages.uploads import INLINE_BYTES_MAX
from fedbus.store.reading import Ahead, Reading, StoredModel
from fedbus.store.sealing import Seal, opened, sealed
from fedbus.tensors.chunks import CHUNK_BYTES, Layout
from fedbus.tensors.codec import Source
from fedbus.tensors.manifest import Manifest
from fedbus.tensors.spare import Spare
from fedbus.tensors.spec import Arrays
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.store")

__all__ = ["ModelStore", "Reading", "StoredModel", "down_of"]

T = TypeVar("T")

DATA = "data"
"""Where the bytes of a small blob stand within its manifest."""

DOWN = "down"
"""Where a manifest says from which version its encoded chunks lead there."""

BESIDE = ("-state", "-inner", "-down")
"""What blobs that belong to another, and go with it, are called behind its name."""

MISSES_MAX = 8
"""Encoded chunks that are asked for in vain before it is taken that there are none: each costs a round trip."""

APPENDS = 8
"""Chunks that are stored at once."""

MANIFEST = "manifest"
"""The part of a blob that makes it whole."""

CHUNK_DEADLINE_S = 30.0
"""For one chunk, of at most 4 MiB: a line of 150 kB/s is slow, one that takes longer is broken. Nothing waits longer
for a larger model."""

COPIES = 64
"""Chunks copied in one go: some 10 ms, after which a read that was given up ends."""

SMALL_KEPT = 16
"""Small blobs that are remembered, of at most 32 KiB each: a combiner reads the base of each session twice."""

Small = tuple[Manifest, Payload]
"""A blob that travelled within its manifest."""


class ModelStore:
    """Blobs and the catalogue of a workspace."""

    def __init__(self, bus: Bus, subjects: Subjects, workers: Workers, seal: Seal | None = None) -> None:
        """``seal``: the keys of blobs (`fedbus.store.sealing`); None stores them as they are."""
        self._bus = bus
        self._seal = seal
        self._subjects = subjects
        self._workers = workers
        self._blobs = subjects.stream("blob")
        self._models = subjects.stream("model")
        self._small: dict[str, Small] = {}

    # --- blobs ---

    @staticmethod
    def is_small(manifest: Manifest) -> bool:
        """Whether a blob travels within its manifest: one of at most one chunk and 32 KiB. One message to read it."""
        return ModelStore.is_small_layout(manifest.layout)

    @staticmethod
    def is_small_layout(layout: Layout) -> bool:
        """`is_small`, before there is a manifest."""
        return layout.count <= 1 and layout.spec.nbytes <= INLINE_BYTES_MAX

    async def put(self, blob: str, arrays: Arrays, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
        """Store arrays as a blob; returns its manifest once everything is stored."""
        manifest = await self._workers.run(Manifest.of, arrays, chunk_bytes)
        source, indices = Source(manifest.layout, arrays), range(manifest.layout.count)
        try:
            if self.is_small(manifest):
                await self.put_manifest(blob, manifest, b"".join(source.chunk(index) for index in indices))
            else:
                await self.put_chunks(blob, indices, source.chunk)
                await self.put_manifest(blob, manifest)
        except FedbusError:
            await self.discard(blob)
            raise
        return manifest

    async def put_chunks(self, blob: str, indices: Iterable[int], chunk: Callable[[int], Payload]) -> None:
        """Store chunks, `APPENDS` at a time; ``chunk(i)`` gives the bytes of chunk i and is called in order.

        After an error no further one is begun, and those under way come to their end first: one given up in flight
        might be stored after whoever heard of the error has removed the blob.
        """
        pending = iter(indices)
        failures: list[FedbusError] = []

        async def worker() -> None:
            for index in pending:
                if failures:
                    return
                try:
                    await self.put_chunk(blob, index, chunk(index))
                except FedbusError as error:
                    failures.append(error)

        async with together() as group:
            for _ in range(APPENDS):
                group.create_task(worker())
        if failures:
            raise failures[0]

    async def put_chunk(self, blob: str, index: int, data: Payload) -> None:
        """Store one chunk."""
        subject, stored = self._subjects.blob(blob, index), sealed(self._seal, blob, index, data)
        await self._persist(lambda: self._append(subject, stored, CHUNK_DEADLINE_S))

    async def put_manifest(
        self, blob: str, manifest: Manifest, data: Payload | None = None, down: Mapping[str, Any] | None = None
    ) -> None:
        """Store the manifest, which makes the blob whole; every chunk must be stored by now.

        ``down``: `Downlink.head` of the difference of which encoded chunks are stored as blob `down_of`; some may be
        missing there.

        Or none: where the blob `is_small`, ``data`` may be all of its bytes, which travel within the manifest; nothing
        else is stored of it then, and `chunk` and `read` give it as any other.
        """
        wire = manifest.to_wire()
        if data is not None:
            wire[DATA] = bytes(data)
        if down is not None:
            wire[DOWN] = dict(down)
        stored = sealed(self._seal, blob, MANIFEST, msgpack.packb(wire))
        await self._persist(lambda: self._append(self._subjects.blob(blob, MANIFEST), stored))

    async def _append(self, subject: str, data: Payload, deadline_s: float = 10.0) -> int:
        """Append without an id of ours: a chunk that was removed, and is stored again soon, must not pass for a repeat.

        A repeat does no harm: of each part the newest is kept, and all are the same.
        """
        return await self._bus.append(self._blobs, subject, data, deadline_s=deadline_s)

    async def manifest(self, blob: str) -> Manifest:
        """Return a blob's manifest; `NotFound` when there is none."""
        return (await self._head(blob))[0]

    async def _head(self, blob: str) -> tuple[Manifest, Payload | None, object]:
        """Return the manifest, the bytes that travelled within it, and what it says under `DOWN`."""
        message = await self._persist(lambda: self._bus.last(self._blobs, self._subjects.blob(blob, MANIFEST)))
        if message is None:
            raise NotFound(f"blob {blob}: no such model is stored; it was never finished, or it was removed")
        manifest, within, down = _opened(blob, self.opened(blob, MANIFEST, message.data))
        if within is not None:
            self._small[blob] = manifest, within
            while len(self._small) > SMALL_KEPT:
                del self._small[next(iter(self._small))]
        return manifest, within, down

    def unpack(self, blob: str, stored: Payload) -> tuple[Manifest, Payload | None]:
        """Return a manifest as it is stored, and the bytes that travelled within it; `BadMessage` for what is none."""
        return _opened(blob, self.opened(blob, MANIFEST, stored))[:2]

    def opened(self, blob: str, part: str | int, stored: Payload) -> Payload:
        """Return what a message of a blob holds; `BadMessage` where it was not sealed with the blob's key."""
        return opened(self._seal, blob, part, stored)

    def sealed(self, blob: str, part: str | int, data: Payload) -> Payload:
        """Return a message of a blob as it is stored."""
        return sealed(self._seal, blob, part, data)

    def key_of(self, blob: str) -> bytes:
        """Return the key of a blob, for who is to read it; b'' where it is stored as it is."""
        return (self._seal.key_of(blob) if self._seal is not None else None) or b""

    @property
    def reconnects(self) -> int:
        """How often the connection was made again: what was stored before may be lost with the broker's store."""
        return self._bus.reconnects

    async def parts(self, blob: str) -> int:
        """Return how many messages of a blob are stored: its chunks, and the manifest."""
        return await self._persist(lambda: self._bus.pending(self._blobs, self._subjects.blob(blob)))

    async def is_whole(self, blob: str) -> bool:
        """Whether a blob is stored, with every chunk; a broker that lost its store in between may have some of it."""
        try:
            manifest, within, _ = await self._head(blob)
        except NotFound:
            return False
        return within is not None or await self.parts(blob) == manifest.layout.count + 1

    def is_within(self, blob: str) -> bool:
        """Whether the bytes of a blob, whose manifest was read last, travelled within it."""
        return blob in self._small

    async def chunk(self, blob: str, index: int) -> Message:
        """Return one chunk as stored; `NotFound` when it is not there."""
        subject = self._subjects.blob(blob, index)
        if blob in self._small:
            manifest, data = self._small[blob]
            if 0 <= index < manifest.layout.count:
                return Message(subject, _cut(manifest, data, index))
        message = await self._persist(lambda: self._bus.last(self._blobs, subject, deadline_s=CHUNK_DEADLINE_S))
        if message is None:
            raise NotFound(f"blob {blob}: chunk {index} is not stored; it was removed while it was read")
        return replace(message, data=self.opened(blob, index, message.data)) if self._seal is not None else message

    async def read(self, blob: str, *, held: StoredModel | None = None) -> StoredModel:
        """Fetch a whole model, every chunk and the whole checked; ``held``: see `begin`.

        Raises `NotFound`, `BadMessage` (what is stored is not what its manifest says), `BusUnavailable`.
        """
        return await self.finish(await self.begin(blob, held))

    async def begin(self, blob: str, held: StoredModel | None = None, spare: Spare | None = None) -> Reading:
        """Look at a model; `finish` fetches it. Errors as of `manifest`.

        Chunks that ``held``, a version that is here, has in the same place are copied from it; where the model is
        stored as what leads there from ``held`` too, that is what travels of the others. ``spare``: where memory for it
        may be found.
        """
        manifest, data, said = await self._head(blob)
        down = None
        if held is not None and said is not None and held.manifest.layout == manifest.layout:
            down = await self._workers.run(Downlink.of, held.manifest, said)
        reading = Reading(blob, manifest, held, spare, down)
        if data is not None:
            reading.place([(index, _cut(manifest, data, index)) for index in range(manifest.layout.count)])
        return reading

    async def finish(self, reading: Reading) -> StoredModel:
        """Fetch what is missing of a model; errors as of `read`.

        After any of them, and when it was cancelled, it may be called again: it goes on where it was.
        """
        while True:
            equal = reading.equal()
            equal_too = frozenset(equal)
            wanted = [index for index in reading.missing() if index not in equal_too]
            if wanted or equal:
                await self._fetch(reading, wanted, equal)
            if reading.missing():
                continue  # what was encoded did not lead there: those chunks are fetched as they are
            stored = reading.finish()
            if stored is not None:
                return stored

    async def _fetch(self, reading: Reading, wanted: list[int], equal: list[int]) -> None:
        encoded = reading.encoded(wanted)
        misses = 0

        async def fetch(index: int) -> Payload:
            nonlocal misses
            if index in encoded and misses < MISSES_MAX:
                try:
                    return (await self.chunk(down_of(reading.blob), index)).data
                except NotFound:
                    misses += 1
            encoded.pop(index, None)
            return (await self.chunk(reading.blob, index)).data

        sizes = {index: encoded.get(index, reading.manifest.layout.size(index)) for index in wanted}
        ahead = Ahead(fetch, wanted, sizes.__getitem__, self._bus.round_trip_s)
        try:
            for first in range(0, len(equal), COPIES):
                await self._workers.run(reading.copy, equal[first : first + COPIES])
            while pieces := await ahead.take():
                await self._workers.run(reading.place, pieces, frozenset(encoded))
        finally:
            await ahead.close()

    async def chunks(self, blob: str, manifest: Manifest) -> AsyncGenerator[Payload, None]:
        """Yield the checked chunks of a model in order, in memory independent of its size."""
        async with aclosing(self._some(blob, manifest, range(manifest.layout.count))) as chunks:
            async for _, data in chunks:
                yield data

    async def span(self, blob: str, manifest: Manifest, start: int, stop: int) -> AsyncGenerator[Payload, None]:
        """Yield the bytes ``start`` to ``stop`` of a model's buffer, of checked chunks; otherwise as `chunks`."""
        edges = manifest.layout.edges
        first, last = bisect_right(edges, start) - 1, bisect_left(edges, stop)
        wanted = range(first, last) if start < stop else range(0)
        async with aclosing(self._some(blob, manifest, wanted)) as chunks:
            async for index, data in chunks:
                low, high = max(start - edges[index], 0), min(stop - edges[index], len(data))
                yield data if (low, high) == (0, len(data)) else memoryview(data)[low:high]

    async def _some(self, blob: str, manifest: Manifest, indices: range) -> AsyncGenerator[tuple[int, Payload], None]:
        """Yield some checked chunks, each with its index."""

        async def fetch(index: int) -> Payload:
            return (await self.chunk(blob, index)).data

        layout = manifest.layout
        ahead = Ahead(fetch, indices, layout.size, self._bus.round_trip_s)
        try:
            while pieces := await ahead.take():
                for index, data in pieces:
                    manifest.check_chunk(index, data)
                    yield index, data
        finally:
            await ahead.close()

    async def discard(self, blob: str) -> None:
        """Remove what there is of a blob that could not be stored whole, as far as that succeeds.

        A store that is full of half a model has no room for the journal either.
        """
        try:
            await self.remove(blob)
        except FedbusError as error:
            log.warning("blob %s: what was stored of it stays: %s", blob, error)

    async def remove(self, blob: str) -> None:
        """Remove a blob, and all that lies beside it (`BESIDE`)."""
        self._small.pop(blob, None)
        for name in (blob, *(f"{blob}{end}" for end in BESIDE)):
            await self._bus.purge(self._blobs, self._subjects.blob(name, "*"))

    # --- catalogue ---

    async def enter(self, model: ModelPublished) -> None:
        """Enter a version into the catalogue; entering it again changes nothing, also where it was removed since."""
        data = encode(Envelope(model.version, self._subjects.workspace, "coordinator", model))
        subject = self._subjects.model(model.version)
        known = await self._persist(lambda: self._bus.last(self._models, subject))
        if known is not None and not model.removed_at and _removed(known) == model.blob:
            return
        if known is None or known.data != data:
            id_ = f"model-{model.blob}-{model.removed_at:.6f}" if model.removed_at else f"model-{model.blob}"
            id_ += "-signed" if model.signature else ""  # of an import, which entered without: no repeat of that
            await self._persist(lambda: self._bus.append(self._models, subject, data, message_id=id_))

    async def enter_first(self, model: ModelPublished) -> None:
        """Enter a version of a name that must be new; `Conflict` where there is one of that name."""
        data = encode(Envelope(model.version, self._subjects.workspace, "engineer", model))
        subject, id_ = self._subjects.model(model.version), f"model-{model.blob}"

        async def append() -> int:
            return await self._bus.append(self._models, subject, data, expected_last=0, message_id=id_)

        try:
            await self._persist(append)
        except Conflict as error:
            there = await self._persist(lambda: self._bus.last(self._models, subject))
            if there is None or there.data != data:
                raise Conflict(f"model {model.version}: there is a version of this name", state="taken") from error

    async def mark_removed(self, model: ModelPublished, at: float, why: str) -> ModelPublished:
        """Say in the catalogue that a version's arrays were removed; returns the entry as it is then."""
        entry = model.model_copy(update={"removed_at": at, "removed_why": why[:REMOVED_CHARS_MAX]})
        await self.enter(entry)
        return entry

    async def mark_restored(self, model: ModelPublished) -> None:
        """Say in the catalogue that a version's arrays are there again, where it said that they were removed."""
        subject = self._subjects.model(model.version)
        known = await self._persist(lambda: self._bus.last(self._models, subject))
        if known is None or _removed(known) != model.blob:
            return await self.enter(model)
        entry = model.model_copy(update={"removed_at": 0.0, "removed_why": ""})
        data = encode(Envelope(entry.version, self._subjects.workspace, "coordinator", entry))
        await self._persist(lambda: self._bus.append(self._models, subject, data))
        return None

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
        async with aclosing(until_now(await self._bus.follow(self._models, pattern))) as stored:
            async for message in stored:
                try:
                    found.append(_entry(message))
                except BadMessage as error:
                    log.warning("an entry of the catalogue is passed over: %s", error)
        return found

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(self._bus, call)


def down_of(blob: str) -> str:
    """Return the name of the blob with the encoded chunks that lead to a model from the version before."""
    return f"{blob}-down"


def _opened(blob: str, stored: Payload) -> tuple[Manifest, Payload | None, object]:
    """Return what is in a manifest as it is stored: itself, `DATA`, `DOWN`; `BadMessage` for what is none."""
    wire = unpacked(stored, f"blob {blob}: its manifest")
    manifest = Manifest.from_wire(wire)
    data = wire.get(DATA)
    if data is not None and (not isinstance(data, bytes) or len(data) != manifest.spec.nbytes):
        raise BadMessage(f"blob {blob}: expected {manifest.spec.nbytes} bytes within the manifest, got {shown(data)}")
    return manifest, data, wire.get(DOWN)


def _cut(manifest: Manifest, data: Payload, index: int) -> Payload:
    start, stop = manifest.layout.bounds(index)
    return data[start:stop]


def _removed(message: Message) -> str:
    """Return the blob of a version whose arrays the catalogue says were removed, '' for any other."""
    try:
        entry = _entry(message)
    except BadMessage:
        return ""
    return entry.blob if entry.removed_at else ""


def _entry(message: Message) -> ModelPublished:
    body = decode(message.data, message.subject).body
    if not isinstance(body, ModelPublished):
        raise BadMessage(f"{message.subject}: expected ModelPublished in the catalogue, got {body.kind}")
    return body
