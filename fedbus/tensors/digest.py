"""Digests: XXH3-64 per chunk, BLAKE3 over a whole model.

XXH3 finds a chunk that was damaged or mixed up, at the speed of memory; it resists accidents, not enemies. BLAKE3 over
the buffer says which model this is: it is the public ``result.digest``. SHA-256 would be the bottleneck where the
processor has no instructions for it. The order of arrays counts, their names and shapes do not: these are in
`ModelSpec.digest`.
"""

from __future__ import annotations

from math import prod

import numpy as np
from blake3 import blake3
from xxhash import xxh3_64_intdigest

from fedbus.tensors.codec import Buffer, raw
from fedbus.tensors.spec import Arrays

DIGEST_CHARS = 64
"""Length of a BLAKE3 digest in hexadecimal."""

THREADED_BYTES_MIN = 1 << 20
"""Bytes of a piece from which BLAKE3 on two cores pays: 64 KiB go at a third of the speed of one, 4 MiB at twice."""

_PIECE_ELEMENTS = 1 << 20  # of an array that must be converted: bounds the copy to 16 MiB


def chunk_digest(data: Buffer) -> int:
    """XXH3-64 of the bytes of a chunk, 0 to 2^64-1."""
    return xxh3_64_intdigest(data)


class Hasher:
    """BLAKE3 of bytes that come piece by piece.

    It runs on the caller's core; ``threaded`` takes all of them and pays for pieces of `THREADED_BYTES_MIN` and more.
    """

    def __init__(self, *, threaded: bool = False) -> None:
        """Start with no bytes."""
        self._hash = blake3(max_threads=blake3.AUTO if threaded else 1)

    def update(self, data: Buffer) -> None:
        """Add the next bytes; the GIL is released for large pieces."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Digest of all bytes so far, 64 lower-case hexadecimal digits."""
        return self._hash.hexdigest()


def model_digest(arrays: Arrays) -> str:
    """BLAKE3 (hex) of the model's buffer: all arrays little-endian, C order, back to back in the mapping's order."""
    # One hasher serves all arrays and its threads are fixed when it is made: so it goes by their mean size.
    values = [np.asarray(value) for value in arrays.values()]
    hasher = Hasher(threaded=sum(v.nbytes for v in values) >= THREADED_BYTES_MIN * max(len(values), 1))
    for value in values:
        step = prod(value.shape) if value.flags.c_contiguous and value.dtype.newbyteorder("<") == value.dtype else 0
        for start in range(0, value.size, step or _PIECE_ELEMENTS):
            hasher.update(raw(value, start, min(start + (step or _PIECE_ELEMENTS), value.size)))
    return hasher.hexdigest()
