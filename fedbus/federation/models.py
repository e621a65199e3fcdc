"""The models that a federation has published: which there are, and their arrays.

The catalogue names them; whatever is published and not in it yet stands in the journal of its session. What the bus has
no longer is read from the archive, where there is one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np

from fedbus.access.signing import ModelVerifier
from fedbus.bus.base import Payload
from fedbus.errors import BadMessage, NotFound
from fedbus.federation.verifying import ModelVerified, judged
from fedbus.messages.ids import check_name
from fedbus.messages.records import ModelPublished, SessionStarted
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore, StoredModel
from fedbus.store.objects.archived import Archive
from fedbus.tensors import Hasher, ModelSpec

T = TypeVar("T")


class Models:
    """The models of a federation."""

    def __init__(
        self,
        store: ModelStore,
        journal: Journal,
        archive: Archive | None = None,
        signatures: ModelVerifier | None = None,
    ) -> None:
        """``signatures``: knows what the workspace has signed; None where it is open."""
        self._store = store
        self.signatures = signatures
        self._journal = journal
        self.archive = archive

    async def list(self) -> list[ModelPublished]:
        """Return the catalogue: every published version, in the order of entry, which is soon after publication."""
        return await self._store.list()

    async def find(self, version: str) -> ModelPublished:
        """Return what is published as a version; `NotFound` when there is none, or its arrays are nowhere any more."""
        entry = await self.entry(version)
        if entry.removed_at and not await self.is_archived(entry):
            raise NotFound(removed_text(entry))
        return entry

    async def entry(self, version: str) -> ModelPublished:
        """Return what the catalogue says of a version, also where its arrays were removed; otherwise as `find`."""
        try:
            return await self._store.find(check_name("model version", version))
        except NotFound:
            found = await self._journalled(version)
            if found is None and self.archive is not None:
                with suppress(NotFound):
                    return await self.archive.find(version)  # of a broker that was lost, or another one
            if found is None:
                raise
            return found

    async def is_archived(self, entry: ModelPublished) -> bool:
        """Whether a version's arrays stand in the store behind the bus, where there is one."""
        return self.archive is not None and await self.archive.has(entry)

    async def is_listed(self, entry: ModelPublished) -> bool:
        """Whether the store had a version when it was listed, a minute ago at most: quicker than `is_archived`."""
        return self.archive is not None and await self.archive.lists(entry.version)

    async def is_kept(self, entry: ModelPublished) -> bool:
        """Whether the bus has a version's arrays."""
        return not entry.removed_at and await self._store.is_whole(entry.blob)

    async def _journalled(self, version: str) -> ModelPublished | None:
        """Look for a version in the journal of its session: the catalogue is entered behind it."""
        session = version.rpartition("-")[0]
        for journalled in await self._journal.read(session) if session else []:
            for record in journalled.entry.unpack():
                if isinstance(record, ModelPublished) and record.version == version:
                    return record
                if isinstance(record, SessionStarted) and record.version == version:
                    return record.model(session, journalled.entry.at)
        return None

    async def get(self, version: str) -> Mapping[str, np.ndarray[Any, Any]]:
        """Fetch a model, every chunk and the whole checked; returns names to read-only arrays."""
        return (await self.read(version)).arrays

    async def read(self, version: str) -> StoredModel:
        """Fetch a model with its manifest."""
        entry = await self.find(version)
        try:
            stored = await self._from_bus(entry, self._store.read)
        except NotFound as error:
            return await (await self._archive_of(entry, error)).read(entry)
        if stored.manifest.digest != entry.digest:
            raise BadMessage(f"model {version}: expected the digest {entry.digest}, got {stored.manifest.digest}")
        return stored

    async def chunks(self, version: str) -> AsyncGenerator[Payload, None]:
        """Yield a model's bytes chunk by chunk, in memory independent of its size; from the bus each is checked.

        From the archive the whole is: `BadMessage` behind the last one says that none of them is to be used.
        """
        entry = await self.find(version)
        try:
            manifest = await self._from_bus(entry, self._store.manifest)
        except NotFound as error:
            archive = await self._archive_of(entry, error)
            async with aclosing(archive.chunks(entry)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        async with aclosing(self._store.chunks(entry.blob, manifest)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def verify(self, version: str) -> ModelVerified:
        """Fetch a version, and look whether its workspace has signed that it has this digest; errors as of `chunks`.

        `ConfigError` in an open workspace, and where nothing is known of its key.
        """
        entry, hasher = await self.find(version), Hasher()
        async with aclosing(self.chunks(version)) as chunks:
            async for chunk in chunks:
                hasher.update(chunk)
        return judged(self.signatures, version, hasher.hexdigest(), entry.digest, entry.signature)

    async def spec(self, version: str) -> ModelSpec:
        """Return a model's arrays: names, dtypes, shapes, in their order."""
        entry = await self.find(version)
        try:
            return (await self._from_bus(entry, self._store.manifest)).spec
        except NotFound as error:
            return (await (await self._archive_of(entry, error)).head(version)).spec

    async def span(self, version: str, start: int, stop: int) -> AsyncGenerator[Payload, None]:
        """Yield the bytes ``start`` to ``stop`` of a model's buffer; of a range from the archive nothing is checked."""
        entry = await self.find(version)
        try:
            manifest = await self._from_bus(entry, self._store.manifest)
            pieces = self._store.span(entry.blob, manifest, start, stop)
        except NotFound as error:
            pieces = (await self._archive_of(entry, error)).span(version, start, stop)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _archive_of(self, entry: ModelPublished, error: NotFound) -> Archive:
        """Return the archive, where it has this version: by its digest, as another one may be called the same."""
        if self.archive is None or not await self.archive.has(entry):
            raise error
        return self.archive

    async def _from_bus(self, entry: ModelPublished, read: Callable[[str], Awaitable[T]]) -> T:
        """Read from the bus; `NotFound` at once where the catalogue says that it has the arrays no longer."""
        if entry.removed_at:
            raise NotFound(removed_text(entry))
        return await read(entry.blob)


def removed_text(entry: ModelPublished) -> str:
    """Say when and why the arrays of a version were removed."""
    at = datetime.fromtimestamp(entry.removed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"model {entry.version}: its arrays were removed at {at}: {entry.removed_why or 'no reason is known'}"
