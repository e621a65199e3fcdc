"""The registry as an engineer uses it: stages, imports, removal, lineage, cards; in a whole house in memory."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest
from whole_house import MODEL, in_house

from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, BusUnavailable, ConfigError, Conflict, NotFound
from fedbus.messages.registry import HELD_MAX
from fedbus.tensors import files
from fedbus.tensors.digest import model_digest

ARRAYS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array([7], np.int64)}


def app():
    """An app that adds one."""
    made = ClientApp()

    @made.train
    async def train(model, task):
        return Update({"w": model["w"] + 1}, weight=1.0, metrics={"loss": 1.0})

    @made.evaluate
    async def evaluate(model, task):
        return Evaluation(1.0, {"first": float(model["w"][0])})

    return made


async def trained(house, federation, name="s", rounds=3, **config):
    """Run a session of two clients to its end; its versions are NAME-0 to NAME-ROUNDS."""
    for client in ("a", "b"):
        if client not in house.clients:
            house.client(client, app())
    model = config.pop("model", MODEL)
    session = await federation.start_session(
        SessionConfig(rounds=rounds, clients_min=2, **config), model=model, name=name
    )
    await session.wait()
    await house.settle()


def pieces(data, size=1000):
    """The bytes of a file as they come."""

    async def coming():
        for at in range(0, len(data), size):
            await asyncio.sleep(0)
            yield data[at : at + size]

    return coming()


def npz(arrays):
    """The bytes of an npz file."""
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


async def nothing_stays(federation):
    """No blob of an import is stored, and none is noted as coming."""
    stream, pattern = federation.subjects.stream("blob"), federation.subjects.blob()
    assert await federation.bus.pending(stream, pattern) == 0
    assert (await federation.registry.store.read()).state.imports == ()


# --- stages ---


def test_a_stage_has_a_version_and_goes_back():
    """Promotions stack up, a roll back goes down one by one, and what is there says who did it and why."""

    async def main(house, federation):
        await trained(house, federation)
        registry = federation.registry
        assert await registry.stages() == []
        for number in (1, 2, 3):
            await registry.promote(f"s-{number}", "production", reason=f"because {number}")
        stage = await registry.stage("production")
        assert (stage.version, stage.by, stage.reason, stage.before) == ("s-3", "eve", "because 3", ("s-2", "s-1"))
        assert await registry.promote("s-3", "production", "again") == stage
        assert (await registry.find("s-3")).stages == ("production",)
        assert await registry.resolve("@production") == "s-3"
        back = await registry.rollback("production", "it is slow")
        assert (back.version, back.before) == ("s-2", ("s-1",))
        assert back.reason == "rolled back from s-3: it is slow"
        assert (await registry.rollback("production")).version == "s-1"
        with pytest.raises(Conflict, match="no version before s-1") as caught:
            await registry.rollback("production")
        assert caught.value.state == "s-1"
        assert (await registry.clear("production")).version == "s-1"
        assert await registry.stages() == []
        for refused in (registry.stage("production"), registry.rollback("production"), registry.clear("production")):
            with pytest.raises(NotFound, match="none of this name"):
                await refused
        changes = [revision.what for revision in await registry.history() if revision.by == "eve"]
        assert changes[0] == "promoted s-1 to production" and changes[-1] == "cleared production"

    in_house(main)


def test_a_stage_remembers_so_many_versions():
    """A stage's history is bounded; what falls out of it is neither shown nor protected."""

    async def main(house, federation):
        registry = federation.registry
        for number in range(HELD_MAX + 3):
            await registry.import_model(ARRAYS, f"v{number}a")
            await registry.promote(f"v{number}a", "live")
        stage = await registry.stage("live")
        assert len(stage.before) == HELD_MAX - 1 and stage.before[-1] == "v3a"

    in_house(main)


def test_what_cannot_be_promoted():
    """No such version, a bad name, a version that is being removed or is gone: each is said, and changes nothing."""

    async def main(house, federation):
        await trained(house, federation)
        registry = federation.registry
        with pytest.raises(NotFound, match="no such version"):
            await registry.promote("s-9", "production")
        with pytest.raises(ConfigError, match="stage"):
            await registry.promote("s-1", "../x")
        with pytest.raises(ConfigError, match="reason"):
            await registry.promote("s-1", "production", "x" * 201)
        await registry.remove("s-1", "no good", grace_s=60)
        with pytest.raises(Conflict, match="is being removed, by eve: no good") as caught:
            await registry.promote("s-1", "production")
        assert caught.value.state == "retired"
        with pytest.raises(Conflict, match="is being removed"):
            await federation.start_session(SessionConfig(), model="s-1", name="t")
        await asyncio.sleep(130)  # the coordinator looks each minute
        with pytest.raises(Conflict, match="were removed") as caught:
            await registry.promote("s-1", "production")
        assert caught.value.state == "removed"
        with pytest.raises(NotFound, match=r"s-1: its arrays were removed at .* UTC: eve: no good"):
            await federation.models.get("s-1")
        assert await registry.stages() == []
        info = await registry.find("s-1")
        assert (info.kept, info.removed_why) == ("removed", "eve: no good")

    in_house(main)


def test_a_roll_back_to_what_is_gone_is_refused():
    """Only the version before is protected: one further down may be gone when it is its turn."""

    async def main(house, federation):
        await trained(house, federation)
        registry = federation.registry
        for version in ("s-0", "s-1", "s-2"):
            await registry.promote(version, "live")
        with pytest.raises(Conflict, match="stage live would be rolled back to it"):
            await registry.remove("s-1", grace_s=0)
        await registry.remove("s-0", grace_s=0)
        await registry.rollback("live")
        with pytest.raises(Conflict, match="were removed"):
            await registry.rollback("live")
        assert (await registry.stage("live")).version == "s-1"

    in_house(main)


# --- what comes in ---


@pytest.mark.parametrize("form", ["safetensors", "npz", "arrays", "file"])
def test_a_model_is_brought_in(form, tmp_path):
    """Whatever it comes as, it has the digest of its bytes, can be read, and is shown as nobody's session's."""

    async def main(house, federation):
        source = {
            "safetensors": lambda: pieces(files.to_bytes(ARRAYS), 7),
            "npz": lambda: pieces(npz(ARRAYS)),
            "arrays": lambda: ARRAYS,
            "file": lambda: tmp_path / "model.safetensors",
        }[form]()
        files.write(tmp_path / "model.safetensors", ARRAYS)
        info = await federation.registry.import_model(source, "bert", "from the shop")
        assert (info.version, info.session, info.kept, info.note) == ("bert", "", "kept", "from the shop")
        assert info.digest == model_digest(ARRAYS)
        got = await federation.models.get("bert")
        assert list(got) == ["w", "n"]
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(got[name], array)
        assert (await federation.registry.store.read()).state.imports == ()

    in_house(main)


def test_a_large_model_is_brought_in_by_chunks():
    """Of many chunks each is stored as it comes; magnitudes and digests are those of the model at once."""
    rng = np.random.default_rng(0)
    arrays = {f"layer.{i}": rng.normal(size=(300, 1000)).astype(np.float32) for i in range(3)}
    arrays["odd"] = np.arange(5, dtype=np.int8)
    arrays["c"] = np.array([1 + 2j, -3j], np.complex64)

    async def main(house, federation):
        data = files.to_bytes(arrays)
        info = await federation.registry.import_model(pieces(data, 100_003), "big")
        same = await federation.store.put("beside", arrays)
        manifest = await federation.store.manifest(info.blob)
        assert manifest == same
        got = await federation.models.get("big")
        np.testing.assert_array_equal(got["c"], arrays["c"])
        fortran = {"w": np.asfortranarray(arrays["layer.0"]), "b": arrays["layer.1"].astype(">f4")}
        info = await federation.registry.import_model(pieces(npz(fortran), 99_991), "f")
        assert info.digest == model_digest(fortran)

    in_house(main)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends within its header"),
        (b"\x00" * 4, "ends within its header"),
        (b"\xff" * 64, "a header of"),
        (b"\x02\0\0\0\0\0\0\0{}", "no arrays"),
        (b"\x02\0\0\0\0\0\0\0[]", "a header"),
        (b"\x03\0\0\0\0\0\0\0{{}", "a header"),
        (files.to_bytes(ARRAYS)[:-1], "did not come"),
        (files.to_bytes(ARRAYS) + b"x", "more came"),
        (npz(ARRAYS)[:-30], "npz"),
        (npz({"w": np.array([1, 2])}).replace(b"w.npy", b"w.txt"), "expected|not an"),
    ],
)
def test_what_is_no_model_is_refused_whole(data, says):
    """The reason says what is wrong, and nothing of it stays."""

    async def main(house, federation):
        if b"w.txt" in data:
            await federation.registry.import_model(pieces(data), "v")
            return
        with pytest.raises(ConfigError, match=says):
            await federation.registry.import_model(pieces(data), "v")
        await nothing_stays(federation)
        with pytest.raises(NotFound):
            await federation.registry.find("v")

    in_house(main)


def header_of(**entries):
    """A safetensors file with a header of these entries, and no data."""
    import json

    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}, "'BF16', which numpy has not"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "back to back"),
        ({"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}, "at most"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "shape of integers"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "back to back"),
        ({"dtype": "F32", "shape": [1], "data_offsets": "04"}, "back to back"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "a header"),
        ("F32", "a header"),
    ],
)
def test_a_header_that_lies_is_refused(entry, says):
    """Before any data is taken: dtypes that numpy has not, holes, sizes beyond all bounds, values of other types."""

    async def main(house, federation):
        with pytest.raises(ConfigError, match=says):
            await federation.registry.import_model(pieces(header_of(w=entry) + b"\0" * 8), "v")
        await nothing_stays(federation)

    in_house(main, roles=False)


@pytest.mark.parametrize("version", ["s-1", "x-0009", "a" * 41, "a.b", "", "ä"])
def test_names_that_a_model_cannot_come_under(version):
    """Those that a session's version may have one day, those that are too long, and what is no name."""

    async def main(house, federation):
        with pytest.raises(ConfigError, match="model version"):
            await federation.registry.import_model(ARRAYS, version)
        await nothing_stays(federation)

    in_house(main, roles=False)


def test_a_name_is_given_once():
    """A second model of a name is refused, also where both come at the same time; the first one stays."""

    async def main(house, federation):
        registry = federation.registry
        await registry.import_model(ARRAYS, "v")
        with pytest.raises(Conflict, match="there is a version of this name") as caught:
            await registry.import_model(MODEL, "v")
        assert caught.value.state == "taken"
        both = await asyncio.gather(
            *(registry.import_model(pieces(files.to_bytes({"w": np.full(9, n)}), 5), "t") for n in range(3)),
            return_exceptions=True,
        )
        assert sum(isinstance(one, Conflict) for one in both) == 2
        assert (await registry.store.read()).state.imports == ()
        with pytest.raises(ConfigError, match="stands for versions"):
            await federation.start_session(SessionConfig(), model="v", name="imported")

    in_house(main, roles=False)


def test_a_repeat_under_a_key_finds_what_the_first_has_made():
    """The same key and model: the first's version. Another model: refused, and nothing of it stays."""

    async def main(house, federation):
        registry = federation.registry
        first = await registry.import_model(pieces(files.to_bytes(ARRAYS)), "v", key="k1")
        assert await registry.import_model(pieces(npz(ARRAYS)), "v", key="k1") == first
        with pytest.raises(ConfigError, match="another model was brought in under this key"):
            await registry.import_model(pieces(files.to_bytes(MODEL)), "v", key="k1")
        with pytest.raises(Conflict):
            await registry.import_model(pieces(files.to_bytes(ARRAYS)), "v", key="k2")
        with pytest.raises(Conflict):
            await registry.import_model(pieces(files.to_bytes(ARRAYS)), "v")
        assert [model.version for model in await federation.models.list()] == ["v"]

    in_house(main, roles=False)


def test_an_import_that_is_given_up_leaves_nothing():
    """Cancelled between two pieces, of which chunks were stored already."""

    async def main(house, federation):
        data = files.to_bytes({"w": np.zeros(1_000_000, np.float32)})

        async def half():
            yield data[: len(data) // 2]
            await asyncio.sleep(1e9)

        task = asyncio.create_task(federation.registry.import_model(half(), "v"))
        await asyncio.sleep(5)
        stream, pattern = federation.subjects.stream("blob"), federation.subjects.blob()
        assert await federation.bus.pending(stream, pattern) > 0
        assert [one.version for one in (await federation.registry.store.read()).state.imports] == ["v"]
        task.cancel()
        await asyncio.wait([task])
        await nothing_stays(federation)

    in_house(main, roles=False)


@pytest.mark.parametrize("fate", ["stored", "taken", "unknown"])
def test_an_import_that_is_given_up_while_it_is_named(fate, monkeypatch):
    """Cancelled while its entry is on its way to the catalogue: it is a version with its arrays, or nothing of it
    stays; where nobody knows, it stays as it is and noted, so that a collection can tell.
    """

    async def main(house, federation):
        store, enter = federation.store, federation.store.enter_first

        async def slowly(entry):
            await asyncio.sleep(2)
            if fate == "unknown":
                await enter(entry)
                raise BusUnavailable("no answer")
            if fate == "taken":
                raise Conflict("there is a version of this name")
            await enter(entry)

        monkeypatch.setattr(store, "enter_first", slowly)
        arrays = {"w": np.zeros(100_000, np.float32)}
        task = asyncio.create_task(federation.registry.import_model(arrays, "v"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        if fate == "taken":
            await nothing_stays(federation)
            return
        assert (await federation.models.get("v"))["w"].shape == (100_000,)
        left = (await federation.registry.store.read()).state.imports
        assert [one.version for one in left] == (["v"] if fate == "unknown" else [])
        federation.registry.store.clock = type("Later", (), {"now": staticmethod(lambda: house.clock.now() + 90_000)})()
        assert (await federation.registry.collect()).imports == ()
        assert (await federation.registry.store.read()).state.imports == ()
        assert (await federation.models.get("v"))["w"].shape == (100_000,)

    in_house(main, roles=False)


def test_an_import_that_takes_a_day_is_refused():
    """It is taken for dead by then, and its chunks may be gone: no version is named that lacks some."""

    async def main(house, federation):
        data = files.to_bytes({"w": np.zeros(200_000, np.float32)})

        async def slowly():
            yield data[:400_000]
            federation.registry.store.clock = type(
                "Later", (), {"now": staticmethod(lambda: house.clock.now() + 83_000)}
            )()
            yield data[400_000:]

        with pytest.raises(Conflict, match="begin again"):
            await federation.registry.import_model(slowly(), "v")
        await nothing_stays(federation)

    in_house(main, roles=False)


def test_what_is_packed_counts_as_it_is():
    """A small npz file may hold a thousand times its bytes: the bound is of the arrays, before any of them is read."""

    async def main(house, federation):
        data = npz({"w": np.zeros(1_000_000, np.float32)})
        assert len(data) < 10_000
        with pytest.raises(ConfigError, match="at most 100000 bytes, got 4000000"):
            await federation.registry.import_model(pieces(data), "v", nbytes_max=100_000)
        await nothing_stays(federation)
        await federation.registry.import_model(pieces(data), "v", nbytes_max=4_000_000)

    in_house(main, roles=False)


def test_what_a_process_that_died_left_of_an_import_is_cleared_away():
    """A day later a collection removes it, and not before."""

    async def main(house, federation):
        data = files.to_bytes({"w": np.zeros(1_000_000, np.float32)})

        async def half():
            yield data[: len(data) // 2]
            await asyncio.sleep(1e9)

        async with house.federation() as other:
            task = asyncio.create_task(other.registry.import_model(half(), "v"))
            await asyncio.sleep(5)
            other.bus.kill()
            task.cancel()
            await asyncio.wait([task])
        stream, pattern = federation.subjects.stream("blob"), federation.subjects.blob()
        left = await federation.bus.pending(stream, pattern)
        assert left and (await federation.registry.collect()).imports == ()
        assert await federation.bus.pending(stream, pattern) == left
        federation.registry.store.clock = type("Later", (), {"now": staticmethod(lambda: house.clock.now() + 90_000)})()
        assert (await federation.registry.collect()).imports == ("v",)
        await nothing_stays(federation)

    in_house(main, roles=False)


# --- what goes ---


def test_retention_keeps_the_newest_and_what_is_referenced():
    """A collection removes the others, of which a dry run tells; the catalogue says when and why."""

    async def main(house, federation):
        registry = federation.registry
        await trained(house, federation, rounds=5)
        await registry.import_model(ARRAYS, "bert")
        await registry.promote("s-1", "production")
        assert (await registry.collect(grace_s=0)).removed == ()
        await registry.set_retention(2)
        assert await registry.retention() == 2
        dry = await registry.collect(dry_run=True)
        assert (dry.dry_run, dry.removed, dry.nbytes) == (True, ("s-0", "s-2", "s-3"), 36)
        assert dry.kept == {"s-1": "stage production"}
        later = await registry.collect(grace_s=60)
        assert (later.removed, later.retired) == ((), ("s-0", "s-2", "s-3"))
        assert {info.version: info.kept for info in await registry.versions()}["s-2"] == "retired"
        done = await registry.collect(grace_s=0)
        assert (done.removed, done.retired) == ((), ()), "their grace is not over"
        await asyncio.sleep(130)
        kept = {info.version: info.kept for info in await registry.versions()}
        assert {version for version, where in kept.items() if where == "removed"} == {"s-0", "s-2", "s-3"}
        for version in ("s-1", "s-4", "s-5", "bert"):
            assert kept[version] == "kept" and await federation.models.get(version)
        assert [info.version for info in await registry.versions(kept="removed")] == ["s-0", "s-2", "s-3"]
        assert (await registry.collect(grace_s=0)).removed == ()
        await registry.clear("production")
        assert (await registry.collect(grace_s=0)).removed == ("s-1",)

    in_house(main)


def test_what_is_needed_is_not_removed():
    """The newest version of a session that runs, its best one, what an evaluation or a start asks for."""

    async def main(house, federation):
        registry = federation.registry
        await trained(house, federation, best_metric="min first")
        with pytest.raises(Conflict, match="the best version of session s") as caught:
            await registry.remove("s-1", grace_s=0)
        assert caught.value.state == "referenced"
        house.client("slow", app())
        session = await federation.start_session(SessionConfig(rounds=2, clients_min=9), model=MODEL, name="t")
        with pytest.raises(Conflict, match="newest version of session t"):
            await registry.remove("t-0", grace_s=0)
        other = await federation.start_session(SessionConfig(rounds=0, clients_min=9), model="s-2", name="e")
        with pytest.raises(Conflict, match="session e evaluates it"):
            await registry.remove("s-2", grace_s=0)
        for one in (session, other):
            await one.stop()
            await one.wait()
        assert (await registry.remove("s-2", grace_s=0)).kept == "removed"

    in_house(main)


def test_an_expiry_respects_stages():
    """What `versions_kept` of a session would let go stays where a stage has it, and goes with the next collection."""

    async def main(house, federation):
        registry = federation.registry
        house.client("a", app())
        house.client("b", app())
        config = SessionConfig(rounds=6, clients_min=2, versions_kept=2)
        session = await federation.start_session(config, model=MODEL, name="s")
        async for event in session.events():
            if event.kind == "RoundClosed" and event.data.round == 1:
                await registry.promote("s-1", "production")
        await house.settle()
        kept = {info.version: info.kept for info in await registry.versions()}
        assert [version for version, where in kept.items() if where == "kept"] == ["s-1", "s-5", "s-6"]
        assert await federation.models.get("s-1")
        gone = await registry.find("s-2")
        assert gone.removed_why == "coordinator/co: its session keeps the newest versions only"
        assert (await registry.collect(grace_s=0)).kept == {"s-1": "stage production"}
        await registry.clear("production")
        assert (await registry.collect(grace_s=0)).removed == ("s-1",)

    in_house(main)


# --- what is told ---


def test_lineage_goes_over_sessions():
    """A session that goes on from another's version has it as its first version's parent."""

    async def main(house, federation):
        registry = federation.registry
        await registry.import_model(MODEL, "seed", "the first")
        await trained(house, federation, "one", 2, model="seed")
        await registry.promote("one-1", "base")
        await trained(house, federation, "two", 1, model="@base")
        line = await registry.lineage("one-1")
        assert [(info.version, info.parent) for info in line] == [
            ("seed", ""),
            ("one-0", "seed"),
            ("one-1", "one-0"),
            ("one-2", "one-1"),
            ("two-0", "one-1"),
            ("two-1", "two-0"),
        ]
        detail = await registry.describe("one-1")
        assert (detail.children, detail.clients, detail.info.participants) == (("one-2", "two-0"), ("a", "b"), 2)
        assert detail.config.rounds == 2 and detail.info.metrics == {"first": 1.0}
        assert [array.name for array in detail.arrays] == ["w"]
        assert [info.version for info in await registry.lineage("seed")][:2] == ["seed", "one-0"]
        with pytest.raises(NotFound):
            await registry.lineage("three-1")

    in_house(main)


def test_lists_are_filtered():
    """By session, stage, text of name or note, and where the arrays are."""

    async def main(house, federation):
        registry = federation.registry
        await trained(house, federation, rounds=1)
        await registry.import_model(ARRAYS, "bert")
        await registry.annotate("s-1", "the GOOD one")
        await registry.promote("s-1", "live")

        async def names(**given):
            return [info.version for info in await registry.versions(**given)]

        assert await names() == ["s-0", "s-1", "bert"]
        assert await names(session="s") == ["s-0", "s-1"]
        assert await names(stage="live") == ["s-1"] and await names(stage="no") == []
        assert await names(text="good") == ["s-1"] and await names(text="BER") == ["bert"]
        assert await names(kept="removed") == []
        assert (await registry.annotate("s-1", "")).note == ""
        with pytest.raises(ConfigError, match="note"):
            await registry.annotate("s-1", "x" * 10_001)
        with pytest.raises(NotFound):
            await registry.annotate("nobody", "x")

    in_house(main)


def test_a_card_tells_and_escapes():
    """What it is, how it was made and measured; a note that would be a heading, a link or a tag is shown as text."""

    async def main(house, federation):
        registry = federation.registry
        await trained(house, federation)
        hostile = "# hi\n<script>alert(1)</script> [x](javascript:1) | `c`"
        await registry.annotate("s-2", hostile)
        await registry.promote("s-2", "production")
        card = await registry.card("s-2")
        assert card.startswith("# s-2\n") and (await registry.find("s-2")).digest in card
        assert "made in round 2 of session s, of 2 clients' updates" in card
        for part in (
            "| stages | production |",
            "| 2 | 2 |",
            "s-1 (session s, round 1)",
            "a, b",
            "## Arrays",
            "models.get",
        ):
            assert part in card, part
        assert "| first | 2 | 2 / 2 / 2 | 2 |" in card
        assert "<script" not in card and "](javascript" not in card and "> \\# hi" in card
        await registry.import_model({"<b>|`x": np.zeros(2, np.float32)}, "odd")
        odd = await registry.card("odd")
        assert "brought into workspace default" in odd and "<b>" not in odd and "&lt;b\\>\\|\\`x" in odd

    in_house(main)


def test_a_damaged_registry_is_read_as_far_as_it_is_good():
    """What somebody without business there has written is passed over; the next change goes behind it."""

    async def main(house, federation):
        registry = federation.registry
        await registry.import_model(ARRAYS, "v")
        await registry.promote("v", "live")
        bus, subjects = federation.bus, federation.subjects
        await bus.append(subjects.stream("registry"), subjects.registry_state(), b"garbage")
        assert (await registry.stage("live")).version == "v"
        await registry.import_model(MODEL, "w")
        assert (await registry.promote("w", "live")).before == ("v",)
        await bus.append(subjects.stream("registry"), subjects.registry_note("v"), b"garbage")
        with pytest.raises(BadMessage):
            await registry.store.note("v")

    in_house(main, roles=False)
