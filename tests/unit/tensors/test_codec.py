"""Source, Assembly and unpack: the bytes are right for every layout, and views are views."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_strategies import Model, models

from fedbus.errors import BadMessage, BadUpdate
from fedbus.tensors import Assembly, Layout, ModelSpec, Source, unpack


def plain(model: Model) -> bytes:
    """The buffer, made the slow and obvious way."""
    return b"".join(v.astype(v.dtype.newbyteorder("<")).tobytes(order="C") for v in model.values())


@given(models(), st.integers(16, 200), st.randoms())
def test_there_and_back(model: Model, chunk_bytes: int, random: object) -> None:
    """Chunks are the slices of the plain buffer, and put in any order they give back equal arrays."""
    layout = Layout(ModelSpec.of(model), chunk_bytes)
    source, assembly = Source(layout, model), Assembly(layout)
    order = list(range(layout.count))
    random.shuffle(order)  # type: ignore[attr-defined]
    for i in order:
        start, stop = layout.bounds(i)
        assert bytes(source.chunk(i)) == plain(model)[start:stop]
        assembly.put(i, source.chunk(i))
    arrays = assembly.arrays()
    assert list(arrays) == list(model)
    for name, value in model.items():
        assert (arrays[name].dtype, arrays[name].shape) == (value.dtype.newbyteorder("<"), value.shape)
        assert np.array_equal(arrays[name], value)
        assert not arrays[name].flags.writeable


def test_a_chunk_inside_one_array_is_a_view_of_it() -> None:
    """No copy on the common path, out of the caller's array and over the assembled buffer; the view is read-only."""
    value = np.arange(100, dtype="<f4").reshape(10, 10)
    layout = Layout(ModelSpec.of({"w": value}), 64)
    chunk = Source(layout, {"w": value}).chunk(2)
    assert np.shares_memory(np.frombuffer(chunk, "u1"), value)
    assert memoryview(chunk).readonly
    assembly = Assembly(layout)
    assert np.shares_memory(assembly.arrays()["w"], np.frombuffer(assembly.buffer, "u1"))


def test_a_slot_can_be_received_into() -> None:
    """Bytes written into a slot are the chunk."""
    layout = Layout(ModelSpec.of({"w": np.zeros(8, "<f8")}), 16)
    assembly = Assembly(layout)
    for i in range(layout.count):
        assembly.slot(i)[:] = np.array([2.0 * i, 2.0 * i + 1]).tobytes()
    assert np.array_equal(assembly.arrays()["w"], np.arange(8.0))


def test_wrong_lengths_are_refused() -> None:
    """Neither a chunk nor a buffer of another length is taken."""
    layout = Layout(ModelSpec.of({"w": np.zeros(8, "<f8")}), 16)
    with pytest.raises(BadMessage, match="chunk 1: expected 16 bytes, got 17"):
        Assembly(layout).put(1, b"x" * 17)
    with pytest.raises(BadMessage, match="model: expected 64 bytes, got 63"):
        unpack(layout.spec, b"x" * 63)
    with pytest.raises(BadMessage, match="model: expected 0 bytes, got 1"):
        unpack(ModelSpec.of({}), b"x")


def test_a_source_checks_its_arrays() -> None:
    """Another shape never reaches the wire."""
    with pytest.raises(BadUpdate, match="array 'w'"):
        Source(Layout(ModelSpec.of({"w": np.zeros(8)})), {"w": np.zeros(9)})


def test_numpy_scalars_are_arrays_of_no_dimension() -> None:
    """np.float32(3) may stand for a zero-dimensional array."""
    layout = Layout(ModelSpec.of({"s": np.float32(3)}))
    assert bytes(Source(layout, {"s": np.float32(3)}).chunk(0)) == np.array(3, "<f4").tobytes()
