"""The newest model that came from the federation: fetched once, shared by all sessions of a client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fedbus.client.app import Model
from fedbus.store.models import ModelStore
from fedbus.tensors import Manifest


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model with its manifest; ``nbytes``: what travelled for it, 0 when it was here already."""

    model: Model
    manifest: Manifest
    nbytes: int


class NewestModel:
    """Holds one model. Readers of `model` never wait; a new one takes its place whole."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self._blob = ""
        self._manifest: Manifest | None = None
        self._lock = asyncio.Lock()

    async def fetch(self, store: ModelStore, blob: str, version: str) -> Fetched:
        """Return a model, from memory when it is the newest; errors as in `ModelStore.read`."""
        async with self._lock:
            if self.model is not None and self._manifest is not None and self._blob == blob:
                return Fetched(self.model, self._manifest, 0)
            stored = await store.read(blob)
            self.model = Model(stored.arrays, version, stored.manifest.digest)
            self._blob, self._manifest = blob, stored.manifest
            return Fetched(self.model, stored.manifest, stored.fetched_bytes)
