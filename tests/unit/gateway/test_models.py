"""Models over REST: lists, files in ranges, imports, stages, what goes; in memory and virtual time."""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager

import numpy as np
import pytest
from asker import ask, gateway_in
from hypothesis import given
from hypothesis import strategies as st
from whole_house import House

from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.config.session import SessionConfig
from fedbus.errors import BusUnavailable
from fedbus.federation.importing import RESERVED
from fedbus.gateway import catalogue
from fedbus.gateway.content import span_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.table import OPERATIONS
from fedbus.messages.records import ModelPublished
from fedbus.tensors import files
from fedbus.tensors.digest import model_digest
from fedbus.testing.loop import run_virtual

API = "/api/v1"
ARRAYS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array([7], np.int64)}
FILE = files.to_bytes(ARRAYS)
MODEL = {"w": np.zeros(3, np.float32)}


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


@asynccontextmanager
async def served(*, session=True, **listening):
    """A gateway in a house, where a session of three rounds has ended: versions s-0 to s-3."""
    house = House()
    async with gateway_in(house, **listening) as gateway:
        if session:
            house.coordinator()
            house.combiner()
            for name in "ab":
                house.client(name, app())
            made = await gateway.federation.start_session(SessionConfig(rounds=3, clients_min=2), model=MODEL, name="s")
            await made.wait()
            await house.settle()
        yield gateway
    for task in house.tasks:
        task.cancel()
    if house.tasks:
        await asyncio.wait(house.tasks)


def scene(test, **fields):
    """Run a coroutine function of a gateway."""

    async def main():
        async with served(**fields) as gateway:

            async def call(method, path, **given):
                return await ask(gateway, method, f"{API}{path}", **given)

            await test(gateway, call)

    run_virtual(main())


async def bring(call, version="bert", body=FILE, **headers):
    """Import a model."""
    given = {"Content-Type": "application/octet-stream", **headers}
    return await call("POST", f"/models?version={version}" if version else "/models", body=body, headers=given)


# --- lists ---


def test_versions_are_listed_newest_first():
    """With stages, notes, metrics and participants; by pages that join without a gap; filtered by each parameter."""

    async def main(gateway, call):
        assert (await bring(call)).status == 201
        await call("PUT", "/stages/production", json={"version": "s-2"})
        await call("PATCH", "/models/s-1", json={"note": "the GOOD one"})
        page = (await call("GET", "/models")).json
        assert [one["version"] for one in page["items"]] == ["bert", "s-3", "s-2", "s-1", "s-0"]
        assert (page["next"], page["total"]) == (None, 5)
        by_name = {one["version"]: one for one in page["items"]}
        assert by_name["s-2"]["stages"] == ["production"] and by_name["s-1"]["note"] == "the GOOD one"
        assert by_name["s-2"]["metrics"] == {"first": 2.0} and by_name["s-2"]["participants"] == 2
        assert (by_name["s-2"]["parent"], by_name["s-2"]["strategy"]) == ("s-1", "fedavg")
        assert (by_name["bert"]["session"], by_name["bert"]["kept"]) == ("", "kept")
        seen, target = [], "/models?limit=2"
        while target:
            page = (await call("GET", target)).json
            seen += [one["version"] for one in page["items"]]
            target = f"/models?limit=2&cursor={page['next']}" if page["next"] else None
        assert seen == ["bert", "s-3", "s-2", "s-1", "s-0"]

        async def names(query):
            return [one["version"] for one in (await call("GET", f"/models?{query}")).json["items"]]

        assert await names("session=s") == ["s-3", "s-2", "s-1", "s-0"] and await names("session=t") == []
        assert await names("stage=production") == ["s-2"] and await names("text=good") == ["s-1"]
        assert await names("kept=removed") == [] and len(await names("kept=kept")) == 5
        for query in ("kept=x", "session=..", "limit=0", "what=1"):
            assert (await call("GET", f"/models?{query}")).status == 422, query

    scene(main)


def test_a_page_of_many_versions_looks_at_no_others():
    """What is not on the page is not made into a view: a page of the newest costs the same whatever the number."""

    async def main():
        house = House()
        async with gateway_in(house) as gateway:
            known = gateway.catalogue
            for number in range(3000):
                entry = ModelPublished(
                    round=number, version=f"s-{number}", parent=f"s-{number - 1}" if number else "", session="s",
                    blob=f"s-{number}-1", digest="ab" * 32, nbytes=1, at=float(number),
                )  # fmt: skip
                known.enter(entry)
            asked = []
            of = known.info

            async def info(entry):
                asked.append(entry.version)
                return await of(entry)

            known.info = info
            page = (await ask(gateway, "GET", f"{API}/models?limit=10")).json
            assert [one["version"] for one in page["items"]] == [f"s-{2999 - at}" for at in range(10)]
            assert len(asked) == 11 and page["total"] == 3000
            page = (await ask(gateway, "GET", f"{API}/models?limit=10&cursor={page['next']}")).json
            assert page["items"][0]["version"] == "s-2989"

    run_virtual(main())


def test_a_version_in_detail():
    """Its arrays, settings, who took part, and what was made of it; one that nobody knows is not found."""

    async def main(gateway, call):
        told = (await call("GET", "/models/s-2")).json
        assert told["arrays"] == [{"name": "w", "dtype": "float32", "shape": [3]}]
        assert (told["clients"], told["children"], told["config"]["rounds"]) == (["a", "b"], ["s-3"], 3)
        first = (await call("GET", "/models/s-0")).json
        assert (first["clients"], first["parent"], first["participants"]) == ([], "", 0)
        await bring(call)
        told = (await call("GET", "/models/bert")).json
        assert (told["session"], told["config"], told["clients"]) == ("", None, [])
        for path in ("/models/nobody", "/models/nobody/content", "/models/nobody/card", "/models/nobody/lineage"):
            assert (await call("GET", path)).status == 404, path
        line = (await call("GET", "/models/s-1/lineage")).json["versions"]
        assert [one["version"] for one in line] == ["s-0", "s-1", "s-2", "s-3"]
        card = await call("GET", "/models/s-2/card")
        assert card.headers["Content-Type"] == "text/markdown; charset=utf-8" and card.body.startswith(b"# s-2\n")

    scene(main)


# --- files ---


def test_a_version_is_downloaded_whole_and_in_ranges():
    """All ranges of a file are those of the file; digest, name and ETag come with it; HEAD sends nothing."""

    async def main(gateway, call):
        await bring(call)
        whole = await call("GET", "/models/bert/content")
        digest = model_digest(ARRAYS)
        assert (whole.status, whole.headers["Fedbus-Digest"]) == (200, f"blake3={digest}")
        assert whole.headers["ETag"] == f'"{digest}"' and whole.headers["Accept-Ranges"] == "bytes"
        assert whole.headers["Content-Disposition"] == 'attachment; filename="bert.safetensors"'
        assert whole.headers["Content-Length"] == str(len(whole.body))
        got = files.from_bytes(whole.body)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(got[name], array)
        size = len(whole.body)
        for asked, start, stop in [
            ("bytes=0-0", 0, 1), ("bytes=0-", 0, size), ("bytes=5-20", 5, 21), ("bytes=-1", size - 1, size),
            (f"bytes=-{size + 9}", 0, size), (f"bytes={size - 3}-{size + 9}", size - 3, size),
            ("bytes=-60", size - 60, size),
        ]:  # fmt: skip
            part = await call("GET", "/models/bert/content", headers={"Range": asked})
            assert part.status == 206 and part.body == whole.body[start:stop], asked
            assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        for asked in (f"bytes={size}-", "bytes=-0"):
            refused = await call("GET", "/models/bert/content", headers={"Range": asked})
            assert (refused.status, refused.headers["Content-Range"]) == (416, f"bytes */{size}")
        for asked in ("bytes=2-1", "bytes=0-1,3-4", "lines=1-2", "bytes=x", "bytes=-"):
            full = await call("GET", "/models/bert/content", headers={"Range": asked})
            assert full.status == 200 and full.body == whole.body, asked
        head = await call("HEAD", "/models/bert/content", headers={"Range": "bytes=0-1"})
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(size))

    scene(main, session=False)


def test_a_download_is_taken_up_only_of_the_same_model():
    """`If-Range` with the model's digest gives the part; with another, or a date, the whole. 304 for who has it."""

    async def main(gateway, call):
        await bring(call)
        tag = (await call("GET", "/models/bert/content")).headers["ETag"]
        for known, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)):
            headers = {"Range": "bytes=1-2", "If-Range": known}
            assert (await call("GET", "/models/bert/content", headers=headers)).status == status, known
        known = await call("GET", "/models/bert/content", headers={"If-None-Match": tag})
        assert (known.status, known.body) == (304, b"")

    scene(main, session=False)


@given(st.integers(1, 50), st.text("0123456789-,= bytes", max_size=20))
def test_no_range_is_outside_of_the_file(size, text):
    """Whatever stands in the header: a part of the file, all of it, or 416."""
    for asked in (text, f"bytes={text}"):
        try:
            span = span_of(asked, size)
        except Refused as refused:
            status = refused.status
        else:
            status = 206 if 0 <= span.start < span.stop <= size else 0
        assert status in (206, 416)


def test_a_model_of_no_bytes_is_a_file_as_well():
    """Its file is a header alone."""

    async def main(gateway, call):
        arrays = {"none": np.zeros((0, 3), np.float32)}
        assert (await bring(call, body=files.to_bytes(arrays))).status == 201
        got = files.from_bytes((await call("GET", "/models/bert/content")).body)
        assert got["none"].shape == (0, 3)

    scene(main, session=False)


def test_a_download_that_fails_midway_is_cut_off(monkeypatch):
    """What is sent has a length: whoever reads it must see that it is not whole."""

    async def main(gateway, call):
        arrays = {"w": np.zeros(500_000, np.float32)}
        await bring(call, body=files.to_bytes(arrays))
        of = gateway.federation.store.chunk

        async def chunk(blob, index):
            if index == 2:
                raise BusUnavailable("away")
            return await of(blob, index)

        monkeypatch.setattr(gateway.federation.store, "chunk", chunk)
        answer = await call("GET", "/models/bert/content")
        assert 0 < len(answer.body) < int(answer.headers["Content-Length"])

    scene(main, session=False)


# --- imports ---


def test_a_model_is_imported_once_under_a_key():
    """The answer says where it is; a repeat under the key is the same answer, with another model it is refused."""

    async def main(gateway, call):
        first = await bring(call, **{"Idempotency-Key": "k"})
        assert (first.status, first.headers["Location"]) == (201, f"{API}/models/bert")
        assert first.json["digest"] == model_digest(ARRAYS)
        again = await bring(call, **{"Idempotency-Key": "k"})
        assert (again.status, again.json) == (201, first.json)
        other = await bring(call, body=files.to_bytes(MODEL), **{"Idempotency-Key": "k"})
        assert other.status == 422 and "under this key" in other.json["detail"]
        taken = await bring(call)
        assert (taken.status, taken.json["state"]) == (409, "taken")
        unnamed = await bring(call, None, **{"Idempotency-Key": "j"})
        same = await bring(call, None, **{"Idempotency-Key": "j"})
        assert unnamed.status == 201 and unnamed.json["version"] == same.json["version"] != "bert"
        assert (await bring(call, None)).json["version"] != unnamed.json["version"]

    scene(main, session=False)


def test_what_cannot_be_imported():
    """No model, a name of a session, too large, all places taken: the status says which, and nothing stays."""

    async def main(gateway, call):
        assert (await bring(call, body=b"hello, world")).status == 422
        assert (await bring(call, body=FILE[:-1])).status == 422
        assert (await bring(call, "s-1")).status == 422
        assert (await bring(call, "a.b")).status == 422
        refused = await bring(call, "collect")
        assert refused.status == 422 and "the address of something else" in refused.json["detail"]
        large = await bring(call, body=FILE + b"x" * 1000)
        assert large.status == 413
        npz = io.BytesIO()
        np.savez(npz, w=np.array([{}]))
        assert (await bring(call, body=npz.getvalue())).status == 422
        for _ in range(catalogue.IMPORTS_AT_ONCE):
            await gateway.catalogue.importing.acquire()
        busy = await bring(call)
        assert (busy.status, busy.headers["Retry-After"]) == (503, "5")
        stream, pattern = gateway.federation.subjects.stream("blob"), gateway.federation.subjects.blob()
        assert await gateway.federation.bus.pending(stream, pattern) == 0
        assert (await call("GET", "/models")).json["items"] == []

    scene(main, session=False, import_bytes_max=1000)


def test_no_version_is_named_like_a_path_beside_those_of_versions():
    """Every word that stands in a path where a version may is refused as a name at import."""
    beside = {
        one.path.removeprefix(f"{API}/models/").split("/")[0] for one in OPERATIONS if f"{API}/models/" in one.path
    }
    assert beside - {"{version}"} == RESERVED


# --- stages, and what goes ---


def test_stages_over_rest():
    """Promote, show, list, roll back, clear; each conflict says in which state things are."""

    async def main(gateway, call):
        assert (await call("PUT", "/stages/live", json={"version": "s-1", "reason": "r"})).status == 200
        stage = (await call("PUT", "/stages/live", json={"version": "s-2"})).json
        assert (stage["version"], stage["by"], stage["before"]) == ("s-2", "gateway/gw", ["s-1"])
        assert (await call("GET", "/stages/live")).json == stage
        assert [one["stage"] for one in (await call("GET", "/stages")).json["items"]] == ["live"]
        assert (await call("POST", "/stages/live/rollback")).json["version"] == "s-1"
        refused = await call("POST", "/stages/live/rollback", json={"reason": "more"})
        assert (refused.status, refused.json["state"]) == (409, "s-1")
        assert (await call("PUT", "/stages/live", json={"version": "s-9"})).status == 404
        assert (await call("PUT", "/stages/live", json={"version": "a b"})).status == 422
        assert (await call("PUT", "/stages/live", json={"version": "s-1", "reason": "x" * 201})).status == 422
        needed = await call("DELETE", "/models/s-1")
        assert (needed.status, needed.json["state"]) == (409, "referenced") and "stage live" in needed.json["detail"]
        assert (await call("DELETE", "/stages/live")).json["version"] == "s-1"
        for method, path in (("GET", "/stages/live"), ("DELETE", "/stages/live"), ("POST", "/stages/live/rollback")):
            assert (await call(method, path)).status == 404
        assert (await call("GET", "/models/s-1")).json["stages"] == []

    scene(main)


def test_removal_and_retention_over_rest():
    """A version is retired, then gone, with the reason; a collection says what goes and why other versions stay."""

    async def main(gateway, call):
        gone = await call("DELETE", "/models/s-1?reason=too%20old&grace_s=60")
        assert (gone.status, gone.json["kept"]) == (200, "retired")
        refused = await call("PUT", "/stages/live", json={"version": "s-1"})
        assert (refused.status, refused.json["state"]) == (409, "retired")
        await asyncio.sleep(130)
        told = (await call("GET", "/models/s-1")).json
        assert (told["kept"], told["removed_why"], told["arrays"]) == ("removed", "gateway/gw: too old", [])
        assert [one["version"] for one in (await call("GET", "/models?kept=removed")).json["items"]] == ["s-1"]
        content = await call("GET", "/models/s-1/content")
        assert content.status == 404 and "too old" in content.json["detail"]
        assert (await call("GET", "/retention")).json == {"keep_last": None}
        assert (await call("PUT", "/retention", json={"keep_last": 1})).json == {"keep_last": 1}
        for bad in (0, -1, "x", 1.5):
            assert (await call("PUT", "/retention", json={"keep_last": bad})).status == 422
        await call("PUT", "/stages/live", json={"version": "s-2"})
        plan = (await call("POST", "/models/collect?dry_run=true")).json
        assert (plan["dry_run"], plan["removed"], plan["kept"]) == (True, ["s-0"], {"s-2": "stage live"})
        assert (await call("GET", "/models/s-0")).json["kept"] == "kept"
        done = (await call("POST", "/models/collect?grace_s=0")).json
        assert (done["removed"], done["nbytes"]) == (["s-0"], 12)
        kept = [one["version"] for one in (await call("GET", "/models?kept=kept")).json["items"]]
        assert kept == ["s-3", "s-2"]
        assert (await call("POST", "/models/collect?grace_s=-1")).status == 422
        assert (await call("PATCH", "/models/s-2", json={"note": "x" * 10_001})).status == 422

    scene(main)


@pytest.mark.parametrize("stream", ["model", "registry"])
def test_a_list_follows_what_others_change(stream):
    """What another gateway, or the command line, has changed is shown here."""

    async def main(gateway, call):
        await bring(call)
        async with House.federation(
            type("Of", (), {"broker": gateway.federation.bus._broker, "clock": gateway.clock})()
        ) as other:
            if stream == "model":
                await other.registry.import_model(MODEL, "second")
            else:
                await other.registry.promote("bert", "live")
                await other.registry.annotate("bert", "by eve")
        await asyncio.sleep(1)
        items = (await call("GET", "/models")).json["items"]
        if stream == "model":
            assert [one["version"] for one in items] == ["second", "bert"]
        else:
            assert (items[0]["stages"], items[0]["note"]) == (["live"], "by eve")

    scene(main, session=False)
