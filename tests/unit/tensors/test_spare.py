"""Memory is written over only when nobody looks at it any more."""

from __future__ import annotations

import numpy as np
import pytest

from fedbus.tensors.spare import SMALL_BYTES, Spare

NBYTES = SMALL_BYTES


def given(array):
    """Spare memory that was this array's; the caller's own reference is gone when it is returned."""
    spare = Spare()
    spare.give(array.data)
    return spare


def test_what_nobody_looks_at_is_taken_again():
    """The same memory, once."""
    spare = given(np.full(NBYTES, 7, np.uint8))
    first = spare.take(NBYTES)
    assert first[0] == 7
    assert spare.take(NBYTES) is not first


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array,
        lambda array: array.data[5:9].toreadonly(),
        lambda array: np.frombuffer(array.data.toreadonly(), np.uint8)[8:16].view(np.float32),
    ],
    ids=["itself", "a piece of it", "an array over it"],
)
def test_what_somebody_looks_at_is_left_alone(look):
    """An app that keeps a model, a socket that has not taken a chunk: what they look at does not change."""
    array = np.full(NBYTES, 7, np.uint8)
    kept = look(array)
    spare = given(array)
    del array
    taken = spare.take(NBYTES)
    taken[:] = 1
    assert bytes(memoryview(kept).cast("B")[:4]) == b"\x07" * 4


def test_another_size_is_not_cut_out_of_it():
    """A model of another size gets memory of its own, and what was spare is given back."""
    spare = given(np.full(NBYTES, 7, np.uint8))
    assert spare.take(NBYTES + 1).nbytes == NBYTES + 1
    assert spare._kept == []


@pytest.mark.parametrize("array", [np.zeros(NBYTES - 1, np.uint8), np.zeros(2 * NBYTES, np.uint8)[NBYTES:]])
def test_small_and_partial_arrays_are_not_kept(array):
    """The allocator keeps what is small; of a piece nobody knows who looks at the rest."""
    spare = Spare()
    spare.give(array)
    assert spare._kept == []


def test_nothing_is_kept_when_nothing_is_expected():
    """A client that rests holds its model only."""
    spare = given(np.zeros(NBYTES, np.uint8))
    spare.forget()
    assert spare._kept == []
