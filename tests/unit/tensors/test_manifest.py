"""Manifest: made in one pass, checks chunks, survives the wire, trusts nothing."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_strategies import Model, models

from fedbus.errors import BadMessage
from fedbus.tensors import Manifest, Source, chunk_digest, magnitude, model_digest


@given(models(), st.integers(16, 200))
def test_it_describes_the_model_and_survives_the_wire(model: Model, chunk_bytes: int) -> None:
    """Digests are those of the chunks and of the whole; msgpack there and back gives an equal manifest."""
    manifest = Manifest.of(model, chunk_bytes)
    source = Source(manifest.layout, model)
    assert manifest.digest == model_digest(model)
    assert manifest.chunk_digests == tuple(chunk_digest(source.chunk(i)) for i in range(manifest.layout.count))
    for i in range(manifest.layout.count):
        manifest.check_chunk(i, source.chunk(i))
    assert Manifest.from_wire(msgpack.unpackb(msgpack.packb(manifest.to_wire()))) == manifest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([-3.0, 2.0]), 3.0),
        (np.array([np.nan, -np.inf, 2.0]), 2.0),
        (np.array([np.nan]), 0.0),
        (np.array([3 - 4j]), 4.0),
        (np.array([], "f4"), 0.0),
        (np.array(-128, "i1"), 128.0),
        (np.array([True, False]), 1.0),
        (np.array([2**53 + 1], "i8"), 2.0**53 + 2),
        (np.array([-(2**63)], "i8"), 2.0**63),
        (np.array([2**64 - 1], "u8"), 2.0**64),
        (np.array([1e-40], "f4"), float(np.float32(1e-40))),
    ],
)
def test_magnitude(value: np.ndarray, expected: float) -> None:
    """The largest finite part; for integers that float64 cannot hold, never less than the truth."""
    assert magnitude(value) == expected


def test_a_wrong_chunk_is_found() -> None:
    """Number, length and content each have a refusal."""
    manifest = Manifest.of({"w": np.arange(8.0)}, 16)
    good = bytes(np.arange(2.0, 4.0).tobytes())
    manifest.check_chunk(1, good)
    for index, data, text in ((4, good, "expected 0 to 3"), (1, good[:-1], "got 15"), (2, good, "expected digest")):
        with pytest.raises(BadMessage, match=text):
            manifest.check_chunk(index, data)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("spec", 1, "model spec"),
        ("chunk_bytes", 15, "chunk_bytes"),
        ("chunk_bytes", 16.0, "integer"),
        ("chunk_bytes", True, "integer"),
        ("chunks", b"1234567", "expected 32 bytes"),
        ("chunks", [1, 2, 3, 4], "expected 32 bytes"),
        ("digest", "A" * 64, "hexadecimal"),
        ("digest", "a" * 63, "hexadecimal"),
        ("absmax", [], "expected 1 magnitudes"),
        ("absmax", [float("nan")], "finite"),
        ("absmax", [float("inf")], "finite"),
        ("absmax", [-1.0], "finite"),
        ("absmax", [1], "finite"),
    ],
)
def test_the_wire_is_not_trusted(field: str, value: object, text: str) -> None:
    """Each field has its refusal, and a missing one too."""
    wire = Manifest.of({"w": np.arange(8.0)}, 16).to_wire()
    with pytest.raises(BadMessage, match=text):
        Manifest.from_wire(wire | {field: value})
    del wire[field]
    with pytest.raises(BadMessage, match="expected a map with"):
        Manifest.from_wire(wire)
    with pytest.raises(BadMessage, match="expected a map with"):
        Manifest.from_wire([])
