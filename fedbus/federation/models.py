"""The models that a federation has published: which there are, and their arrays.

The catalogue names them; whatever is published and not in it yet stands in the journal of its session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fedbus.bus.base import Payload
from fedbus.errors import BadMessage, NotFound
from fedbus.messages.ids import check_name
from fedbus.messages.records import ModelPublished, SessionStarted
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore, StoredModel


class Models:
    """The models of a federation."""

    def __init__(self, store: ModelStore, journal: Journal) -> None:
        self._store = store
        self._journal = journal

    async def list(self) -> list[ModelPublished]:
        """Return the catalogue: every published version, in the order of entry, which is soon after publication."""
        return await self._store.list()

    async def find(self, version: str) -> ModelPublished:
        """Return what is published as a version; `NotFound` when there is none, or its arrays were removed."""
        entry = await self.entry(version)
        if entry.removed_at:
            raise NotFound(removed_text(entry))
        return entry

    async def entry(self, version: str) -> ModelPublished:
        """Return what the catalogue says of a version, also where its arrays were removed; otherwise as `find`."""
        try:
            return await self._store.find(check_name("model version", version))
        except NotFound:
            found = await self._journalled(version)
            if found is None:
                raise
            return found

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
        stored = await self._store.read(entry.blob)
        if stored.manifest.digest != entry.digest:
            raise BadMessage(f"model {version}: expected the digest {entry.digest}, got {stored.manifest.digest}")
        return stored

    async def chunks(self, version: str) -> AsyncIterator[Payload]:
        """Yield a model's bytes chunk by chunk, in memory independent of its size."""
        entry = await self.find(version)
        manifest = await self._store.manifest(entry.blob)
        async for chunk in self._store.chunks(entry.blob, manifest):
            yield chunk


def removed_text(entry: ModelPublished) -> str:
    """Say when and why the arrays of a version were removed."""
    at = datetime.fromtimestamp(entry.removed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"model {entry.version}: its arrays were removed at {at}: {entry.removed_why or 'no reason is known'}"
