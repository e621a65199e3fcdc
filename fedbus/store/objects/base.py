"""The contract of a store: whole objects under keys, outside of the bus.

An object is written whole or not at all: whoever reads a key sees one content from its first byte to its last, or
nothing, also when a writer died midway, was cancelled, or wrote at the same time as another. Objects may be larger than
memory: they go in and come out in pieces. `fedbus.testing.check_store` holds every implementation to this.

A key is what every file system and bucket can hold: tokens of ``A-Z a-z 0-9 . _ -``, at most 200 characters, no token
that begins with a dot, joined by ``/``; at most 1,000 characters in all. Models stand under
``<workspace>/<version>.safetensors``, with ``<version>.json`` beside each (`fedbus.store.objects.records`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fedbus.bus.base import Payload
from fedbus.errors import ConfigError
from fedbus.store.sealing import Seal

KEY_CHARS_MAX = 1000
"""S3 takes 1,024 bytes; a prefix in front of it has to fit, too."""

PIECE_BYTES = 2**20
"""About how much is read at once: what one reader holds in memory."""

_TOKEN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object that is there whole; ``modified_at``: when it was written, in seconds since the epoch."""

    key: str
    nbytes: int
    modified_at: float


class Store(Protocol):
    """Objects by key. All calls may run at the same time, from several processes too.

    Raises `ConfigError` for what is no key, `NotFound` where there is no such object, `StoreUnavailable` where the
    store does not answer or has no room (the same call may be repeated), `StoreDenied` where it refuses us.
    """

    @property
    def url(self) -> str:
        """Where it is, for people: without anything secret."""
        ...

    async def put(self, key: str, pieces: AsyncIterable[Payload], *, nbytes: int = 0) -> ObjectInfo:
        """Write an object, in place of what stands there; it is there when this returns, and lasts.

        Where ``pieces`` raises, or this is cancelled, nothing of it can be read, and what stood there before stands
        there still. Holds a few pieces in memory, whatever the size. ``nbytes``: how many there will be, if known.
        """
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[Payload]:
        """Yield the bytes from ``start`` up to ``stop`` (None, or beyond the end: the end), in pieces.

        Raises `NotFound` before the first piece, `ConfigError` for a ``start`` below 0 or a ``stop`` below it. All
        pieces are of one content, also when another is put there meanwhile; a store that cannot keep the old one until
        then raises `StoreUnavailable`, or `NotFound` where it was removed.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Return what is known of an object."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield every object whose key begins with ``prefix``, a plain text, in any order."""
        ...

    async def remove(self, key: str) -> None:
        """Remove an object; none there is not an error."""
        ...

    async def close(self) -> None:
        """Give back what is held; idempotent."""
        ...


@runtime_checkable
class Unsealing(Protocol):
    """A store that shows what a workspace has published, which may be sealed; ``credentials``: a file, or ''."""

    credentials: str

    def unseal(self, seal: Seal | None) -> None:
        """Read what is sealed with this from now on."""
        ...


@dataclass(frozen=True, slots=True)
class StoreKind:
    """What an entry point under ``fedbus.stores`` names: how a store of one URL scheme is opened.

    ``open``: of the URL and the options in its query; it raises `ConfigError` for what it cannot take, and connects to
    nothing yet: a store that is away is `StoreUnavailable` when it is used.
    """

    scheme: str
    open: Callable[[str, Mapping[str, str]], Store]


def check_key(key: str) -> str:
    """Return a key if it is one; `ConfigError` says what is."""
    if len(key) <= KEY_CHARS_MAX and all(_TOKEN.fullmatch(token) for token in key.split("/")):
        return key
    raise ConfigError(
        f"key: expected tokens of A-Z a-z 0-9 . _ - that do not begin with a dot, joined by /, at most {KEY_CHARS_MAX} "
        f"characters, got {key[:200]!r}"
    )


def check_range(start: int, stop: int | None) -> None:
    """Raise `ConfigError` for a range that cannot be."""
    if start < 0 or (stop is not None and stop < start):
        raise ConfigError(f"range: expected 0 <= start <= stop, got {start} to {stop}")
