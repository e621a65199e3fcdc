"""The folder: what is folded is what the jobs say, and taken out exactly; a full spool refuses one upload only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from round_driver import CHUNK_BYTES, MODEL, Driver, Parcel, folded, merging, order

from fedbus.aggregation import aggregate
from fedbus.combiner import events
from fedbus.combiner.folder import Folder
from fedbus.combiner.machine import STALL_S, Phase
from fedbus.combiner.making import BUFFERS, Given
from fedbus.store.spool import Memory
from fedbus.tensors import Manifest, model_digest, unpack


def test_a_full_spool_refuses_the_upload_and_nothing_else():
    """No room for the third chunk: that upload is undone and its owner told; a smaller round goes on."""
    driver = Driver(spool=Memory(104 + 70)).open({"a": 1, "b": 1})
    a, b = Parcel("a"), Parcel("b")
    driver.send(a)
    state = driver.send(b)
    assert state.verdict == "refused" and "room" in state.reason
    assert driver.sums() == folded(a)
    driver.open({"b": 2}, revision=2)
    assert driver.send(Parcel("b", attempt=2)).verdict == "accepted"


def test_undo_of_what_is_not_there_changes_nothing():
    """Undo is for a key, whatever of it has arrived."""
    driver = Driver().open({"a": 1})
    driver.send(Parcel("a"))
    before = driver.sums()
    driver.folder.do([events.Undo(Parcel("z").key)])
    assert driver.sums() == before
    fresh = Folder(Memory())
    assert fresh.do([events.Undo(Parcel("a").key), events.Reset()]) == []


def test_undo_leaves_the_bits_as_they_were():
    """Fold, undo, fold others: the same bits as if the undone had never come, at any point of its way."""
    a, b = Parcel("a", weight=1 / 3), Parcel("b", weight=1e-3)
    for chunks in range(5):
        driver = Driver(window=8).open({"a": 1, "b": 1})
        driver.begin(a)
        for index in range(chunks):
            driver.step(a.arrival(index))
        driver.send(b)
        driver.open({"b": 1}, revision=2)
        assert driver.sums() == folded(b), chunks


def test_folds_before_prepare_and_after_reset_are_dropped():
    """A chunk without an accumulator is nobody's."""
    job = events.Fold(Parcel("a").key, 1, 0, bytes(32), 0, 1.0, last=False)
    folder = Folder(Memory())
    assert folder.do([job]) == []
    folder.prepare(order(), Manifest.of(MODEL, CHUNK_BYTES))
    assert folder.do([events.Reset(), job]) == []


def test_memory_is_kept_between_rounds_and_empty():
    """A second round of the same model begins at zero; one of another model has its own accumulator."""
    driver = Driver().open({"a": 1})
    driver.send(Parcel("a"))
    driver.step(events.OrderSeen(order("rest", revision=2)))
    driver.open({"a": 1}, round_=2, revision=3)
    assert driver.sums() == bytes(23 * 8)
    driver.manifest = Manifest.of({"v": np.ones(3, np.float32)}, CHUNK_BYTES)
    driver.open({"a": 1}, round_=3, revision=4)
    assert driver.sums() == bytes(3 * 8)


def test_the_new_model_is_the_weighted_mean():
    """Bytes, digests and magnitudes are those of the mean, computed by the same law in one call."""
    parcels = [Parcel("a", weight=1.0), Parcel("b", weight=3.0), Parcel("c", weight=0.5)]
    driver = Driver().open(dict.fromkeys("abc", 1))
    for parcel in parcels:
        driver.send(parcel)
    counted = dict.fromkeys("abc", 1)
    close = order("merge", revision=2, uploads=counted, merge=merging(counted, weight_sum=4.5))
    driver.step(events.OrderSeen(close))
    making = driver.folder.finish(close)
    made = [making.make(dict.fromkeys(part, Given())) for part in (range(2), range(2, 4))]
    data = b"".join(bytes(one.data) for some in made for one in some)
    manifest = making.description.manifest()
    arrays = unpack(manifest.spec, data)
    for name, value in arrays.items():
        mean = sum(p.arrays[name].astype("f8") * p.weight for p in parcels) / 4.5
        np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-7)
    assert manifest == Manifest.of(arrays, CHUNK_BYTES) and manifest.digest == model_digest(arrays)
    near, _ = aggregate("fedavg", MODEL, [(p.arrays, p.weight) for p in parcels])
    np.testing.assert_allclose(near["w"], arrays["w"], rtol=1e-6, atol=1e-7)


def test_memory_for_new_chunks_is_used_again():
    """Chunks that are stored give their memory to the next: as many buffers as may be under way, never more."""
    model = {"w": np.arange(8 * 3 * BUFFERS, dtype=np.float32)}
    driver = Driver(model=model).open({"a": 1})
    parcel = Parcel("a", model=model)
    driver.send(parcel)
    close = order("merge", revision=2, uploads={"a": 1}, merge=merging({"a": 1}, weight_sum=2.0))
    driver.step(events.OrderSeen(close))
    making, found, places = driver.folder.finish(close), [], set()
    for index in range(3 * BUFFERS):
        (one,) = making.make({index: Given()})
        found.append(bytes(one.data))
        places.add(np.frombuffer(one.data, np.uint8).ctypes.data)
        making.done(one)
    assert len(places) == 1
    manifest = making.description.manifest()
    arrays = unpack(manifest.spec, b"".join(found))
    assert manifest == Manifest.of(arrays, CHUNK_BYTES)
    np.testing.assert_allclose(arrays["w"], parcel.arrays["w"], rtol=1e-6, atol=1e-9)
    again = driver.folder.finish(close)
    again.make(dict.fromkeys(range(BUFFERS), Given()))
    with pytest.raises(IndexError):
        again.make({BUFFERS: Given()})


def test_a_folder_that_is_released_while_a_thread_folds_waits_for_it():
    """A role that ends closes its log; a thread that was folding must not write to whatever has its number next."""
    entered, go = Event(), Event()

    class Slow(Memory):
        released = False

        def append(self, upload, data):
            entered.set()
            assert go.wait(10) and not self.released
            super().append(upload, data)

        def release(self):
            self.released = True

    spool, parcel = Slow(), Parcel("a")
    folder = Folder(spool)
    folder.prepare(order(), Manifest.of(MODEL, CHUNK_BYTES))
    job = events.Fold(parcel.key, 1, 0, parcel.chunks[0], parcel.address(0).digest, 1.0, last=False)
    with ThreadPoolExecutor(2) as pool:
        folding = pool.submit(folder.do, [job])
        assert entered.wait(10)
        releasing = pool.submit(folder.release)
        assert not releasing.done() and not spool.released
        go.set()
        assert folding.result(10) == [events.Folded(parcel.key, 1, 0)]
        releasing.result(10)
    assert spool.released and folder.do([job]) == []


class Rounds(RuleBasedStateMachine):
    """Senders, a line that loses, repeats, mixes up and damages, a coordinator that changes its mind, a slow thread."""

    def __init__(self):
        super().__init__()
        self.driver = Driver(slots=2, window=2, lazy=True)
        self.revision = 1
        self.attempt = 1
        self.attempts = dict.fromkeys("abc", 1)
        self.seeds = dict.fromkeys("abcd", 0)
        self.flying = []
        self.merges = 0
        self.driver.open(dict(self.attempts))

    def parcel(self, name):
        """What a client holds now."""
        return Parcel(name, self.seeds[name], weight=1.0 + ord(name) % 7, attempt=self.attempts.get(name, 1))

    @rule(name=st.sampled_from("abcd"))
    def announces(self, name):
        """A client, or a stranger, announces."""
        parcel = self.parcel(name)
        self.driver.begin(parcel)

    @rule(name=st.sampled_from("abc"), data=st.data())
    def sends(self, name, data):
        """A client sends some chunks; each may be lost, doubled, damaged or delayed."""
        parcel = self.parcel(name)
        upload = self.driver.machine.uploads.get(parcel.key)
        at = upload.next_chunk if upload else 0
        for index in range(at, min(at + 2, len(parcel.chunks))):
            fate = data.draw(st.sampled_from(["arrives", "arrives", "arrives", "lost", "twice", "damaged", "late"]))
            arrival = parcel.arrival(index, bytes(32) if fate == "damaged" else None)
            if fate == "late":
                self.flying.append(arrival)
            elif fate != "lost":
                self.driver.step(*[arrival] * (2 if fate == "twice" else 1))

    @rule(name=st.sampled_from("abc"))
    def sends_all(self, name):
        """A client whose line is good for once."""
        parcel = self.parcel(name)
        self.driver.work()
        self.driver.begin(parcel)
        for index in range(len(parcel.chunks)):
            self.driver.step(parcel.arrival(index))
            self.driver.work()

    @rule()
    def arrives_late(self):
        """What was delayed arrives."""
        for arrival in self.flying[::-1]:
            self.driver.step(arrival)
        self.flying.clear()

    @rule(name=st.sampled_from("abc"))
    def is_reborn(self, name):
        """A client is restarted and trains again, to another result."""
        self.seeds[name] += 1

    @rule(count=st.integers(1, 4))
    def works(self, count):
        """The thread does some of its jobs."""
        self.driver.work(count)

    @rule()
    def waits(self):
        """Time passes."""
        self.driver.now += STALL_S + 0.1
        self.driver.step(events.Ticked())

    @rule(names=st.sets(st.sampled_from("abc"), min_size=1), moved=st.sets(st.sampled_from("abc")))
    def folds(self, names, moved):
        """The coordinator says anew whose updates may be folded, some as a higher attempt."""
        self.attempt += 1
        self.revision += 1
        for name in names:
            self.attempts[name] = self.attempt if name in moved else self.attempts.get(name, 1)
        self.driver.open({name: self.attempts[name] for name in names}, revision=self.revision)

    @rule(names=st.sets(st.sampled_from("abc"), min_size=1))
    def merges_(self, names):
        """The coordinator fixes what counts."""
        self.attempt += 1
        self.revision += 1
        counted = {name: self.attempts[name] for name in names}
        close = order("merge", revision=self.revision, uploads=counted, merge=merging(counted, attempt=self.attempt))
        self.driver.step(events.OrderSeen(close))

    @rule()
    def rests(self):
        """The round is given up and opened again."""
        self.attempt += 1
        self.revision += 2
        self.driver.step(events.OrderSeen(order("rest", round_=0, revision=self.revision - 1)))
        self.attempts = dict.fromkeys("abc", self.attempt)
        self.driver.open(dict(self.attempts), revision=self.revision)

    @invariant()
    def merged_is_exact(self):
        """Whenever merged, the accumulator has the bits of the allowed updates, folded once each."""
        machine = self.driver.machine
        if machine.phase is not Phase.MERGED or self.driver.jobs:
            return
        self.merges += 1
        accepted = [machine.uploads[key].begin for key in sorted(machine.allowed)]
        wanted = []
        for key, begin in zip(sorted(machine.allowed), accepted, strict=True):
            name = key.sender.name
            for seed in range(self.seeds[name] + 1):
                parcel = Parcel(name, seed, weight=1.0 + ord(name) % 7, attempt=key.attempt)
                if parcel.begin.digest == begin.digest:
                    wanted.append(parcel)
        assert len(wanted) == len(machine.allowed), "what was accepted is not what its client ever held"
        assert self.driver.sums() == folded(*wanted)


Rounds.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
test_any_interleaving_folds_exactly_what_counts = Rounds.TestCase
"""Whenever a round is merged, its accumulator has the bits of the updates that count, folded once each."""
