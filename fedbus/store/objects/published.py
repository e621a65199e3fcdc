"""What a workspace has published, as objects: each version that the bus keeps, as the file that a download gives.

    <workspace>/<version>.safetensors    the header, then the chunks of its blob
    <workspace>/<version>.json           what the catalogue says of it (`fedbus.store.objects.records`)

Nothing is copied or kept for it: a range of a file is a range of chunks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from fedbus.bus.base import Bus, Payload
from fedbus.errors import BusError, BusUnavailable, NotFound, StoreUnavailable
from fedbus.messages.ids import is_name
from fedbus.messages.records import ModelPublished
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore
from fedbus.store.objects.base import ObjectInfo
from fedbus.store.objects.records import FILE, RECORD, file_head, keys_of, record_of
from fedbus.store.sealing import Seal
from fedbus.workers import Inline


class Published:
    """The published versions of a workspace; ``bus`` gives the connection. ``seal``: with which they are, if at all."""

    def __init__(self, bus: Callable[[], Awaitable[Bus]], subjects: Subjects) -> None:
        self.seal: Seal | None = None
        self._bus = bus
        self._subjects = subjects

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[Payload, None]:
        """Yield the bytes of an object; `NotFound` where the bus has none of this key."""
        try:
            store, entry, end = await self._find(key)
            if end == RECORD:
                yield record_of(entry)[start:stop]
                return
            async with aclosing(model_file(store, entry, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
        except BusError as error:
            raise StoreUnavailable(f"{key}: {error}") from error

    async def head(self, key: str) -> ObjectInfo:
        """Return what is known of an object; `NotFound` as of `read`."""
        try:
            store, entry, end = await self._find(key)
            if end == RECORD:
                return ObjectInfo(key, len(record_of(entry)), entry.at)
            manifest = await store.manifest(entry.blob)
            return ObjectInfo(key, len(file_head(entry, manifest.spec)) + entry.nbytes, entry.at)
        except BusError as error:
            raise StoreUnavailable(f"{key}: {error}") from error

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield the objects of the catalogue: of a file, the size needs its manifest."""
        if not f"{self._subjects.workspace}/".startswith(prefix[: len(self._subjects.workspace) + 1]):
            return
        try:
            store = await self._store()
            for entry in await store.list() if store is not None else ():
                for key in keys_of(self._subjects.workspace, entry.version):
                    if key.startswith(prefix) and not entry.removed_at:
                        try:
                            yield await self.head(key)
                        except NotFound:
                            break  # removed since
        except BusError as error:
            raise StoreUnavailable(f"{prefix}: {error}") from error

    async def _find(self, key: str) -> tuple[ModelStore, ModelPublished, str]:
        workspace, _, name = key.partition("/")
        version, dot, end = name.rpartition(".")
        if workspace != self._subjects.workspace or f"{dot}{end}" not in (FILE, RECORD) or not is_name(version):
            raise NotFound(f"{key}: no such object")
        store = await self._store()
        if store is None:
            raise NotFound(f"{key}: no such object")
        entry = await store.find(version)
        if entry.removed_at:
            raise NotFound(f"{key}: its arrays were removed from the bus: {entry.removed_why}")
        return store, entry, f"{dot}{end}"

    async def _store(self) -> ModelStore | None:
        """Return the models of the workspace; None where nobody has published: a broker that is only an archive."""
        bus = await self._bus()
        try:
            await bus.pending(self._subjects.stream("model"), self._subjects.model())
        except BusUnavailable:
            if not bus.connected:
                raise
            return None
        return ModelStore(bus, self._subjects, Inline(), self.seal)


async def model_file(
    store: ModelStore, entry: ModelPublished, start: int = 0, stop: int | None = None
) -> AsyncGenerator[Payload, None]:
    """Yield a version as the bytes of its safetensors file, or a range of them; each chunk is checked.

    Raises `NotFound` where the bus has its blob no longer.
    """
    manifest = await store.manifest(entry.blob)
    head = file_head(entry, manifest.spec)
    end = len(head) + manifest.spec.nbytes
    end = end if stop is None else min(stop, end)
    if start < min(end, len(head)):
        yield head[start:end]
    first, last = max(start - len(head), 0), end - len(head)
    if first < last:
        async with aclosing(store.span(entry.blob, manifest, first, last)) as chunks:
            async for chunk in chunks:
                yield chunk
