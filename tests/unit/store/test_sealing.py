"""Models sealed on the bus: only who was given a blob's key reads it, and nobody changes it unseen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import BadMessage
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore, down_of
from fedbus.store.sealing import KEYS_KEPT, OVERHEAD_BYTES, GivenKeys, WorkspaceSeal, opened, sealed
from fedbus.store.streams import ensure_streams
from fedbus.workers import Inline

SEAL = WorkspaceSeal("5a" * 32)
SUBJECTS = Subjects("w")
ARRAYS = {"w": np.arange(40_000, dtype=np.float32), "b": np.float32([1.5])}
SMALL = {"w": np.float32([0.25, -1.0])}


@given(st.binary(max_size=2000), st.integers(0, 10**6))
def test_what_was_sealed_is_opened(data, part):
    """Any bytes come back, and are `OVERHEAD_BYTES` longer on the way."""
    stored = sealed(SEAL, "s-0-1", part, data)
    assert len(stored) == len(data) + OVERHEAD_BYTES
    assert opened(SEAL, "s-0-1", part, stored) == data


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_changed_bit_is_noticed(at, bits):
    """One byte changed anywhere, nonce and tag included, and nothing is opened."""
    stored = bytearray(sealed(SEAL, "b", 0, b"x" * 33))
    stored[at] ^= bits
    with pytest.raises(BadMessage, match="not sealed with its key"):
        opened(SEAL, "b", 0, stored)


def test_parts_and_blobs_are_not_exchanged():
    """A part in another's place, of the same blob or of another one, is not taken for it."""
    stored = sealed(SEAL, "b", 1, b"second")
    for blob, part in (("b", 0), ("b", "manifest"), ("c", 1)):
        with pytest.raises(BadMessage):
            opened(SEAL, blob, part, stored)


def test_the_same_bytes_are_never_the_same_twice():
    """A model that is stored again under its name shows nobody that it is the same, nor uses a nonce twice."""
    assert len({bytes(sealed(SEAL, "b", 0, b"same")) for _ in range(50)}) == 50


def test_keys_are_of_one_blob_and_of_what_leads_to_it():
    """Another blob, what its strategy carries on, and another workspace's secret have other keys."""
    keys = {SEAL.key_of(name) for name in ("s-1-1", "s-1-2", "s-1-1-state", "s-1-1-inner")}
    assert len(keys | {WorkspaceSeal("5b" * 32).key_of("s-1-1")}) == 5
    assert SEAL.key_of(down_of("s-1-1")) == SEAL.key_of("s-1-1")


def test_a_client_knows_the_newest_keys_that_it_was_given():
    """Keys that are none are not taken; the oldest goes when there are too many."""
    keys = GivenKeys()
    keys.give("none", b"")
    keys.give("short", b"k" * 31)
    assert keys.key_of("none") is keys.key_of("short") is None
    for number in range(KEYS_KEPT + 1):
        keys.give(f"b-{number}", bytes([number % 251]) * 32)
    assert keys.key_of("b-0") is None
    assert keys.key_of(down_of("b-1")) == b"\x01" * 32


@pytest.mark.parametrize("arrays", [ARRAYS, SMALL], ids=["chunks", "within its manifest"])
async def test_a_sealed_model_is_read_by_who_has_its_key_alone(arrays):
    """The broker holds noise; the key of that very blob opens it, no key or another one does not."""
    async with MemoryBus(MemoryBroker(1), "all") as bus:
        await ensure_streams(bus, SUBJECTS)
        inside = ModelStore(bus, SUBJECTS, Inline(), SEAL)
        await inside.put("s-0-1", arrays)
        stored = await bus.follow(SUBJECTS.stream("blob"), SUBJECTS.blob())
        held = b"".join([bytes((await anext(stored)).data) for _ in range(await inside.parts("s-0-1"))])
        await stored.close()
        assert all(array.tobytes()[:64] not in held for array in arrays.values() if array.nbytes >= 8)
        given = GivenKeys()
        client = ModelStore(bus, SUBJECTS, Inline(), given)
        for keys in (None, SEAL.key_of("s-0-2")):
            if keys:
                given.give("s-0-1", keys)
            with pytest.raises(BadMessage):
                await client.read("s-0-1")
        given.give("s-0-1", inside.key_of("s-0-1"))
        found = await client.read("s-0-1")
        assert {name: array.tobytes() for name, array in found.arrays.items()} == {
            name: array.tobytes() for name, array in arrays.items()
        }
