"""What a strategy carries from round to round, in pieces beside the model that it belongs to: blob ``<model>-state``.

Per chunk of the model the state's vectors (float64, little-endian, one after the other in the order of the strategy's
names) are cut into pieces of at most the chunk size; each begins with the XXH3 of what follows, so that whoever makes a
chunk can store its pieces without knowing of the others. Piece 0, the head, is stored when all others are: it names the
strategy's vectors and holds its scalars. A session's first version has no such blob: its state is zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from fedbus.aggregation import Aggregator
from fedbus.aggregation.base import StepState
from fedbus.aggregation.parts import Parts
from fedbus.errors import BadMessage, ConfigError
from fedbus.foreign import shown, unpacked
from fedbus.messages.ids import check_name
from fedbus.tensors import Buffer, chunk_digest

SUM_BYTES = 8
"""XXH3-64 in front of each piece."""


def state_of(blob: str) -> str:
    """Return the name of the blob with the state that belongs to a model."""
    return check_name("blob of a state", f"{blob}-state")


class Carried:
    """The state of one strategy for one model; ``scalars`` are zeros until `load`."""

    def __init__(self, aggregator: Aggregator[Any], parts: Parts) -> None:
        self._aggregator = aggregator
        self._parts = parts
        self._payload = (parts.layout.chunk_bytes - SUM_BYTES) // 8 * 8
        widest = max((self._size(chunk) for chunk in range(parts.layout.count)), default=0)
        self._pieces = -(-widest // self._payload)
        self.is_there = bool(aggregator.state_names or aggregator.scalar_names)
        self.scalars: Mapping[str, float] = dict.fromkeys(aggregator.scalar_names, 0.0)
        self._is_zero = True

    def _size(self, chunk: int) -> int:
        """Bytes of the state of a chunk."""
        first, last = self._parts.edges[chunk : chunk + 2]
        return 8 * (last - first) * len(self._aggregator.state_names)

    def pieces(self, chunk: int) -> range:
        """Return the numbers of the pieces that belong to a chunk."""
        first = 1 + chunk * self._pieces
        return range(first, first - (-self._size(chunk) // self._payload))

    def needed(self, chunk: int) -> range:
        """Return the numbers of the pieces that must be read for a chunk: none where the state is zeros."""
        return range(0) if self._is_zero else self.pieces(chunk)

    def load(self, head: Buffer) -> None:
        """Begin with a stored state; BadMessage where it is not of this strategy and model."""
        found = unpacked(_checked(head, "head"), "state: its head")
        wanted = self._head({})
        if not isinstance(found, dict) or {**found, "scalars": {}} != wanted:
            raise BadMessage(f"state: expected one of {wanted!r:.300}, got {shown(found, 300)}")
        scalars = found["scalars"]
        if not isinstance(scalars, dict) or set(scalars) != set(self._aggregator.scalar_names):
            raise BadMessage(f"state: expected scalars {self._aggregator.scalar_names}, got {shown(scalars, 300)}")
        if not all(isinstance(value, float | int) for value in scalars.values()):
            raise BadMessage(f"state: expected numbers as scalars, got {shown(scalars, 300)}")
        self.scalars = {name: float(scalars[name]) for name in self._aggregator.scalar_names}
        self._is_zero = False

    def head(self, scalars: Mapping[str, float]) -> bytes:
        """Return piece 0."""
        return _summed(msgpack.packb(self._head(scalars)))

    def _head(self, scalars: Mapping[str, float]) -> dict[str, Any]:
        layout = self._parts.layout
        return {
            "strategy": self._aggregator.name,
            "spec": layout.spec.digest,
            "chunk_bytes": layout.chunk_bytes,
            "vectors": list(self._aggregator.state_names),
            "scalars": dict(scalars),
        }

    def read(self, chunk: int, pieces: Sequence[Buffer]) -> StepState:
        """Return the state of a chunk from its pieces."""
        first, last = self._parts.edges[chunk : chunk + 2]
        if self._is_zero:
            return self.of_run(np.zeros((len(self._aggregator.state_names), last - first)))
        data = b"".join(_checked(piece, f"a piece of chunk {chunk}") for piece in pieces)
        if len(data) != self._size(chunk):
            raise BadMessage(f"state of chunk {chunk}: expected {self._size(chunk)} bytes, got {len(data)}")
        return self.of_run(np.frombuffer(data, "<f8").reshape(-1, last - first))

    def of_run(self, vectors: np.ndarray[Any, np.dtype[np.float64]]) -> StepState:
        """Return the state as a step takes it: a row per vector, and the scalars."""
        state = dict(zip(self._aggregator.state_names, vectors, strict=True))
        return state | {name: np.asarray(value) for name, value in self.scalars.items()}

    def write(self, chunk: int, after: StepState) -> list[bytes]:
        """Return the pieces of a chunk's new state."""
        if not self._aggregator.state_names:
            return []
        first, last = self._parts.edges[chunk : chunk + 2]
        for name in self._aggregator.state_names:
            if np.shape(after[name]) != (last - first,):
                raise ConfigError(f"{self._aggregator.name}: state {name!r} has the shape {np.shape(after[name])}")
        data = b"".join(np.asarray(after[name], "<f8").tobytes() for name in self._aggregator.state_names)
        return [_summed(data[start : start + self._payload]) for start in range(0, len(data), self._payload)]

    def scalars_of(self, after: StepState) -> dict[str, float]:
        """Return the scalars that a step returned."""
        return {name: float(after[name]) for name in self._aggregator.scalar_names}


def _summed(data: bytes) -> bytes:
    return chunk_digest(data).to_bytes(SUM_BYTES, "little") + data


def _checked(piece: Buffer, what: str) -> memoryview:
    view = memoryview(piece)
    if len(view) < SUM_BYTES or int.from_bytes(view[:SUM_BYTES], "little") != chunk_digest(view[SUM_BYTES:]):
        raise BadMessage(f"state: {what} is damaged")
    return view[SUM_BYTES:]
