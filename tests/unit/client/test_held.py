"""An update that is held: what is announced of it, and that it stays as it was made."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3

from fedbus.client.app import Model, Update
from fedbus.client.held import prepare
from fedbus.client.newest import Fetched
from fedbus.client.shelf import Shelf
from fedbus.errors import BadUpdate
from fedbus.messages.tasks import Train
from fedbus.tensors import Manifest, chunk_digest


def model(chunk_bytes=64):
    """A model of 3 arrays, 300 bytes, and its manifest."""
    arrays = {"a": np.arange(50, dtype=np.float32), "b": np.zeros((5, 2), np.float64), "c": np.zeros(20, np.uint8)}
    return Fetched(Model(arrays, "s-0"), Manifest.of(arrays, chunk_bytes), 300)


def train(**fields):
    """What to train."""
    known = {"round": 3, "attempt": 1, "version": "s-0", "blob": "b", "combiner": "k0", "seed": 1, "deadline_at": 9.0}
    return Train(**{**known, "weight_max": 8.0, **fields})


def update_of(fetched, weight=1.0):
    """An update with other values, its arrays in another order."""
    arrays = {name: (array + 1).astype(array.dtype) for name, array in reversed(list(fetched.model.items()))}
    return Update(arrays, weight, {"loss": 0.5})


def in_order(fetched, update):
    """The bytes of an update in the model's order."""
    return b"".join(np.ascontiguousarray(update.arrays[name]).tobytes() for name in fetched.model)


@pytest.mark.parametrize("memory_bytes_max", [None, 0])
@pytest.mark.parametrize("chunk_bytes", [16, 64, 512 * 1024])
def test_what_is_announced_is_what_a_manifest_says(chunk_bytes, memory_bytes_max):
    """Chunks, their digests and the digest of the whole are those of the arrays in the model's order."""
    fetched, shelf = model(chunk_bytes), Shelf(memory_bytes_max)
    update = update_of(fetched)
    held = prepare(fetched, update, train(), shelf)
    data = in_order(fetched, update)
    manifest = Manifest.of({name: update.arrays[name] for name in fetched.model}, chunk_bytes)
    (part,) = held.parts
    assert (part.first, part.stop, part.digest) == (0, manifest.layout.count, blake3(data).hexdigest())
    assert part.digest == manifest.digest and held.chunk_digests == manifest.chunk_digests
    assert b"".join(held.chunk(index) for index in range(part.stop)) == data
    assert held.nbytes(part) == len(data) == 300
    assert (held.round, held.weight, held.metrics, held.fetched) == (3, 1.0, {"loss": 0.5}, 300)
    shelf.close()


def test_each_of_several_combiners_gets_a_part_with_its_own_digest():
    """Parts are stretches of chunks whose bytes in order make up the whole; of more than chunks some are empty."""
    fetched = model()
    update = update_of(fetched)
    data = in_order(fetched, update)
    for count in (2, 3, 8):
        held = prepare(fetched, update, train(shards=tuple(f"k{i}" for i in range(count))), Shelf())
        parts = [b"".join(held.chunk(i) for i in range(part.first, part.stop)) for part in held.parts]
        assert b"".join(parts) == data and len(parts) == count
        assert [part.digest for part in held.parts] == [blake3(part).hexdigest() for part in parts]
        assert [held.nbytes(part) for part in held.parts] == [len(part) for part in parts]
        assert held.chunk_digests == tuple(chunk_digest(held.chunk(i)) for i in range(held.layout.count))


@pytest.mark.parametrize("memory_bytes_max", [None, 0])
def test_an_update_can_be_shared_out_anew(memory_bytes_max):
    """When the number of combiners changes while it is held, it is cut again as if it had been made for them."""
    fetched, shelf = model(), Shelf(memory_bytes_max)
    held = prepare(fetched, update_of(fetched), train(shards=("k0", "k1", "k2")), shelf)
    assert held.shared_out(2) == prepare(fetched, update_of(fetched), train(shards=("k0", "k1")), shelf).parts
    assert held.shared_out(1) == prepare(fetched, update_of(fetched), train(), shelf).parts
    shelf.close()


def test_an_app_may_go_on_to_write_into_its_arrays():
    """What is sent again is what was made, not what became of the app's arrays."""
    fetched = model()
    update = update_of(fetched)
    before = in_order(fetched, update)
    held = prepare(fetched, update, train(), Shelf())
    for array in update.arrays.values():
        array[...] = 0
    assert b"".join(held.chunk(index) for index in range(held.layout.count)) == before


def test_views_and_foreign_byte_orders_are_sent_as_the_model_has_them():
    """A transposed array and a big-endian one give the bytes of their values."""
    fetched = model()
    plain = update_of(fetched)
    odd = dict(plain.arrays) | {"b": np.asfortranarray(plain.arrays["b"]), "a": plain.arrays["a"].astype(">f4")}
    held = prepare(fetched, Update(odd), train(), Shelf())
    assert b"".join(held.chunk(index) for index in range(held.layout.count)) == in_order(fetched, plain)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": 9.0}, "weight of at most 8"),
        ({"arrays": {"a": np.zeros(50, np.float32)}}, "b"),
        ({"arrays": {"a": np.zeros(51, np.float32), "b": np.zeros((5, 2)), "c": np.zeros(20, np.uint8)}}, "51"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_takes_no_room(change, said):
    """The reason says what was expected, and nothing stays on the shelf."""
    fetched, shelf = model(), Shelf()
    good = update_of(fetched)
    bad = Update(change.get("arrays", good.arrays), change.get("weight", 1.0))
    with pytest.raises(BadUpdate, match=said):
        prepare(fetched, bad, train(), shelf)
    assert shelf.memory_bytes == 0


def test_a_model_without_bytes_is_held_too():
    """It has no chunks, and the digest of nothing."""
    empty = {"a": np.zeros(0, np.float32)}
    fetched = Fetched(Model(empty), Manifest.of(empty), 0)
    held = prepare(fetched, Update(empty), train(), Shelf())
    assert held.layout.count == 0 and [part.digest for part in held.parts] == [blake3(b"").hexdigest()]


def test_an_update_is_told_from_another():
    """Its identity is that of its bytes, however it is cut into parts: another update has another."""
    shelf = Shelf()
    fetched = model()
    one, again = (prepare(fetched, update_of(fetched), train(), shelf) for _ in range(2))
    shared = prepare(fetched, update_of(fetched), train(shards=("k0", "k1")), shelf)
    other = prepare(fetched, Update({name: array + 2 for name, array in fetched.model.items()}, 1.0), train(), shelf)
    assert one.identity == again.identity == shared.identity != other.identity
