"""Layout: chunks cover the buffer without gap or overlap, between elements, the same for every party."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_strategies import Model, models

from fedbus.errors import ConfigError
from fedbus.tensors import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Layout, ModelSpec


def test_chunks_of_mixed_widths_worked_out_by_hand() -> None:
    """A cut that would split an element moves before it; a chunk may hold pieces of several arrays."""
    spec = ModelSpec.of({"b": np.ones(3, "i1"), "none": np.ones(0), "d": np.ones(4, "f8"), "s": np.array(1, "f4")})
    layout = Layout(spec, 16)
    assert [layout.bounds(i) for i in range(layout.count)] == [(0, 11), (11, 27), (27, 39)]
    pieces = [[(s.array.name, s.index, s.start, s.stop, s.offset) for s in layout.segments(i)] for i in range(3)]
    assert pieces == [
        [("b", 0, 0, 3, 0), ("d", 2, 0, 1, 3)],
        [("d", 2, 1, 3, 0)],
        [("d", 2, 3, 4, 0), ("s", 3, 0, 1, 8)],
    ]


@given(models(), st.integers(CHUNK_BYTES_MIN, 200))
def test_chunks_cover_the_buffer_between_elements(model: Model, chunk_bytes: int) -> None:
    """Bounds join up, none is empty or too long, and segments account for every element once."""
    spec = ModelSpec.of(model)
    layout = Layout(spec, chunk_bytes)
    edges = [0]
    seen = dict.fromkeys(range(len(spec.arrays)), 0)
    for i in range(layout.count):
        start, stop = layout.bounds(i)
        assert start == edges[-1] and 0 < stop - start <= chunk_bytes
        edges.append(stop)
        for s in layout.segments(i):
            assert s.start == seen[s.index] < s.stop
            assert s.array.offset + s.start * s.array.numpy.itemsize == start + s.offset
            seen[s.index] = s.stop
    assert edges[-1] == spec.nbytes
    assert all(seen[i] == a.elements for i, a in enumerate(spec.arrays))


def test_a_model_without_bytes_has_no_chunks() -> None:
    """Zero chunks, and asking for one is an error rather than a negative index."""
    layout = Layout(ModelSpec.of({"a": np.ones((0, 3))}))
    assert layout.count == 0
    with pytest.raises(IndexError):
        layout.bounds(0)
    with pytest.raises(IndexError):
        Layout(ModelSpec.of({"a": np.ones(3)})).bounds(-1)


@pytest.mark.parametrize("chunk_bytes", [0, CHUNK_BYTES_MIN - 1, CHUNK_BYTES_MAX + 1])
def test_the_chunk_size_has_limits(chunk_bytes: int) -> None:
    """Too small for an element, or beyond what the broker carries well."""
    with pytest.raises(ConfigError, match="chunk_bytes: expected 16 to 4194304"):
        Layout(ModelSpec.of({"a": np.ones(3)}), chunk_bytes)


def test_the_number_of_chunks_has_a_limit() -> None:
    """A manifest must stay a manifest: a huge model needs larger chunks."""
    with pytest.raises(ConfigError, match="more than 1000000 chunks"):
        Layout(ModelSpec.from_wire([["a", "<f4", [2**36]]]), 16)


def test_4_gb_cut_in_8000_chunks() -> None:
    """The layout of a large model needs no memory of its size."""
    assert Layout(ModelSpec.from_wire([["a", "<f4", [1000, 1000, 1000]]])).count == 7630
