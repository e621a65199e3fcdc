"""The manifest of a model: all that a receiver must know to fetch, check and fold it, without its values.

It holds the spec, the cut into chunks, a digest per chunk and one over the whole, and per array the largest magnitude,
from which the fixed-point range of a round follows (`fedbus.aggregation.ring.scale_for`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedbus.errors import BadMessage, ConfigError
from fedbus.foreign import shown
from fedbus.tensors.chunks import CHUNK_BYTES, CHUNK_BYTES_MIN, Layout
from fedbus.tensors.codec import Buffer, Source
from fedbus.tensors.digest import DIGEST_CHARS, Hasher, chunk_digest
from fedbus.tensors.spec import Arrays, ModelSpec

_CUT_MAX = 4096
"""Chunks into which a model is cut that are more than its digests, before they are counted: a millisecond."""

_FIELDS = frozenset({"spec", "chunk_bytes", "chunks", "digest", "absmax"})


@dataclass(frozen=True)
class Manifest:
    """A model without its values.

    ``chunk_digests``: XXH3-64 of each chunk, in order. ``digest``: BLAKE3 (hex) of the buffer. ``absmax``: per array
    the largest finite magnitude of any part (a complex number has two), 0.0 where there is none.
    """

    spec: ModelSpec
    chunk_bytes: int
    chunk_digests: tuple[int, ...]
    digest: str
    absmax: tuple[float, ...]

    @staticmethod
    def of(arrays: Arrays, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
        """Describe a model in one pass over its chunks; ConfigError for what a model cannot hold."""
        layout = Layout(ModelSpec.of(arrays), chunk_bytes)
        source, hasher, digests = Source(layout, arrays), Hasher(), []
        for index in range(layout.count):
            chunk = source.chunk(index)
            hasher.update(chunk)
            digests.append(chunk_digest(chunk))
        absmax = tuple(magnitude(value) for value in arrays.values())
        return Manifest(layout.spec, chunk_bytes, tuple(digests), hasher.hexdigest(), absmax)

    @cached_property
    def layout(self) -> Layout:
        """The cut into chunks."""
        return Layout(self.spec, self.chunk_bytes)

    def check_chunk(self, index: int, data: Buffer) -> None:
        """Raise BadMessage unless ``data`` is chunk ``index`` of this model (number, length, digest)."""
        if not 0 <= index < self.layout.count:
            raise BadMessage(f"chunk {index}: expected 0 to {self.layout.count - 1}")
        size = memoryview(data).nbytes
        if size != self.layout.size(index):
            raise BadMessage(f"chunk {index}: expected {self.layout.size(index)} bytes, got {size}")
        if (found := chunk_digest(data)) != self.chunk_digests[index]:
            raise BadMessage(f"chunk {index}: expected digest {self.chunk_digests[index]:016x}, got {found:016x}")

    def to_wire(self) -> dict[str, Any]:
        """Plain msgpack-able values; chunk digests packed as little-endian 64-bit integers."""
        return {
            "spec": self.spec.to_wire(),
            "chunk_bytes": self.chunk_bytes,
            "chunks": np.asarray(self.chunk_digests, "<u8").tobytes(),
            "digest": self.digest,
            "absmax": list(self.absmax),
        }

    @staticmethod
    def from_wire(obj: object) -> Manifest:
        """Read what `to_wire` made, trusting nothing: BadMessage says what was expected and what came."""
        if not isinstance(obj, dict) or not obj.keys() >= _FIELDS:
            raise BadMessage(f"manifest: expected a map with {', '.join(sorted(_FIELDS))}, got {shown(obj)}")
        spec = ModelSpec.from_wire(obj["spec"])
        layout = _layout(spec, obj["chunk_bytes"], obj["chunks"])
        return Manifest(
            spec=spec,
            chunk_bytes=layout.chunk_bytes,
            chunk_digests=_digests(obj["chunks"], layout.count),
            digest=_hex(obj["digest"]),
            absmax=_absmax(obj["absmax"], len(spec.arrays)),
        )


def magnitude(value: np.ndarray[Any, Any]) -> float:
    """Largest finite magnitude of an array's parts as a float, rounded up where float64 cannot hold it; 0.0 if none."""
    array = np.asarray(value)
    if np.iscomplexobj(array):
        return max(magnitude(array.real), magnitude(array.imag))
    if not array.size:
        return 0.0
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        finite = array[np.isfinite(array)]
        return magnitude(finite)
    bound = max(-int(low), int(high)) if array.dtype.kind in "iub" else max(-float(low), float(high))
    wide = float(bound)
    return math.nextafter(wide, math.inf) if wide < bound else wide


def _layout(spec: ModelSpec, chunk_bytes: object, packed: object) -> Layout:
    if type(chunk_bytes) is not int:
        raise BadMessage(f"manifest: expected an integer as chunk_bytes, got {shown(chunk_bytes)}")
    # before a model is cut that is large by its own word alone: a million chunks take a second and 60 MB
    digests = len(packed) // 8 if isinstance(packed, bytes) else 0
    if spec.nbytes > (digests + _CUT_MAX) * chunk_bytes >= CHUNK_BYTES_MIN:
        raise BadMessage(f"manifest: expected digests of the chunks of {spec.nbytes} bytes, got {shown(packed)}")
    try:
        return Layout(spec, chunk_bytes)
    except ConfigError as error:
        raise BadMessage(f"manifest: {error}") from error


def _digests(packed: object, count: int) -> tuple[int, ...]:
    if not isinstance(packed, bytes) or len(packed) != 8 * count:
        raise BadMessage(f"manifest: expected {8 * count} bytes of chunk digests, got {shown(packed)}")
    return tuple(np.frombuffer(packed, "<u8").tolist())


def _hex(digest: object) -> str:
    if not isinstance(digest, str) or len(digest) != DIGEST_CHARS or not set(digest) <= set("0123456789abcdef"):
        raise BadMessage(f"manifest: expected a digest of {DIGEST_CHARS} hexadecimal digits, got {shown(digest)}")
    return digest


def _absmax(values: object, count: int) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != count:
        raise BadMessage(f"manifest: expected {count} magnitudes in absmax, got {shown(values)}")
    for value in values:
        if type(value) is not float or not 0.0 <= value < math.inf:
            raise BadMessage(f"manifest: expected finite magnitudes >= 0 in absmax, got {shown(value)}")
    return tuple(values)
