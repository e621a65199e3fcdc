"""The archivist over a bus in memory: what is published stands in the store, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os

import numpy as np
import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.clock import SystemClock
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, NotFound, StoreUnavailable
from fedbus.federation.models import Models
from fedbus.federation.service import Federation
from fedbus.messages import records
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.records import Entry
from fedbus.messages.subjects import Subjects
from fedbus.store import archivist as module
from fedbus.store.archivist import Archivist
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.objects.archived import Archive
from fedbus.store.objects.directory import DirectoryStore
from fedbus.store.streams import ensure_streams
from fedbus.tensors import files
from fedbus.workers import Inline

ARRAYS = {
    "w": np.arange(300_000, dtype=np.float32),
    "c": np.array([1 + 2j], np.complex64),
    "s": np.float64(3)[None][0:1],
}


class Away(DirectoryStore):
    """A directory that is away while ``away`` is set."""

    away = False
    puts = 0
    lists = 0

    async def put(self, key, pieces, *, nbytes=0):
        """Count, or fail."""
        self.puts += 1
        if self.away:
            raise StoreUnavailable("it is away")
        return await super().put(key, pieces, nbytes=nbytes)

    async def list(self, prefix=""):
        """Count, and list, or fail."""
        self.lists += 1
        if self.away:
            raise StoreUnavailable("it is away")
        async for info in super().list(prefix):
            yield info

    async def read(self, key, start=0, stop=None):
        """Read, or fail."""
        if self.away:
            raise StoreUnavailable("it is away")
        async for piece in super().read(key, start, stop):
            yield piece


class World:
    """A workspace with models, and a store."""

    def __init__(self, directory):
        self.bus = MemoryBus(MemoryBroker(), "all")
        self.subjects = Subjects("w")
        self.models = ModelStore(self.bus, self.subjects, Inline())
        self.journal = Journal(self.bus, self.subjects)
        self.store = Away(directory / "store")
        self.archive = Archive(self.store, "w", Inline())
        self.sequence = 0

    def archivist(self):
        """Return another archivist."""
        return Archivist(self.bus, self.subjects, self.archive, workers=Inline(), clock=SystemClock())

    async def publish(self, version, arrays=ARRAYS, round_=1, digest=None):
        """Publish a version as a coordinator would; returns its entry."""
        manifest = await self.models.put(f"blob-{version}", arrays, 65536)
        digest, nbytes = digest or manifest.digest, manifest.spec.nbytes
        entry = records.ModelPublished(
            round=round_, version=version, parent="", session="s", blob=f"blob-{version}", digest=digest,
            nbytes=nbytes, at=SystemClock().now(),
        )  # fmt: skip
        await self.models.enter(entry)
        return entry

    async def say(self, *said):
        """Append records to the journal of session s."""
        self.sequence = await self.journal.append("s", Entry.of(5.0, "epoch", said), self.sequence)

    async def record(self, version):
        """Return a version's record."""
        return json.loads(b"".join([bytes(piece) async for piece in self.store.read(f"w/{version}.json")]))


@pytest.fixture
async def world(tmp_path):
    """A workspace without models, and an empty store."""
    world = World(tmp_path)
    await ensure_streams(world.bus, world.subjects)
    return world


@contextlib.asynccontextmanager
async def running(archivist):
    """Run an archivist for as long as the block lasts."""
    task = asyncio.create_task(archivist.run())
    try:
        yield archivist
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def until(condition):
    """Wait until a condition is true: everything runs on this loop, and the directory in threads."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is state
            await asyncio.sleep(0.005)


async def test_what_is_in_the_store_is_the_model(world, tmp_path):
    """File and record can be used without us: the file is a safetensors file of the arrays, the record names it."""
    entry = await world.publish("s-1")
    state = await world.archivist().once()
    assert (state.archived, state.waiting, state.refused) == (1, 0, {})
    found = files.read(tmp_path / "store" / "w" / "s-1.safetensors")
    assert list(found) == list(ARRAYS)
    assert all(np.array_equal(found[name], ARRAYS[name]) and found[name].dtype == ARRAYS[name].dtype for name in ARRAYS)
    record = await world.record("s-1")
    assert (record["version"], record["digest"], record["nbytes"]) == ("s-1", entry.digest, entry.nbytes)
    assert await world.archive.has(entry)


async def test_what_is_there_is_not_copied_again(world):
    """Another archivist, or the same after a restart, puts nothing: not a file, not a record."""
    await world.publish("s-1")
    await world.archivist().once()
    before = world.store.puts
    state = await world.archivist().once()
    assert (state.archived, world.store.puts) == (1, before)


async def test_several_at_once_do_no_harm(world):
    """Three archivists of one workspace leave what one would have left."""
    entries = [await world.publish(f"s-{number}", {"w": np.full(70_000, number, np.float32)}) for number in range(4)]
    await asyncio.gather(*(world.archivist().once() for _ in range(3)))
    for entry in entries:
        stored = await world.archive.read(entry)
        assert stored.manifest.digest == entry.digest
    assert len([info async for info in world.store.list("w/")]) == 8


async def test_a_version_that_comes_is_copied(world):
    """One that runs copies what is published while it runs."""
    async with running(world.archivist()) as archivist:
        await world.publish("s-1")
        await until(lambda: archivist.has("s-1"))
        await world.publish("s-2")
        await until(lambda: archivist.has("s-2") and not archivist.state.waiting)
    assert archivist.state.archived == 2


async def test_a_store_that_is_away_is_told_and_tried_again(world, monkeypatch):
    """While the store is away versions wait, with since when and why; when it is back they are copied."""
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    world.store.away = True
    entry = await world.publish("s-1")
    async with running(world.archivist()) as archivist:
        await until(lambda: archivist.state.error and archivist.state.waiting)
        state = archivist.state
        assert (state.waiting, state.waiting_bytes, state.since_at) == (1, entry.nbytes, entry.at)
        assert "it is away" in state.error and state.error_at >= entry.at
        world.store.away = False
        await until(lambda: archivist.has("s-1") and not archivist.state.error)
        assert (archivist.state.waiting, archivist.state.since_at) == (0, 0.0)


async def test_a_damaged_model_never_becomes_an_object(world):
    """Where the chunks lead to another digest than the catalogue's nothing is put, and the reason is told."""
    await world.publish("s-1")
    await world.publish("s-2", digest="0" * 64)
    state = await world.archivist().once()
    assert state.archived == 1
    assert "expected the digest 000" in state.refused["s-2"]
    assert [info.key async for info in world.store.list("w/s-2")] == []


async def test_one_without_arrays_does_not_hold_up_the_others(world):
    """A version whose blob is gone, and one that was removed, are passed over; what follows is copied."""
    gone = await world.publish("s-1")
    removed = await world.publish("s-2")
    await world.publish("s-3")
    await world.models.remove(gone.blob)
    await world.models.mark_removed(removed, 7.0, "retention")
    state = await world.archivist().once()
    assert (state.archived, list(state.refused)) == (1, ["s-1"])


async def test_a_record_without_a_file_does_not_count(world):
    """What somebody has taken from the store is not archived any more, and is copied again by the next."""
    entry = await world.publish("s-1")
    await world.archivist().once()
    await world.store.remove("w/s-1.safetensors")
    assert not await world.archive.has(entry)


async def test_what_the_store_has_not_yet_is_not_collected(world):
    """The bus has the only copy then; when it is archived the next collection lets it go, and it can be read."""
    made = [await world.publish(f"s-{number}", round_=number) for number in range(5)]
    first = made[0]
    config = SessionConfig(rounds=4)
    await world.say(
        records.SessionStarted(config=config, version="s-0", blob=first.blob, digest=first.digest, nbytes=first.nbytes),
        *made[1:],
        records.SessionEnded(outcome="completed", reason="r", version="s-4"),
    )
    async with Federation(world.bus, workspace="w", name="eve", workers=Inline(), store=world.store) as federation:
        await federation.registry.set_retention(2)
        found = await federation.registry.collect(grace_s=0)
        assert found.removed == () and set(found.kept) == {"s-0", "s-1", "s-2"}
        assert all("not archived" in why for why in found.kept.values())
        await world.archivist().once()
        assert (await federation.registry.collect(grace_s=0)).removed == ("s-0", "s-1", "s-2")
        assert (await federation.registry.find("s-1")).kept == "archived"
        assert (await federation.models.get("s-1"))["w"].shape == (300_000,)


async def test_a_file_that_was_cut_short_does_not_count(world):
    """Somebody's copy of a store broke off: the version is not archived, so nothing lets go of it, and is put again."""
    entry = await world.publish("s-1")
    await world.archivist().once()
    path = world.store.root / "w" / "s-1.safetensors"
    path.write_bytes(path.read_bytes()[: entry.nbytes])
    assert not await world.archive.has(entry)
    await world.archivist()._copy(entry)
    assert await world.archive.has(entry) and (await world.archive.read(entry)).manifest.digest == entry.digest


async def test_records_tell_settings_and_metrics(world, monkeypatch):
    """A record has its session's settings at once, and the metrics of an evaluation that came later."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    config = SessionConfig(rounds=3, strategy="fedadam")
    first = await world.publish("s-0", round_=0)
    await world.say(
        records.SessionStarted(config=config, version="s-0", blob=first.blob, digest=first.digest, nbytes=first.nbytes)
    )
    entry = await world.publish("s-1")
    await world.say(entry, records.RoundClosed(round=1, counted=7, metrics={"loss": 0.5}))
    async with running(world.archivist()) as archivist:
        await until(lambda: archivist.has("s-1"))
        record = await world.record("s-1")
        assert (record["strategy"], record["participants"], record["metrics"]) == ("fedadam", 7, {})
        assert record["config"]["rounds"] == 3 and record["train_metrics"] == {"loss": 0.5}
        await world.say(records.RoundEvaluated(round=1, version="s-1", metrics={"accuracy": 0.75, "nan": float("nan")}))
        await until(lambda: "s-1" not in archivist._looks)
    assert (await world.record("s-1"))["metrics"] == {"accuracy": 0.75, "nan": None}


async def test_models_are_read_from_the_store_when_the_bus_has_them_no_longer(world):
    """Arrays, chunks, ranges and the spec of a removed version come from the archive; without one it is gone."""
    entry = await world.publish("s-1")
    await world.archivist().once()
    await world.models.mark_removed(entry, 7.0, "retention")
    await world.models.remove(entry.blob)
    with_archive, without = (Models(world.models, world.journal, archive) for archive in (world.archive, None))
    with pytest.raises(NotFound, match="retention"):
        await without.get("s-1")
    found = await with_archive.get("s-1")
    assert list(found) == list(ARRAYS) and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    data = b"".join(value.tobytes() for value in ARRAYS.values())
    assert b"".join([bytes(chunk) async for chunk in with_archive.chunks("s-1")]) == data
    assert b"".join([bytes(chunk) async for chunk in with_archive.span("s-1", 7, 99_999)]) == data[7:99_999]
    assert [array.name for array in (await with_archive.spec("s-1")).arrays] == list(ARRAYS)


async def test_a_version_that_only_the_store_knows_is_found(world):
    """A broker that came back empty knows no version: the record in the store stands in for the catalogue."""
    entry = await world.publish("s-1")
    await world.archivist().once()
    empty = World(world.store.root.parent)
    await ensure_streams(empty.bus, empty.subjects)
    models = Models(empty.models, empty.journal, empty.archive)
    assert (await models.find("s-1")).digest == entry.digest
    assert np.array_equal((await models.get("s-1"))["w"], ARRAYS["w"])
    with pytest.raises(NotFound, match="s-2: no such version; `fedbus model list`"):
        await models.find("s-2")


async def test_what_was_changed_in_the_store_is_refused(world):
    """A file of which one byte is another is `BadMessage`: by its digest, at its end."""
    entry = await world.publish("s-1")
    await world.archivist().once()
    file = world.store.root / "w" / "s-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadMessage, match="was changed, or is damaged"):
        await world.archive.read(entry)


async def test_a_list_of_versions_asks_the_store_once(world):
    """Whether versions are archived is told of one listing, and of another when that is old."""
    for number in range(3):
        await world.publish(f"s-{number}")
    await world.archivist().once()
    before = world.store.lists
    assert [await world.archive.lists(f"s-{number}") for number in range(4)] == [True, True, True, False]
    assert world.store.lists == before + 1
    await world.store.remove("w/s-1.json")
    assert await world.archive.lists("s-1")
    assert not await world.archive.lists("s-1", within_s=-1.0)


async def test_another_model_of_the_same_name_takes_no_place(world, tmp_path):
    """A broker that was lost leaves its models in the store; a session called the same makes others: what is archived
    stays, whoever archives later says so, and neither is taken for the other.
    """
    first = await world.publish("s-1")
    await world.archivist().once()
    record = world.store.root / "w" / "s-1.json"
    os.utime(record, (record.stat().st_mtime - 3600,) * 2)
    world = World(tmp_path)
    await ensure_streams(world.bus, world.subjects)
    other = await world.publish("s-1", {"w": np.ones(300_000, np.float32)})
    for _ in range(2):
        archivist = world.archivist()
        state = await archivist.once()
        assert "another model" in state.refused["s-1"] and not await world.archive.has(other)
        assert not archivist.has("s-1")
    assert (await world.archive.read(first)).manifest.digest == first.digest
    await world.models.remove(other.blob)
    models = Models(world.models, world.journal, world.archive)
    for reading in (
        models.read("s-1"),
        models.spec("s-1"),
        anext(models.span("s-1", 0, 4)),
        anext(models.chunks("s-1")),
    ):
        with pytest.raises(NotFound):
            await reading


async def test_a_version_of_long_ago_is_copied_too(world):
    """Clocks decide about nothing that the store has not."""
    entry = (await world.publish("s-1")).model_copy(update={"version": "s-2", "at": 1.0})
    await world.bus.append(
        world.subjects.stream("model"),
        world.subjects.model("s-2"),
        encode(Envelope("s-2", "w", "coordinator", entry)),
    )
    state = await world.archivist().once()
    assert state.archived == 2 and await world.archive.has(entry)


async def test_a_list_is_made_with_a_store_that_is_away(world):
    """What the store had when it was listed last is told then; before any listing nobody knows, and says so."""
    await world.publish("s-1")
    await world.archivist().once()
    world.store.away = True
    before = world.store.lists
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await world.archive.lists("s-1")
    assert world.store.lists == before + 1
    entry = await world.models.find("s-1")
    await world.models.mark_removed(entry, SystemClock().now(), "old")
    async with Federation(world.bus, workspace="w", name="eve", workers=Inline(), store=world.store) as federation:
        assert [info.kept for info in await federation.registry.versions()] == ["archived"]
        with pytest.raises(StoreUnavailable):
            await federation.models.get("s-1")
    world.store.away = False
    world.archive = Archive(world.store, "w", Inline())
    assert await world.archive.lists("s-1")
    world.store.away, before = True, world.store.lists
    assert await world.archive.lists("s-1", within_s=-1.0) and not await world.archive.lists("s-2", within_s=-1.0)
    assert world.store.lists == before + 1, "asked once, not for each version of a list"
