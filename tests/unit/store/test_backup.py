"""Backups: what goes back is what was there, byte by byte, or an error that says what is damaged or in the way."""

from __future__ import annotations

import numpy as np
import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, ConfigError, NotFound
from fedbus.messages.records import (
    RESTORED,
    RESTORING,
    Entry,
    ModelPublished,
    RoundEvaluated,
    RoundFailed,
    SessionEnded,
    SessionStarted,
)
from fedbus.messages.registry import Promoted, Stage
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import Archive
from fedbus.store.backup import Backup
from fedbus.store.journal import Journal, mark_of
from fedbus.store.models import ModelStore
from fedbus.store.registry import RegistryStore
from fedbus.store.removal import Collected, Removal
from fedbus.store.restore import MARGIN, Restore, WouldOverwrite
from fedbus.store.sealing import OVERHEAD_BYTES, WorkspaceSeal
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")
CHUNK_BYTES = 4096


def arrays(number, count=5000):
    """A model of several chunks."""
    return {"w": np.arange(count, dtype=np.float32) + number, "b": np.full(3, number, "f8")}


class House:
    """A broker, and sessions that are written to it by hand."""

    def __init__(self, name="house"):
        self.broker = MemoryBroker(1)
        self.bus = MemoryBus(self.broker, name)
        self.journal = Journal(self.bus, OURS)
        self.models = ModelStore(self.bus, OURS, Inline())
        self.last = {}
        self.rounds = {}

    async def open(self):
        """Make the streams."""
        await ensure_streams(self.bus, OURS)
        return self

    async def write(self, session, *records, at=1.0):
        """Append an entry."""
        entry = Entry.of(at, "one", records)
        self.last[session] = await self.journal.append(session, entry, self.last.get(session, 0))

    async def begin(self, session, count=5000, **config):
        """Start a session with a model."""
        blob = f"{session}-0-ab"
        manifest = await self.models.put(blob, arrays(0, count), CHUNK_BYTES)
        started = SessionStarted(
            config=SessionConfig(**config),
            version=f"{session}-0",
            blob=blob,
            digest=manifest.digest,
            nbytes=manifest.spec.nbytes,
        )
        self.rounds[session] = 0
        await self.write(session, started)
        await self.models.enter(started.model(session, 1.0))

    async def publish(self, session, count=5000):
        """Publish the next version."""
        self.rounds[session] += 1
        number = self.rounds[session]
        blob = f"{session}-{number}-1"
        manifest = await self.models.put(blob, arrays(number, count), CHUNK_BYTES)
        model = ModelPublished(
            round=number,
            version=f"{session}-{number}",
            parent=f"{session}-{number - 1}",
            session=session,
            blob=blob,
            digest=manifest.digest,
            nbytes=manifest.spec.nbytes,
            at=2.0,
        )
        await self.write(session, model)
        await self.models.enter(model)
        return blob

    async def back_up(self, directory):
        """Take a backup."""
        return await Backup(self.bus, OURS, Inline(), Archive(directory)).take(7.0)

    async def restore(self, directory, seal=None, **how):
        """Bring a backup back."""
        return await Restore(self.bus, OURS, Inline(), Archive(directory), seal, **how).restore()

    async def stored(self, what):
        """Return what a stream holds, as {subject: [data]} without marks, and the lowest sequence."""
        stream, pattern = OURS.stream(what), f"fb.default.{what}.>"
        found, lowest = {}, 0
        if await self.bus.pending(stream, pattern):
            async for message in await self.bus.follow(stream, pattern):
                if what != "journal" or not mark_of(message.data):
                    found.setdefault(message.subject, []).append(bytes(message.data))
                lowest = lowest or message.sequence
                if not message.pending:
                    break
        return found, lowest


def virtual(test):
    """Run a test that is a coroutine."""

    def run(tmp_path):
        run_virtual(test(tmp_path / "backup"))

    run.__doc__ = test.__doc__
    return run


async def two_sessions():
    """A house with one session that runs (three versions, a state of its strategy) and a small one that has ended."""
    house = await House().open()
    await house.begin("s")
    await house.begin("small", count=10)
    blob = ""
    for _ in range(2):
        blob = await house.publish("s")
    for number in (1, 2, 0):
        await house.models.put_chunk(f"{blob}-state", number, b"piece %d" % number)
    await house.publish("small", count=10)
    await house.write("small", SessionEnded(outcome="completed", reason="1 round", version="small-1", digest=""))
    return house


@virtual
async def test_what_goes_back_is_what_was_there(directory):
    """Every message of journals, blobs and catalogue is in the empty broker again, and sequences begin far behind."""
    house = await two_sessions()
    taken = await house.back_up(directory)
    assert not taken.contents.skipped
    assert (taken.entries, taken.blobs) == (6, 6)
    empty = House("empty")
    done = await empty.restore(directory)
    for what in ("journal", "blob", "model"):
        found, lowest = await empty.stored(what)
        wanted, _ = await house.stored(what)
        assert found == wanted
        if what == "journal":
            assert lowest == taken.contents.sequence + MARGIN
    assert (done.sessions, done.sessions_there, done.entries) == (["s", "small"], [], 6)
    assert (len(done.blobs), done.versions, done.behind) == (6, 5, False)
    read = await empty.models.read("s-2-1")
    np.testing.assert_array_equal(read.arrays["w"], arrays(2)["w"])


@virtual
async def test_a_second_backup_fetches_what_is_new(directory):
    """Nothing new: nothing fetched; one more version: its entry and its blob, and files before it stay as they are."""
    house = await two_sessions()
    await house.back_up(directory)
    before = {path: path.stat().st_mtime_ns for path in directory.glob("blobs/*")}
    again = await house.back_up(directory)
    assert (again.entries, again.blobs, again.nbytes) == (0, 0, 0)
    await house.publish("s")
    read = house.bus.bytes_in
    more = await house.back_up(directory)
    assert (more.entries, more.blobs) == (1, 1)
    assert house.bus.bytes_in - read < 2 * arrays(0)["w"].nbytes
    after = {path: path.stat().st_mtime_ns for path in directory.glob("blobs/*")}
    assert {path: after[path] for path in before if path in after}.items() <= before.items()
    assert len(after) == len(before)  # the new version came, the state of the former went
    empty = House("empty")
    await empty.restore(directory)
    assert (await empty.stored("journal"))[0] == (await house.stored("journal"))[0]
    assert await empty.models.read("s-3-1")


@virtual
async def test_versions_that_are_not_kept_are_not_in_it(directory):
    """Of a session that keeps two versions the newest two; what is gone of one that keeps all is said."""
    house = await House().open()
    await house.begin("two", versions_kept=2)
    await house.begin("all")
    for _ in range(3):
        await house.publish("two")
        await house.publish("all")
    await house.models.remove("all-0-ab")
    taken = await house.back_up(directory)
    assert {blob.blob for blob in taken.contents.blobs} == {"two-2-1", "two-3-1", "all-1-1", "all-2-1", "all-3-1"}
    (skipped,) = taken.contents.skipped
    assert skipped.what == "version all-0"
    await house.publish("two")
    taken = await house.back_up(directory)
    assert {path.stem for path in directory.glob("blobs/two*")} == {"two-3-1", "two-4-1"}


@virtual
async def test_the_best_version_is_in_it_however_old(directory):
    """The session keeps it beside the newest two, until a better one is found; also where that is found later on."""
    house = await House().open()
    await house.begin("s", versions_kept=2, best_metric="max accuracy")

    async def evaluate(accuracy):
        number = house.rounds["s"]
        await house.write("s", RoundEvaluated(round=number, version=f"s-{number}", metrics={"accuracy": accuracy}))

    for accuracy in (0.9, 0.2, 0.3, 0.9):
        await house.publish("s")
        await evaluate(accuracy)
    taken = await house.back_up(directory)
    assert [blob.blob for blob in taken.contents.blobs] == ["s-1-1", "s-3-1", "s-4-1"]
    await house.publish("s")
    await evaluate(0.95)
    await house.publish("s")
    await house.publish("s")
    taken = await house.back_up(directory)
    assert [blob.blob for blob in taken.contents.blobs] == ["s-5-1", "s-6-1", "s-7-1"]


@virtual
async def test_a_version_that_is_replaced_while_it_is_read_is_followed(directory):
    """The session expires the version that is about to be read: the backup has the next one, and its entry."""
    house = await House().open()
    await house.begin("s", versions_kept=2)
    reads = 0

    class Interfering:
        """The house's bus; the first look at the manifest comes too late."""

        def __getattr__(self, name):
            return getattr(house.bus, name)

        async def last(self, stream, subject, **how):
            nonlocal reads
            if subject.endswith("s-0-ab.manifest"):
                reads += 1
                if reads == 1:
                    await house.publish("s")
                    await house.publish("s")
                    await house.models.remove("s-0-ab")
            return await house.bus.last(stream, subject, **how)

    taken = await Backup(Interfering(), OURS, Inline(), Archive(directory)).take(7.0)
    assert reads == 1
    assert [blob.blob for blob in taken.contents.blobs] == ["s-1-1", "s-2-1"]
    assert not taken.contents.skipped
    empty = House("empty")
    await empty.restore(directory)
    assert (await empty.stored("journal"))[0] == (await house.stored("journal"))[0]


@virtual
async def test_a_broker_that_came_back_empty_does_not_empty_the_backup(directory):
    """Before and after the restore a backup has all that it had, and goes on with what is new."""
    house = await two_sessions()
    first = await house.back_up(directory)
    house.broker.wipe()
    await ensure_streams(house.bus, OURS)
    empty = await house.back_up(directory)
    assert empty.contents.journals == first.contents.journals
    assert (empty.contents.blobs, empty.contents.catalogue) == (first.contents.blobs, first.contents.catalogue)
    await house.restore(directory)
    house.last = {}
    for journalled in await house.journal.read():
        house.last[journalled.session] = journalled.sequence
    await house.publish("s")
    later = await house.back_up(directory)
    assert not later.contents.skipped
    (journal,) = [journal for journal in later.contents.journals if journal.session == "s"]
    assert journal.count == 4 + 2  # two marks
    other = House("other")
    await other.restore(directory)
    for what in ("journal", "model"):
        assert (await other.stored(what))[0] == (await house.stored(what))[0]


@virtual
async def test_a_journal_that_went_another_way_is_kept_as_it_was(directory):
    """The broker lost the end of a journal and the session went on otherwise: the backup keeps its own, and says so."""
    house = await two_sessions()
    first = await house.back_up(directory)
    house.broker.wipe()
    other = House("again")
    other.broker, other.bus = house.broker, house.bus
    await ensure_streams(house.bus, OURS)
    other.journal, other.models = house.journal, house.models
    await other.begin("s", count=20)
    taken = await other.back_up(directory)
    assert taken.contents.journals == first.contents.journals
    (skipped,) = taken.contents.skipped
    assert skipped.what == "session s"
    with pytest.raises(WouldOverwrite, match="entry 1 of session s"):
        await other.restore(directory)
    assert (await other.stored("journal"))[0].keys() == {"fb.default.journal.s"}
    assert (await other.stored("blob"))[0].keys() == {"fb.default.blob.s-0-ab.manifest"}


@virtual
async def test_restoring_again_does_nothing_and_a_beginning_is_completed(directory):
    """A restore may be repeated, also one that was cut short; and a journal that is further than the backup is left."""
    house = await two_sessions()
    await house.back_up(directory)
    empty = House("empty")
    await empty.restore(directory)
    before = [await empty.stored(what) for what in ("journal", "blob", "model")]
    again = await empty.restore(directory)
    assert (again.sessions, again.entries, again.blobs, again.nbytes) == ([], 0, [], 0)
    assert [await empty.stored(what) for what in ("journal", "blob", "model")] == before
    *_, newest, mark = await empty.journal.messages("s")
    for message in (newest, mark):
        await empty.bus.delete(OURS.stream("journal"), message.sequence)
    await empty.bus.purge(OURS.stream("blob"), OURS.blob("s-2-1"))
    third = await empty.restore(directory)
    assert (third.sessions, third.entries, third.blobs) == (["s"], 1, ["s-2-1"])
    assert not third.behind
    for what in ("journal", "blob"):
        assert (await empty.stored(what))[0] == (await house.stored(what))[0]
    await house.publish("s")
    assert (await house.restore(directory)).sessions == []


@virtual
async def test_what_is_restored_stands_between_marks(directory):
    """Before the first entry of a session and behind its last: a coordinator sees when all of it is there. A restore
    that was cut short before the second mark is finished by the next, and marks of former restores are not restored.
    """
    house = await two_sessions()
    await house.back_up(directory)
    for again in (1, 2):
        empty = House(f"empty-{again}")
        await empty.restore(directory)
        marks = [mark_of(message.data) for message in await empty.journal.messages("s")]
        assert marks == [RESTORING, "", "", "", RESTORED]
        directory = directory.with_name(f"again-{again}")
        await empty.back_up(directory)
    *_, mark = await empty.journal.messages("s")
    await empty.bus.delete(OURS.stream("journal"), mark.sequence)
    done = await empty.restore(directory)
    assert (done.sessions, done.entries) == (["s"], 0)
    assert mark_of((await empty.journal.messages("s"))[-1].data) == RESTORED
    assert (await empty.restore(directory)).sessions == []


@virtual
async def test_what_is_damaged_is_never_restored(directory):
    """A bit flipped anywhere in any file is found: the error names the file, and no blob or journal is wrong."""
    house = await two_sessions()
    await house.back_up(directory)
    wanted = {what: (await house.stored(what))[0] for what in ("journal", "blob")}
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "backup.json"]
    assert len(files) == 9
    for path in files:
        whole = path.read_bytes()
        for place in {0, 5, 12, 13, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            empty = House("empty")
            with pytest.raises(BadMessage, match=path.name):
                await empty.restore(directory)
            journals = (await empty.stored("journal"))[0]
            assert all(entries == wanted["journal"][name][: len(entries)] for name, entries in journals.items())
            blobs = (await empty.stored("blob"))[0]
            assert blobs.items() <= wanted["blob"].items()
        path.write_bytes(whole[:-1])
        with pytest.raises(BadMessage, match=path.name):
            await House("empty").restore(directory)
        path.write_bytes(whole)
    await House("empty").restore(directory)


@virtual
async def test_a_backup_that_is_cut_short_leaves_the_former(directory):
    """At whatever write the disk is full: the former backup can be restored, and the next one has all."""
    house = await two_sessions()
    first = await house.back_up(directory)
    former = (await house.stored("journal"))[0]
    await house.publish("s")
    await house.begin("third", count=20)

    class Full(Archive):
        left = 0

        def append(self, file, frames):
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device", file)
            return super().append(file, frames)

    for writes in range(20):
        archive = Full(directory)
        archive.left = writes
        try:
            await Backup(house.bus, OURS, Inline(), archive).take(8.0)
        except OSError:
            assert archive.load() == first.contents
            empty = House("empty")
            await empty.restore(directory)
            assert (await empty.stored("journal"))[0] == former
        else:
            break
    assert 5 < writes < 20
    empty = House("empty")
    await empty.restore(directory)
    assert (await empty.stored("journal"))[0] == (await house.stored("journal"))[0]
    assert await empty.models.read("s-3-1")
    assert await empty.models.read("third-0-ab")


@virtual
async def test_what_was_open_is_sealed_on_the_way_where_that_is_wanted(directory):
    """Refused before anything is written, or sealed, each message; what is sealed already is not sealed again."""
    house = await two_sessions()
    await house.back_up(directory)
    secured, seal = House("secured"), WorkspaceSeal("ab" * 32)
    with pytest.raises(ConfigError, match="--from-open"):
        await secured.restore(directory, seal)
    assert await secured.stored("blob") == await secured.stored("journal") == ({}, 0)
    done = await secured.restore(directory, seal, from_open=True)
    assert sorted(done.blobs_sealed) == sorted(done.blobs) and len(done.blobs) == 6
    sealed, plain = [(await one.stored("blob"))[0] for one in (secured, house)]
    assert all(len(data) == len(plain[name][0]) + OVERHEAD_BYTES for name, (data,) in sealed.items())
    read = await ModelStore(secured.bus, OURS, Inline(), seal).read("s-2-1")
    np.testing.assert_array_equal(read.arrays["w"], arrays(2)["w"])
    assert (await secured.stored("journal"))[0] == (await house.stored("journal"))[0]
    again = directory.with_name("again")
    await Backup(secured.bus, OURS, Inline(), Archive(again), seal).take(8.0)
    third = House("third")
    assert not (await third.restore(again, seal, from_open=True)).blobs_sealed
    read = await ModelStore(third.bus, OURS, Inline(), seal).read("s-2-1")
    np.testing.assert_array_equal(read.arrays["w"], arrays(2)["w"])
    with pytest.raises(ConfigError, match="other keys"):
        await House("stranger").restore(again, WorkspaceSeal("cd" * 32))
    with pytest.raises(ConfigError, match="leave --from-open away"):
        await House("open").restore(directory, from_open=True)


@virtual
async def test_a_journal_among_others_says_that_it_may_be_behind(directory):
    """A broker where sessions were started since cannot be advanced: the restore succeeds and says so."""
    house = await two_sessions()
    await house.back_up(directory)
    lived = House("lived")
    await lived.open()
    await lived.write("new", RoundFailed(round=1, attempt=1, reason="x"))
    done = await lived.restore(directory)
    assert done.behind
    assert done.sessions == ["s", "small"]


@virtual
async def test_directories_are_not_mixed_up(directory):
    """No backup, one of another workspace, one that another process writes: each is refused with what to do."""
    house = await two_sessions()
    with pytest.raises(NotFound, match="fedbus backup"):
        await house.restore(directory)
    await house.back_up(directory)
    other = Subjects("other")
    await ensure_streams(house.bus, other)
    with pytest.raises(ConfigError, match="another directory"):
        await Backup(house.bus, other, Inline(), Archive(directory)).take(1.0)
    with pytest.raises(ConfigError, match="--workspace default"):
        await Restore(house.bus, other, Inline(), Archive(directory)).restore()
    mine, theirs = Archive(directory).locked(), Archive(directory).locked()
    with mine, pytest.raises(ConfigError, match="another process"):
        theirs.__enter__()
    (directory / "backup.json").write_text("{}")
    with pytest.raises(BadMessage, match=r"backup\.json"):
        await house.restore(directory)


# --- what people have decided ---


class Decided(House):
    """A house with a registry, and models that were brought in."""

    def __init__(self, name="house"):
        super().__init__(name)
        self.registry = RegistryStore(self.bus, OURS, "eve")
        self.removal = Removal(self.bus, OURS, self.models, self.registry)

    async def bring(self, version):
        """Bring a model in."""
        manifest = await self.models.put(f"imported-{version}", arrays(9), CHUNK_BYTES)
        entry = ModelPublished(
            round=0, version=version, parent="", session="imported", blob=f"imported-{version}",
            digest=manifest.digest, nbytes=manifest.spec.nbytes, at=3.0,
        )  # fmt: skip
        await self.models.enter_first(entry)

    async def stage(self, stage, version, blob):
        """Give a stage a version."""
        held = (Promoted(version=version, blob=blob, at=1.0, by="eve"),)

        async def decide(state):
            return state.model_copy(update={"stages": {**state.stages, stage: Stage(held=held)}, "keep_last": 3})

        await self.registry.change("promoted", decide)


@virtual
async def test_stages_notes_and_imports_come_back(directory):
    """What a stage has is in it though its session keeps it no longer, as is what was brought in, and every note."""
    house = await Decided().open()
    await house.begin("s", versions_kept=2)
    for _ in range(4):
        await house.publish("s")
    await house.bring("bert")
    await house.stage("production", "s-1", "s-1-1")
    await house.registry.annotate("s-1", "the one")
    taken = await house.back_up(directory)
    assert {blob.blob for blob in taken.contents.blobs} == {"s-1-1", "s-3-1", "s-4-1", "imported-bert"}
    empty = Decided("empty")
    done = await empty.restore(directory)
    assert done.registry
    state = (await empty.registry.read()).state
    assert state.stages["production"].now.version == "s-1" and state.keep_last == 3
    assert await empty.registry.notes() == {"s-1": "the one"}
    assert await empty.models.read("s-1-1") and await empty.models.read("imported-bert")
    again = await empty.restore(directory)
    assert not again.registry and (await empty.registry.read()).state.stages == state.stages


@virtual
async def test_a_registry_that_is_there_is_left(directory):
    """A broker whose people have decided otherwise since keeps that; one that lost it does not empty the backup."""
    house = await Decided().open()
    await house.bring("bert")
    await house.stage("production", "bert", "imported-bert")
    await house.back_up(directory)
    other = await Decided("other").open()
    await other.stage("staging", "x", "y")
    await other.registry.annotate("bert", "mine")
    done = await other.restore(directory)
    assert not done.registry and list((await other.registry.read()).state.stages) == ["staging"]
    assert await other.registry.notes() == {"bert": "mine"}
    await house.bus.purge(OURS.stream("registry"), OURS.registry())
    await house.back_up(directory)
    empty = Decided("empty")
    assert (await empty.restore(directory)).registry


@virtual
async def test_a_broker_that_lost_its_registry_takes_no_model_from_the_backup(directory):
    """What was brought in, and what a stage has beyond what its session keeps, is named by no journal: it stays in the
    backup of a broker that came back empty.
    """
    await lost_and_backed_up(directory, begun_anew=False)


@virtual
async def test_nor_does_one_that_was_begun_anew(directory):
    """A coordinator has made a registry, and somebody has brought another model in: both backups' models are kept."""
    await lost_and_backed_up(directory, begun_anew=True)


async def lost_and_backed_up(directory, *, begun_anew):
    """Back up, lose everything, back up again, and look at what comes back to another broker."""
    house = await Decided().open()
    await house.begin("s", versions_kept=2)
    for _ in range(3):
        await house.publish("s")
    await house.bring("bert")
    await house.stage("production", "s-1", "s-1-1")
    await house.registry.annotate("s-1", "the one")
    first = await house.back_up(directory)
    house.broker.wipe()
    await ensure_streams(house.bus, OURS)
    if begun_anew:
        await RegistryStore(house.bus, OURS, "coordinator").reserve()
        await house.bring("another")
    second = await house.back_up(directory)
    kept = {blob.blob for blob in first.contents.blobs}
    assert kept == {"s-1-1", "s-2-1", "s-3-1", "imported-bert"}
    assert {blob.blob for blob in second.contents.blobs} == kept | ({"imported-another"} if begun_anew else set())
    assert not second.contents.skipped
    empty = Decided("empty")
    assert (await empty.restore(directory)).registry
    assert (await empty.registry.read()).state.stages["production"].now.version == "s-1"
    assert await empty.registry.notes() == {"s-1": "the one"}
    for entry in await empty.models.list():
        assert entry.version == "s-0" or await empty.models.is_whole(entry.blob), entry.version
    assert len(await empty.models.list()) == 5 + begun_anew


@virtual
async def test_half_a_model_is_brought_back_whole(directory):
    """A broker that has a model's manifest, and not all of its chunks, is not taken to have it."""
    house = await Decided().open()
    await house.bring("bert")
    await house.back_up(directory)
    await house.bus.purge(OURS.stream("blob"), OURS.blob("imported-bert", 1))
    assert not await house.models.is_whole("imported-bert")
    assert (await house.restore(directory)).blobs == ["imported-bert"]
    assert await house.models.read("imported-bert")


@virtual
async def test_what_was_removed_is_in_no_backup(directory):
    """Neither fetched, nor told as missing, nor kept from an earlier one; the catalogue's entry comes back as it is."""
    house = await Decided().open()
    await house.begin("s")
    for _ in range(3):
        await house.publish("s")
    await house.back_up(directory)
    model = await house.models.find("s-1")
    assert await house.removal.expire(model, "too old") == ""
    taken = await house.back_up(directory)
    assert {blob.blob for blob in taken.contents.blobs} == {"s-0-ab", "s-2-1", "s-3-1"}
    assert taken.contents.skipped == () and not (directory / "blobs" / "s-1-1.blob").exists()
    empty = Decided("empty")
    await empty.restore(directory)
    assert (await empty.models.find("s-1")).removed_why == "eve: too old"


@virtual
async def test_what_was_removed_by_mistake_is_brought_back(directory):
    """A backup from before has it: its arrays and its entry are there again."""
    house = await Decided().open()
    await house.begin("s")
    await house.publish("s")
    await house.back_up(directory)
    assert await house.removal.expire(await house.models.find("s-0"), "a mistake") == ""
    assert (await house.models.find("s-0")).removed_at
    done = await house.restore(directory)
    assert done.blobs == ["s-0-ab"] and not (await house.models.find("s-0")).removed_at
    assert await house.models.read("s-0-ab")
    await house.removal.go_on(Collected())
    assert await house.models.read("s-0-ab"), "the removal is over: nobody goes on with it"


@virtual
async def test_a_restore_that_was_cut_short_before_the_catalogue_is_completed(directory):
    """The arrays were brought back already, so they are there for the next one, and the entry still says removed."""
    house = await Decided().open()
    await house.begin("s")
    await house.publish("s")
    await house.back_up(directory)
    assert await house.removal.expire(await house.models.find("s-0"), "a mistake") == ""

    class CutError(Exception):
        """Cut short."""

    async def cut(contents, done):
        raise CutError

    restore = Restore(house.bus, OURS, Inline(), Archive(directory))
    restore._enter = cut
    with pytest.raises(CutError):
        await restore.restore()
    assert "s-0-ab" in (await house.restore(directory)).blobs_there
    assert not (await house.models.find("s-0")).removed_at


@virtual
async def test_a_workspace_without_a_registry_is_backed_up(directory):
    """One that only an older release has served: its stream is not there yet."""
    house = await House().open()
    await house.begin("s")
    house.broker._streams.pop(OURS.stream("registry"))
    house.bus._ensured.pop(OURS.stream("registry"))
    taken = await house.back_up(directory)
    assert taken.contents.registry == "" and len(taken.contents.blobs) == 1
