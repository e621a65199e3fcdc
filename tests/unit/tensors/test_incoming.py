"""A file that comes piece by piece is the model that it would be as a whole, however it is cut."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_strategies import models

from fedbus.errors import ConfigError
from fedbus.tensors import files
from fedbus.tensors.incoming import Cutter, NpzFile, SafetensorsCutter
from fedbus.tensors.manifest import Manifest


def whole(data):
    """Feed a file at once."""
    cutter = SafetensorsCutter()
    cutter.feed(data)
    return cutter.finish()


def fed(cutter, data, sizes):
    """Feed a file in pieces of some sizes, then the rest; returns its chunks."""
    found, at = [], 0
    for size in (*sizes, len(data)):
        found += cutter.feed(data[at : at + size])
        at += size
    return found


@settings(max_examples=50, deadline=None)
@given(models(), st.lists(st.integers(0, 300), max_size=20), st.sampled_from([16, 64, 4096]))
def test_the_cut_does_not_depend_on_the_pieces(arrays, sizes, chunk_bytes):
    """Chunks, digests and magnitudes are those of the model at once."""
    if not arrays:
        return
    cutter = SafetensorsCutter(chunk_bytes)
    chunks = fed(cutter, files.to_bytes(arrays), sizes)
    manifest = Manifest.of(arrays, chunk_bytes)
    assert cutter.finish() == manifest
    assert [index for index, _ in chunks] == list(range(manifest.layout.count))
    for index, chunk in chunks:
        manifest.check_chunk(index, chunk)


@settings(max_examples=30, deadline=None)
@given(models(), st.booleans(), st.booleans())
def test_an_npz_file_is_the_model_that_it_holds(arrays, packed, fortran):
    """Packed or not, in either order, of either end first: the bytes are those of the arrays as ours are laid out."""
    if not arrays:
        return
    given_ = {f"a{n}": np.asfortranarray(array) if fortran else array for n, array in enumerate(arrays.values())}
    if packed:
        given_ = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in given_.items()}
    out = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(out, **given_)
    npz = NpzFile(out)
    cutter = Cutter(npz.spec)
    for piece in npz.pieces():
        cutter.feed(piece)
    assert cutter.finish() == Manifest.of({name: np.asarray(array) for name, array in given_.items()})


def test_an_array_in_the_other_order_is_not_held():
    """A few kilobytes of a packed file may be gigabytes that have to be turned around: memory holds a piece of them."""
    out = io.BytesIO()
    np.savez_compressed(out, w=np.asfortranarray(np.zeros((2000, 2000), np.float32)))
    npz = NpzFile(out)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in npz.pieces())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 16_000_000 and peak < 6_000_000


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_what_is_no_model_is_refused_and_nothing_else_happens(data, length):
    """Whatever bytes come, behind whatever length: ConfigError, and not one of Python's own."""
    for text in (data, length.to_bytes(8, "little") + data, len(data).to_bytes(8, "little") + data):
        with pytest.raises(ConfigError):
            whole(text)
    with pytest.raises(ConfigError):
        NpzFile(io.BytesIO(b"PK\x03\x04" + data))


def test_objects_are_not_read():
    """An array of objects would be a pickle: it is refused by its header."""
    out = io.BytesIO()
    np.savez(out, w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match=r"not an \.npz file of plain arrays"):
        NpzFile(out)
