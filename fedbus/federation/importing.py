"""A model from outside becomes a version: read piece by piece, stored chunk by chunk, named when it is whole.

    registry   says that it is coming: what a process that dies leaves of it is cleared away by a collection
    chunks     as they are cut; the manifest when all are there
    catalogue  the entry under a name that nobody has: now it is a version, and not before

Where anything goes wrong in between, what was stored of it is removed. Memory holds a few chunks, whatever the size of
the model; an ``.npz`` file is laid aside on disk first.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fedbus.bus.base import Payload
from fedbus.errors import BusUnavailable, ConfigError, Conflict, FedbusError, NotFound
from fedbus.messages.ids import SESSION_CHARS_MAX, check_name
from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import IMPORTED, IMPORTS_MAX, Importing, RegistryState
from fedbus.store.models import APPENDS
from fedbus.store.removal import IMPORT_S_MAX
from fedbus.tensors.chunks import CHUNK_BYTES, Layout
from fedbus.tensors.codec import Source
from fedbus.tensors.files import header
from fedbus.tensors.incoming import NPZ, Chunk, Cutter, NpzFile, SafetensorsCutter
from fedbus.tensors.manifest import Manifest
from fedbus.tensors.spec import ModelSpec

if TYPE_CHECKING:
    from fedbus.federation.service import Federation

log = logging.getLogger("fedbus.federation")

PIECE_BYTES = 2**20
"""Of a file, at once."""

TAKES_S_MAX = IMPORT_S_MAX - 3600
"""How long an import may take: behind it, it is taken for dead, and what it has stored is removed under its hands."""

ENTERED_S_MAX = 10.0
"""How long one that is given up waits to hear whether its version was entered a moment before."""

RESERVED = frozenset({"collect"})
"""Words that are paths of their own beside those of versions (``/api/v1/models/collect``)."""

_OF_SESSION = re.compile(r".*-[0-9]+")

Given = str | Path | Mapping[str, np.ndarray[Any, Any]] | AsyncIterable[Payload]
"""A file (.safetensors or .npz), names and arrays, or the bytes of such a file as they come."""


def check_version(version: str) -> str:
    """Return a name if a version that is brought in may have it; ConfigError says what may not."""
    check_name("model version", version)
    if len(version) > SESSION_CHARS_MAX:
        raise ConfigError(f"model version: expected at most {SESSION_CHARS_MAX} characters, got {len(version)}")
    if _OF_SESSION.fullmatch(version):
        raise ConfigError(f"model version {version!r}: names that end in -NUMBER are those of sessions; choose another")
    if version in RESERVED:
        raise ConfigError(f"model version {version!r}: over REST this is the address of something else; choose another")
    return version


async def import_model(
    federation: Federation, source: Given, version: str, by: str, *, key: str = "", nbytes_max: int | None = None
) -> ModelPublished:
    """Bring a model in as a version; returns its entry. ``key``: of the request, whose repeat finds what it has made.

    ``nbytes_max``: of its arrays, which an ``.npz`` file may hold packed a thousandfold; None: as many as any model.
    Raises `ConfigError` for what is no model, or another one than was brought in under this key, `Conflict` where there
    is a version of this name, `BusFull` where there is no room: nothing of it stays then.
    """
    check_version(version)
    prefix = f"{IMPORTED}-{key}-" if key else ""
    pieces = _pieces(federation, source)
    async with aclosing(pieces):
        with suppress(NotFound):
            there = await federation.models.entry(version)
            if prefix and there.blob.startswith(prefix):
                return await _compared(_Cut(federation, nbytes_max), pieces, there)
            raise Conflict(f"model {version}: there is a version of this name", state="taken")
        coming = _Coming(federation, version, f"{prefix or f'{IMPORTED}-'}{secrets.token_hex(6)}", by)
        return await coming.take(_Cut(federation, nbytes_max), pieces)


async def _compared(cut: _Cut, pieces: AsyncIterator[Payload], there: ModelPublished) -> ModelPublished:
    """Read a model to its end to see whether it is the one that is there."""
    async for piece in pieces:
        await cut.feed(piece)
    if (await cut.finish()).digest != there.digest:
        raise ConfigError(f"model {there.version}: another model was brought in under this key")
    return there


class _Cut:
    """Cuts what comes into chunks, in threads; ConfigError where it is more than ``nbytes_max``."""

    def __init__(self, federation: Federation, nbytes_max: int | None) -> None:
        self._run = federation.workers.run
        self._nbytes_max = nbytes_max
        self._chunk_bytes = min(CHUNK_BYTES, federation.bus.payload_max)
        self._cutter: SafetensorsCutter | Cutter = SafetensorsCutter(self._chunk_bytes)

    @property
    def layout(self) -> Layout | None:
        """The cut, None until the header has come."""
        cutter = self._cutter if isinstance(self._cutter, Cutter) else self._cutter.cutter
        return cutter.layout if cutter is not None else None

    async def feed(self, data: Payload) -> list[Chunk]:
        """Take the next bytes."""
        found = await self._run(self._cutter.feed, data)
        if self._nbytes_max is not None and self.layout is not None and self.layout.spec.nbytes > self._nbytes_max:
            raise ConfigError(f"model: expected at most {self._nbytes_max} bytes, got {self.layout.spec.nbytes}")
        return found

    async def finish(self) -> Manifest:
        """Describe the whole."""
        return await self._run(self._cutter.finish)


class _Coming:
    """A model that is being brought in."""

    def __init__(self, federation: Federation, version: str, blob: str, by: str) -> None:
        self._federation = federation
        self._store = federation.store
        self._registry = federation.registry.store
        self._version = version
        self._blob = blob
        self._by = by
        self._began = 0.0
        self._storing: set[asyncio.Task[None]] = set()

    async def take(self, cut: _Cut, pieces: AsyncIterator[Payload]) -> ModelPublished:
        """Store it, and name it when it is whole."""
        await self._note()
        entering: asyncio.Task[None] | None = None
        try:
            manifest = await self._stored(cut, pieces)
            entry = self._entry(manifest)
            entering = asyncio.create_task(self._store.enter_first(entry))
            await asyncio.shield(entering)
            return entry
        finally:
            if await self._is_settled(entering):
                with suppress(FedbusError):  # what is noted still is cleared away by a collection
                    await self._registry.change(f"brought in {self._version}", self._without)

    def _entry(self, manifest: Manifest) -> ModelPublished:
        now = self._registry.clock.now()
        if now > self._began + TAKES_S_MAX:
            raise Conflict(
                f"model {self._version}: it came for more than {TAKES_S_MAX:.0f} s; begin again", state="late"
            )
        return ModelPublished(
            round=0,
            version=self._version,
            parent="",
            session=IMPORTED,
            blob=self._blob,
            digest=manifest.digest,
            nbytes=manifest.spec.nbytes,
            at=now,
        )

    async def _is_settled(self, entering: asyncio.Task[None] | None) -> bool:
        """Whether it is a version now, or nothing is left of it; what may be either stays noted, and as it is.

        Its arrays are never removed while its entry may stand in the catalogue: that would name nothing.
        """
        if entering is not None:
            await asyncio.wait([entering], timeout=ENTERED_S_MAX)
            if not entering.done():
                entering.cancel()
                return False
            error = entering.exception()
            if error is None or isinstance(error, BusUnavailable):
                return error is None
        await asyncio.gather(*self._storing, return_exceptions=True)
        try:
            await self._store.remove(self._blob)
        except FedbusError as error:
            log.warning("model %s: what was stored of it stays until it is collected: %s", self._version, error)
            return False
        return True

    async def _note(self) -> None:
        async def decide(state: RegistryState) -> RegistryState:
            if len(state.imports) >= IMPORTS_MAX:
                what = f"{len(state.imports)} models are being brought in; wait for one to end, or collect"
                raise Conflict(f"model {self._version}: {what}", state="busy")
            self._began = self._registry.clock.now()
            coming = Importing(version=self._version, blob=self._blob, at=self._began, by=self._by)
            return state.model_copy(update={"imports": (*state.imports, coming)})

        await self._registry.change(f"brings in {self._version}", decide)

    async def _without(self, state: RegistryState) -> RegistryState | None:
        left = tuple(one for one in state.imports if one.blob != self._blob)
        return None if left == state.imports else state.model_copy(update={"imports": left})

    async def _stored(self, cut: _Cut, pieces: AsyncIterator[Payload]) -> Manifest:
        small: list[bytes] = []
        async for piece in pieces:
            for index, chunk in await cut.feed(piece):
                assert cut.layout is not None
                if self._store.is_small_layout(cut.layout):
                    small.append(chunk)
                else:
                    await self._put(index, chunk)
        manifest = await cut.finish()
        while self._storing:
            await self._one_stored()
        within = b"".join(small) if self._store.is_small(manifest) else None
        await self._store.put_manifest(self._blob, manifest, within)
        return manifest

    async def _put(self, index: int, chunk: bytes) -> None:
        """Begin to store a chunk; `APPENDS` at a time."""
        while len(self._storing) >= APPENDS:
            await self._one_stored()
        self._storing.add(asyncio.create_task(self._store.put_chunk(self._blob, index, chunk)))

    async def _one_stored(self) -> None:
        done, self._storing = await asyncio.wait(self._storing, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


# --- what comes, as the bytes of a safetensors file ---


async def _pieces(federation: Federation, source: Given) -> AsyncGenerator[Payload, None]:
    """Yield a model as the bytes of a safetensors file."""
    if isinstance(source, Mapping):
        async for piece in _of_arrays(source):
            yield piece
        return
    given = _of_file(federation, Path(source)) if isinstance(source, str | Path) else source
    assert not isinstance(given, str)
    coming: AsyncIterator[Payload] = aiter(given)
    first = bytearray()
    async for piece in coming:
        first += piece
        if len(first) >= len(NPZ):
            break
    if not first.startswith(NPZ):
        yield bytes(first)
        async for piece in coming:
            yield piece
        return
    with tempfile.TemporaryFile() as file:
        await federation.workers.run(file.write, bytes(first))
        async for piece in coming:
            await federation.workers.run(file.write, bytes(piece))
        npz = await federation.workers.run(NpzFile, file)
        yield header(npz.spec)
        laid = npz.pieces()

        def following() -> Payload | None:
            return next(laid, None)

        while (data := await federation.workers.run(following)) is not None:
            yield data


async def _of_file(federation: Federation, path: Path) -> AsyncGenerator[Payload, None]:
    def opened() -> BinaryIO:
        return path.open("rb")

    with await federation.workers.run(opened) as file:
        while piece := await federation.workers.run(file.read, PIECE_BYTES):
            yield piece


async def _of_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> AsyncGenerator[Payload, None]:
    layout = Layout(ModelSpec.of(arrays))
    source = Source(layout, arrays)
    yield header(layout.spec)
    for index in range(layout.count):
        yield source.chunk(index)
