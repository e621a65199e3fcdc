"""Reading models: nothing travels twice, and nothing that is here; small models travel in one message."""

from __future__ import annotations

import asyncio

import msgpack
import numpy as np
import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.client.newest import NewestModel
from fedbus.errors import BadMessage, NotFound
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore
from fedbus.store.reading import Reading
from fedbus.store.streams import ensure_streams
from fedbus.tensors import Manifest, model_digest
from fedbus.tensors.spare import SMALL_BYTES
from fedbus.testing.loop import run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")
BLOBS = OURS.stream("blob")


def model(seed, frozen=0):
    """A model of 400 numbers; the first ``frozen`` are the same whatever the seed."""
    values = np.random.default_rng(seed).random(400, np.float32)
    values[:frozen] = 0.5
    return {"a": values[:150], "b": values[150:].reshape(25, 10)}


class Counting(MemoryBus):
    """A bus that knows what was asked of it, and fails at a chunk if told to."""

    def __init__(self, broker):
        super().__init__(broker, "one")
        self.asked = []
        self.refuses = ""

    async def last(self, stream, subject, *, deadline_s=10.0):
        self.asked.append(subject.rpartition(".")[2])
        if self.refuses and subject.endswith(self.refuses):
            raise NotFound(subject)
        return await super().last(stream, subject, deadline_s=deadline_s)

    def chunks(self):
        """Return which chunks were asked for since the last call."""
        asked, self.asked = self.asked, []
        return [int(token) for token in asked if token != "manifest"]


def with_store(test):
    """Run a coroutine function on a fresh broker with a store."""

    async def main():
        bus = Counting(MemoryBroker(1))
        await ensure_streams(bus, OURS)
        await test(bus, ModelStore(bus, OURS, Inline()))

    run_virtual(main())


def test_chunks_that_are_here_do_not_travel():
    """Of the next version only the chunks that differ are fetched, and counted; the model is right to the bit."""

    async def main(bus, store):
        await store.put("v1", model(1, frozen=160), 64)
        await store.put("v2", model(2, frozen=160), 64)
        first = await store.read("v1")
        assert bus.chunks() == list(range(25)) and first.fetched_bytes == 1600
        second = await store.read("v2", held=first)
        assert bus.chunks() == list(range(10, 25)) and second.fetched_bytes == 960
        assert model_digest(second.arrays) == model_digest(model(2, frozen=160))
        assert model_digest(first.arrays) == model_digest(model(1, frozen=160))
        again = await store.read("v2", held=second)
        assert bus.chunks() == [] and again.fetched_bytes == 0

    with_store(main)


def test_only_chunks_in_the_same_place_are_taken():
    """A version of another shape helps as far as its chunks are cut alike, and harms nowhere."""

    async def main(bus, store):
        small = {"a": np.full(100, 2, np.float32)}
        await store.put("small", small, 64)
        await store.put("longer", {"a": np.full(130, 2, np.float32)}, 64)
        await store.put("other", {"a": np.full(100, 2, np.float32)}, 48)
        held = await store.read("small")
        bus.chunks()
        longer = await store.read("longer", held=held)
        assert bus.chunks() == [6, 7, 8] and longer.arrays["a"].tolist() == [2.0] * 130
        other = await store.read("other", held=held)
        assert bus.chunks() == list(range(9)), "cut otherwise"
        assert other.arrays["a"].tolist() == [2.0] * 100

    with_store(main)


def test_chunks_that_only_seem_equal_are_fetched_after_all():
    """Digests of chunks are short: where the whole is not right, what was copied is fetched, and it is right."""

    async def main(bus, store):
        await store.put("v1", model(1, frozen=160), 64)
        manifest = await store.put("v2", model(2, frozen=160), 64)
        held = await store.read("v1")
        bus.chunks()
        liar = Manifest(held.manifest.spec, 64, manifest.chunk_digests, held.manifest.digest, held.manifest.absmax)
        lying = type(held)(liar, held.arrays, 0, held.buffer)
        found = await store.read("v2", held=lying)
        assert bus.chunks() == list(range(25))
        assert model_digest(found.arrays) == manifest.digest

    with_store(main)


@pytest.mark.parametrize("refuses", [".0", ".7", ".24"])
def test_a_reading_that_failed_goes_on_where_it_was(refuses):
    """Each chunk is fetched once, whatever happened on the way; what had come is counted."""

    async def main(bus, store):
        manifest = await store.put("v1", model(1), 64)
        reading = await store.begin("v1")
        bus.refuses = refuses
        with pytest.raises(NotFound):
            await store.finish(reading)
        came = [index for index in range(25) if index not in reading.missing()]
        assert came == list(range(int(refuses[1:])))
        bus.chunks()
        bus.refuses = ""
        stored = await store.finish(reading)
        assert bus.chunks() == list(range(len(came), 25))
        assert stored.fetched_bytes == 1600 and model_digest(stored.arrays) == manifest.digest

    with_store(main)


def test_a_client_resumes_what_it_gave_up():
    """The newest model keeps what had come when a fetch failed; another model is begun anew, from what is held."""

    async def main(bus, store):
        await store.put("v1", model(1, frozen=80), 64)
        await store.put("v2", model(2, frozen=80), 64)
        newest = NewestModel()
        bus.refuses = "v1.20"
        with pytest.raises(NotFound):
            await newest.fetch(store, "v1", "1")
        assert newest.model is None
        bus.refuses = ""
        bus.chunks()
        fetched = await newest.fetch(store, "v1", "1")
        assert min(bus.chunks()) == 20 and fetched.nbytes == 1600 and newest.model.version == "1"
        bus.refuses = "v2.20"
        with pytest.raises(NotFound):
            await newest.fetch(store, "v2", "2")
        assert newest.model.version == "1" and bus.chunks()[0] == 5
        bus.refuses = ""
        assert (await newest.fetch(store, "v1", "1")).nbytes == 0 and bus.chunks() == []
        fetched = await newest.fetch(store, "v2", "2")
        assert min(bus.chunks()) == 20 and fetched.nbytes == 1280
        assert model_digest(newest.model) == model_digest(model(2, frozen=80))

    with_store(main)


def test_a_model_with_another_digest_than_was_signed_is_not_fetched():
    """No chunk of it travels, whether it is new, begun or held; under the right digest it comes."""

    async def main(bus, store):
        await store.put("v1", model(1), 64)
        newest, right = NewestModel(), model_digest(model(1))
        for _ in range(2):
            with pytest.raises(BadMessage, match=f"signed the digest 0000.*the broker has {right}"):
                await newest.fetch(store, "v1", "1", digest="0" * 64)
        assert bus.chunks() == [] and newest.model is None
        await newest.fetch(store, "v1", "1", digest=right)
        with pytest.raises(BadMessage, match="signed the digest 0000"):
            await newest.fetch(store, "v1", "1", digest="0" * 64)
        assert newest.model.version == "1"

    with_store(main)


@pytest.mark.parametrize("kept", [False, True])
def test_the_next_model_is_written_over_one_that_nobody_looks_at(kept):
    """The third version lies where the first did, unless an app still has that: then nothing of it changes."""

    async def main(bus, store):
        for version in "123":
            await store.put(f"v{version}", {"w": np.full(SMALL_BYTES // 4, int(version), np.float32)}, 2**18)
        newest = NewestModel()
        places, apps = [], []
        for version in "123":
            model = (await newest.fetch(store, f"v{version}", version)).model
            places.append(model["w"].ctypes.data)
            apps += [model["w"]] if kept else []
            del model
        assert (places[2] == places[0]) is not kept and places[1] != places[0]
        assert newest.model["w"][7] == 3 and [array[-1] for array in apps] == ([1, 2, 3] if kept else [])

    with_store(main)


def test_a_whole_that_is_wrong_is_not_kept():
    """A reading whose chunks are right and whose whole is not starts from nothing when it is tried again."""

    async def main(bus, store):
        wire = Manifest.of(model(1), 64).to_wire() | {"digest": "0" * 64}
        await store.put("v1", model(1), 64)
        await bus.append(BLOBS, OURS.blob("v1", "manifest"), msgpack.packb(wire))
        reading = await store.begin("v1")
        for _ in range(2):
            with pytest.raises(BadMessage, match="expected the digest 0000"):
                await store.finish(reading)
            assert reading.missing() == list(range(25))

    with_store(main)


def test_a_small_model_is_one_message():
    """Stored by one append, read by one get; its chunk can be read as any other; the bytes are checked."""

    async def main(bus, store):
        manifest = await store.put("v1", model(1))
        assert await bus.pending(BLOBS, OURS.blob("v1", "*")) == 1
        stored = await store.read("v1")
        assert bus.asked == ["manifest"] and stored.fetched_bytes == 1600 and stored.manifest == manifest
        assert model_digest(stored.arrays) == manifest.digest
        assert (await store.chunk("v1", 0)).data == bytes(stored.buffer)
        assert b"".join([data async for data in store.chunks("v1", manifest)]) == bytes(stored.buffer)
        held = await store.read("v1", held=stored)
        assert held.fetched_bytes == 1600  # it travelled with the manifest

    with_store(main)


def test_a_small_model_in_its_old_form_is_read():
    """A manifest without the bytes, and a chunk: as they were written before."""

    async def main(bus, store):
        manifest = Manifest.of(model(1))
        data = b"".join(array.tobytes() for array in model(1).values())
        await store.put_chunk("v1", 0, data)
        await store.put_manifest("v1", manifest)
        stored = await store.read("v1")
        assert bus.chunks() == [0] and model_digest(stored.arrays) == manifest.digest

    with_store(main)


@pytest.mark.parametrize("damage", ["short", "flip", "other type"])
def test_a_small_model_that_is_damaged_is_found(damage):
    """Bytes within a manifest are checked as any."""

    async def main(bus, store):
        data = b"".join(array.tobytes() for array in model(1).values())
        wrong = {"short": data[:-4], "flip": bytes([data[0] ^ 1]) + data[1:], "other type": "text"}
        wire = Manifest.of(model(1)).to_wire() | {"data": wrong[damage]}
        await bus.append(BLOBS, OURS.blob("v1", "manifest"), msgpack.packb(wire))
        with pytest.raises(BadMessage):
            await store.read("v1")

    with_store(main)


def test_the_edge_of_small():
    """A model of no bytes is small; one of 32 KiB is; one byte or one chunk more, and it is stored by chunks."""

    async def main(bus, store):
        for name, arrays, chunk_bytes, messages in (
            ("empty", {"a": np.zeros(0, np.float32)}, 2**19, 1),
            ("full", {"a": np.zeros(2**15, np.uint8)}, 2**19, 1),
            ("more", {"a": np.zeros(2**15 + 1, np.uint8)}, 2**19, 2),
            ("cut", {"a": np.zeros(2**10, np.uint8)}, 2**9, 3),
        ):
            await store.put(name, arrays, chunk_bytes)
            assert await bus.pending(BLOBS, OURS.blob(name, "*")) == messages, name
            assert model_digest((await store.read(name)).arrays) == model_digest(arrays)

    with_store(main)


def test_nothing_is_under_way_when_a_read_ends():
    """After an error, a cancellation, and a stream of chunks that is left half-read, no request is left behind."""

    async def main(bus, store):
        manifest = await store.put("v1", model(1), 64)
        before = asyncio.all_tasks()
        bus.refuses = ".9"
        with pytest.raises(NotFound):
            await store.read("v1")
        bus.refuses = ""
        task = asyncio.create_task(store.read("v1"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        chunks = store.chunks("v1", manifest)
        await anext(chunks)
        await chunks.aclose()
        assert asyncio.all_tasks() <= before

    with_store(main)


def test_a_bus_that_goes_away_is_waited_for_and_nothing_is_asked_twice_of_what_came():
    """An outage in the midst of a read: it goes on when the broker is back."""

    async def main():
        broker = MemoryBroker(1)
        bus = Counting(broker)
        await ensure_streams(bus, OURS)
        store = ModelStore(bus, OURS, Inline())
        manifest = await store.put("v1", model(1), 64)
        reading = await store.begin("v1")
        broker.down()
        task = asyncio.create_task(store.finish(reading))
        await asyncio.sleep(100)
        assert not task.done()
        broker.up()
        assert model_digest((await task).arrays) == manifest.digest

    run_virtual(main())


class Late:
    """Workers whose work is done when it is asked for, long after nobody waits for it any more."""

    def __init__(self):
        self.left = []
        self.asked = asyncio.Event()

    async def run(self, function, *args):
        self.left.append((function, args))
        self.asked.set()
        await asyncio.Event().wait()

    def close(self):
        """Nothing to end."""


def test_placing_that_nobody_waits_for_any_more_does_no_harm():
    """A thread that still works for a reading that was given up, when it is finished otherwise: all comes out right."""

    async def main(bus, store):
        values = {"a": np.random.default_rng(1).random(2**20)}
        manifest = await store.put("v1", values, 2**14)
        reading = await store.begin("v1")
        late = Late()
        task = asyncio.create_task(ModelStore(bus, OURS, late).finish(reading))
        await late.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        bus.refuses = ".400"
        with pytest.raises(NotFound):
            await store.finish(reading)
        for function, args in late.left:
            function(*args)
        bus.refuses = ""
        stored = await store.finish(reading)
        assert stored.fetched_bytes == manifest.spec.nbytes and model_digest(stored.arrays) == manifest.digest

    with_store(main)


def test_a_reading_knows_what_is_missing():
    """Pieces in any order, twice, and of the wrong size."""
    manifest = Manifest.of(model(1), 64)
    whole = b"".join(array.tobytes() for array in model(1).values())
    reading = Reading("v1", manifest)
    for index in (3, 1, 3, 0):
        reading.place([(index, whole[64 * index : 64 * index + 64])])
    assert reading.missing() == [2, *range(4, 25)] and reading.fetched_bytes == 192
    with pytest.raises(BadMessage, match="chunk 2"):
        reading.place([(2, whole[:63])])
    reading.place([(index, whole[64 * index : 64 * index + 64]) for index in reversed(reading.missing())])
    stored = reading.finish()
    assert stored is not None and stored.buffer == whole and stored.buffer.readonly
