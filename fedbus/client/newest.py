"""The newest model that came from the federation: fetched once, shared by all sessions of a client.

A model that is only evaluated is held too, but is not the newest: whoever compares candidates must not change what an
application predicts with.

What it holds is where the next begins: chunks that did not change are not fetched again, and neither is what had come
before a fetch failed or was given up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fedbus.client.app import Model
from fedbus.errors import BadMessage
from fedbus.store.models import ModelStore, Reading, StoredModel
from fedbus.tensors import Manifest
from fedbus.tensors.spare import Spare


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model with its manifest; ``nbytes``: what travelled for it, 0 when it was here already."""

    model: Model
    manifest: Manifest
    nbytes: int


class NewestModel:
    """Holds one model, and what there is of the next.

    Readers of `model` never wait; a new one takes its place whole. ``spare``: memory of a former model or
    update, which the next of either is written over: with two of them and what the app makes a client goes round.
    """

    def __init__(self) -> None:
        self.model: Model | None = None
        self._held: Model | None = None
        self._blob = ""
        self._stored: StoredModel | None = None
        self._reading: Reading | None = None
        self.spare = Spare()
        self._lock = asyncio.Lock()

    async def fetch(
        self, store: ModelStore, blob: str, version: str, *, aside: bool = False, digest: str = ""
    ) -> Fetched:
        """Return a model, from memory when it is held; errors as in `ModelStore.read`.

        ``aside``: `model` stays what it was. ``digest``: the one that it must have, `BadMessage` where it has another;
        nothing of that is fetched.
        """
        async with self._lock:
            if self._held is not None and self._stored is not None and self._blob == blob:
                _check_digest(version, self._stored.manifest.digest, digest)
                self.model = self.model if aside else self._held
                return Fetched(self._held, self._stored.manifest, 0)
            reading = self._reading
            if reading is None or reading.blob != blob:
                self._reading = None  # before the next takes memory
                reading = await store.begin(blob, self._stored, self.spare)
                self._reading = reading
            _check_digest(version, reading.manifest.digest, digest)
            stored = await store.finish(reading)
            self._reading = None
            if self._stored is not None:
                self.spare.give(self._stored.buffer)
            self._held = Model(stored.arrays, version, stored.manifest.digest)
            self._blob, self._stored = blob, stored
            self.model = self.model if aside else self._held
            return Fetched(self._held, stored.manifest, stored.fetched_bytes)


def _check_digest(version: str, found: str, wanted: str) -> None:
    if wanted and found != wanted:
        raise BadMessage(f"model {version}: its workspace has signed the digest {wanted}, the broker has {found}")
