"""Digests: known answers, and the same whatever way the bytes come."""

from __future__ import annotations

import blake3
import numpy as np
from hypothesis import given
from model_strategies import Model, models

from fedbus.tensors import Hasher, chunk_digest, model_digest


def test_known_answers() -> None:
    """The published digests of the empty input: the algorithms are those that other programs call by these names."""
    assert chunk_digest(b"") == 0x2D06800538D394C2
    assert Hasher().hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@given(models())
def test_the_digest_of_a_model_is_that_of_its_buffer(model: Model) -> None:
    """Byte order and strides do not matter; arrays of one buffer digest as the buffer."""
    buffer = b"".join(v.astype(v.dtype.newbyteorder("<")).tobytes(order="C") for v in model.values())
    assert model_digest(model) == blake3.blake3(buffer).hexdigest()


def test_threads_and_pieces_do_not_change_the_digest() -> None:
    """A large array on all cores, transposed in converted pieces, and byte by byte: one digest."""
    value = np.random.default_rng(1).standard_normal((1500, 1400))
    twin = np.asfortranarray(value)
    hasher, threaded = Hasher(), Hasher(threaded=True)
    hasher.update(value.tobytes())
    for start in range(0, value.nbytes, 1_000_003):
        threaded.update(memoryview(value.tobytes())[start : start + 1_000_003])
    assert model_digest({"a": value}) == model_digest({"b": twin}) == hasher.hexdigest() == threaded.hexdigest()
