"""A model that comes in as a file, piece by piece: checked from its first byte, cut into chunks, never held whole.

    header     of a safetensors file says names, dtypes, shapes and places: all are checked before any data is taken
    data       becomes chunks as it comes, and goes into the digests and magnitudes of the manifest

An ``.npz`` file cannot be read from its front: it has to lie in a file, as has each of its arrays for a while where
that is not laid out as ours. Nothing is executed, no pickle is read, and what a file says of its size is believed
only as far as its bytes bear it out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from math import prod
from typing import IO, Any
from zipfile import ZipFile

import numpy as np

from fedbus.errors import BadMessage, ConfigError
from fedbus.tensors.chunks import CHUNK_BYTES, Layout
from fedbus.tensors.codec import Buffer
from fedbus.tensors.digest import Hasher, chunk_digest
from fedbus.tensors.heads import spec_of
from fedbus.tensors.manifest import Manifest, magnitude
from fedbus.tensors.npy import DAMAGED, heads_of, read_head
from fedbus.tensors.spec import ModelSpec

HEADER_BYTES_MAX = 32 * 2**20
"""Of a header that is taken: `ARRAYS_MAX` arrays of usual names have half of it."""

PIECE_BYTES = 2**20
"""Of an npz file's array, at once."""

NPZ = b"PK\x03\x04"
"""How a zip file begins."""

Chunk = tuple[int, bytes]


class Cutter:
    """Cuts the bytes of a model's buffer into chunks as they come, and describes them."""

    def __init__(self, spec: ModelSpec, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.layout = Layout(spec, chunk_bytes)
        self._waiting = bytearray()
        self._hasher = Hasher()
        self._digests: list[int] = []
        self._absmax = [0.0] * len(spec.arrays)
        self._left = spec.nbytes

    def feed(self, data: Buffer) -> list[Chunk]:
        """Take the next bytes; returns the chunks that are whole now. ConfigError where there are too many."""
        self._left -= len(data)
        if self._left < 0:
            raise ConfigError(f"not a model: its header tells of {self.layout.spec.nbytes} bytes, and more came")
        self._waiting += data
        found: list[Chunk] = []
        while (index := len(self._digests)) < self.layout.count:
            size = self.layout.size(index)
            if len(self._waiting) < size:
                break
            chunk = bytes(memoryview(self._waiting)[:size])
            del self._waiting[:size]
            self._note(index, chunk)
            found.append((index, chunk))
        return found

    def _note(self, index: int, chunk: bytes) -> None:
        self._hasher.update(chunk)
        self._digests.append(chunk_digest(chunk))
        for piece in self.layout.segments(index):
            values = np.frombuffer(chunk, piece.array.numpy, piece.stop - piece.start, piece.offset)
            self._absmax[piece.index] = max(self._absmax[piece.index], magnitude(values))

    def finish(self) -> Manifest:
        """Describe the whole; ConfigError where bytes are missing."""
        if self._left:
            raise ConfigError(f"not a model: {self._left} of its {self.layout.spec.nbytes} bytes did not come")
        digests, digest = tuple(self._digests), self._hasher.hexdigest()
        return Manifest(self.layout.spec, self.layout.chunk_bytes, digests, digest, tuple(self._absmax))


class SafetensorsCutter:
    """Cuts a safetensors file into the chunks of its model; ``spec``: None until the header has come."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.cutter: Cutter | None = None
        self._chunk_bytes = chunk_bytes
        self._head = bytearray()

    def feed(self, data: Buffer) -> list[Chunk]:
        """Take the next bytes of the file; returns the chunks that are whole now. ConfigError for what is no model."""
        if self.cutter is not None:
            return self.cutter.feed(data)
        self._head += data
        if len(self._head) < 8:
            return []
        length = int.from_bytes(self._head[:8], "little")
        if length > HEADER_BYTES_MAX:
            raise ConfigError(
                f"not a safetensors file: a header of {length} bytes, expected {HEADER_BYTES_MAX} at most"
            )
        if len(self._head) < 8 + length:
            return []
        self.cutter = Cutter(_spec_of(bytes(self._head[: 8 + length])), self._chunk_bytes)
        rest = bytes(self._head[8 + length :])
        self._head.clear()
        return self.cutter.feed(rest)

    def finish(self) -> Manifest:
        """Describe the whole; ConfigError where bytes are missing."""
        if self.cutter is None:
            raise ConfigError(f"not a safetensors file: it ends within its header, after {len(self._head)} bytes")
        return self.cutter.finish()


def _spec_of(head: bytes) -> ModelSpec:
    """Return what a safetensors file tells of, of all that stands before its data; ConfigError for what is none."""
    try:
        spec = spec_of(head)
    except BadMessage as error:
        raise ConfigError(f"not a model: {error}") from error
    if not spec.arrays:
        raise ConfigError("not a model: it has no arrays")
    return spec


def _spec(wire: list[list[Any]]) -> ModelSpec:
    try:
        return ModelSpec.from_wire(wire)
    except BadMessage as error:
        raise ConfigError(f"not a model: {error}") from error


class NpzFile:
    """An ``.npz`` file that is read piece by piece; ``spec``: what it holds, by the headers of its arrays.

    ConfigError for what is none, or holds what a model cannot hold.
    """

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._zip = ZipFile(file)
            found = heads_of(self._zip)
        except DAMAGED as error:
            raise ConfigError(f"not an .npz file of plain arrays: {error!r:.200}") from error
        names, self._heads = [name for name, _ in found], [head for _, head in found]
        if not names:
            raise ConfigError("not a model: it has no arrays")
        wire = [
            [name.removesuffix(".npy"), dtype.newbyteorder("<").str, list(shape)]
            for name, (shape, _, dtype) in zip(names, self._heads, strict=True)
        ]
        self._names = names
        self.spec = _spec(wire)

    def pieces(self) -> Iterator[Buffer]:
        """Yield the bytes of the model's buffer; ConfigError where the file is damaged."""
        try:
            for name, (shape, fortran, dtype) in zip(self._names, self._heads, strict=True):
                with self._zip.open(name) as member:
                    read_head(member)
                    yield from _laid(member, shape, dtype, fortran=fortran)
        except DAMAGED as error:
            raise ConfigError(f"not an .npz file of plain arrays: {error!r:.200}") from error


def _laid(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool) -> Iterator[Buffer]:
    """Yield an array's bytes in C order, little-endian."""
    left = prod(shape) * dtype.itemsize
    step = PIECE_BYTES - PIECE_BYTES % dtype.itemsize
    if fortran and len(shape) > 1 and left:
        with tempfile.TemporaryFile() as file:
            while left:
                left -= file.write(_exactly(member, min(step, left)))
            file.flush()
            yield from _turned(np.memmap(file, dtype, "r", shape=shape, order="F"))
        return
    while left:
        data = _exactly(member, min(step, left))
        left -= len(data)
        yield np.frombuffer(data, dtype).astype(dtype.newbyteorder("<"), copy=False).view(np.uint8).data


def _turned(array: np.ndarray[Any, Any]) -> Iterator[Buffer]:
    """Yield the bytes of an array that lies in a file in another order; memory holds a piece of it."""
    count = PIECE_BYTES // array.itemsize
    for piece in np.nditer(array, flags=["external_loop", "buffered"], order="C", buffersize=count):
        copied = np.asarray(piece).astype(array.dtype.newbyteorder("<"))  # numpy uses its buffer again
        yield copied.view(np.uint8).data


def _exactly(member: IO[bytes], count: int) -> bytes:
    data = member.read(count)
    if len(data) != count:
        raise EOFError(f"{count - len(data)} bytes of an array are missing")
    return data
