"""Models through a gateway and a real broker: large ones in and out, stages, what is kept, sessions from imports."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json

import aiohttp
import numpy as np
from blake3 import blake3

import fedbus
from fedbus.errors import Conflict
from fedbus.federation.service import Federation
from fedbus.tensors import files
from fedbus.tensors.digest import model_digest

API = "/api/v1"
MODEL = {"w": np.zeros(4, np.float32)}
CONFIG = {"rounds": 2, "clients_min": 2, "evaluate_every": 0}
BINARY = {"Content-Type": "application/octet-stream"}


@contextlib.asynccontextmanager
async def asking(url):
    """Ask a gateway: ``await ask(method, path, ...)`` gives (status, headers, body), JSON where it is some."""
    async with aiohttp.ClientSession(url) as http:

        async def ask(method, path, **how):
            async with http.request(method, f"{API}{path}", **how) as answer:
                body = await answer.read()
                plain = answer.content_type.endswith("json")
                return answer.status, answer.headers, json.loads(body) if plain else body

        yield ask


async def stored(federation):
    """How many messages of blobs are stored."""
    return await federation.bus.pending(federation.subjects.stream("blob"), federation.subjects.blob())


async def test_a_large_model_goes_in_and_comes_out_in_ranges(house):
    """45 MB, sent in pieces and fetched in ranges of odd sizes, are the same bytes, with the digest that is told."""
    arrays = {f"layer.{n}": np.random.default_rng(n).normal(size=(1500, 1000)).astype(np.float32) for n in range(7)}
    arrays["odd"] = np.arange(3_000_001, dtype=np.uint8)
    data = files.to_bytes(arrays)
    assert len(data) > 45_000_000
    await house.operate()
    url = await house.gateway()

    async def pieces():
        for at in range(0, len(data), 700_001):
            yield data[at : at + 700_001]

    async with asking(url) as ask:
        status, headers, made = await ask("POST", "/models?version=big", data=pieces(), headers=BINARY)
        assert (status, made["digest"], headers["Location"]) == (201, model_digest(arrays), f"{API}/models/big")
        status, headers, _ = await ask("HEAD", "/models/big/content")
        size, tag = int(headers["Content-Length"]), headers["ETag"]
        assert headers["Fedbus-Digest"] == f"blake3={made['digest']}"
        got = bytearray()
        while len(got) < size:
            asked = {"Range": f"bytes={len(got)}-{len(got) + 7_654_320}", "If-Range": tag}
            status, headers, part = await ask("GET", "/models/big/content", headers=asked)
            assert status == 206 and headers["Content-Range"].startswith(f"bytes {len(got)}-")
            got += part
        assert len(got) == size and blake3(got[-made["nbytes"] :]).hexdigest() == made["digest"]
        whole = (await ask("GET", "/models/big/content"))[2]
        assert whole == got
        loaded = files.from_bytes(whole)
        assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())


async def test_an_upload_that_breaks_off_leaves_nothing(house, eventually):
    """The line is cut in the middle: neither chunks nor a version stay, and the name is free."""
    await house.operate()
    url = await house.gateway()
    data = files.to_bytes({"w": np.ones(2_000_000, np.float32)})
    host, port = url.removeprefix("http://").split(":")
    async with fedbus.connect(house.url) as federation:
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {API}/models?version=half HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n"
        writer.write(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode())
        writer.write(data[: len(data) // 2])
        await writer.drain()
        await eventually(lambda: stored(federation))
        writer.transport.abort()

        async def nothing():
            state = (await federation.registry.store.read()).state
            return not await stored(federation) and not state.imports

        await eventually(nothing)
        async with asking(url) as ask:
            assert (await ask("POST", "/models?version=half", data=io.BytesIO(data), headers=BINARY))[0] == 201


async def test_a_session_goes_on_from_an_import_and_its_versions_are_kept_by_stages(house, make_app):
    """An .npz becomes a version, a session, a second one from its result: one lineage; what was promoted, rolled back
    and collected is there, the rest is gone.
    """
    await house.operate()
    url = await house.gateway()
    for number in range(2):
        await house.client(f"site-{number}", make_app(0.5))
    await house.present(2)
    out = io.BytesIO()
    np.savez(out, **MODEL)
    async with asking(url) as ask, fedbus.connect(house.url) as federation:
        assert (await ask("POST", "/models?version=seed", data=out.getvalue(), headers=BINARY))[0] == 201
        for name, model in (("one", "seed"), ("two", "@live")):
            session = await federation.start_session(fedbus.SessionConfig(**CONFIG), model=model, name=name)
            async with asyncio.timeout(60):
                await session.wait()
            if name == "one":
                await federation.registry.promote("one-2", "live")
        _, _, line = await ask("GET", "/models/two-2/lineage")
        made_from = {one["version"]: one["parent"] for one in line["versions"]}
        assert list(made_from) == ["seed", "one-0", "one-1", "one-2", "two-0", "two-1", "two-2"]
        assert (made_from["one-0"], made_from["two-0"]) == ("seed", "one-2")
        for version in ("one-1", "two-1"):
            assert (await ask("PUT", "/stages/production", json={"version": version}))[0] == 200
        assert (await ask("POST", "/stages/production/rollback"))[2]["version"] == "one-1"
        await ask("PUT", "/retention", json={"keep_last": 1})
        _, _, done = await ask("POST", "/models/collect?grace_s=0")
        assert sorted(done["removed"]) == ["one-0", "two-0", "two-1"]
        assert done["kept"] == {"one-1": "stage production"}
        np.testing.assert_array_equal((await federation.models.get("one-1"))["w"], np.full(4, 0.5, np.float32))
        status, _, problem = await ask("GET", "/models/two-1/content")
        assert status == 404 and "beyond what is kept" in problem["detail"]
        _, _, card = await ask("GET", "/models/two-2/card")
        assert b"made in round 2 of session two" in card


async def test_promotions_and_collections_that_meet_on_a_broker(house):
    """Many of both at once, from several connections: what a stage has is there, and what is gone no stage has."""
    await house.operate()
    async with fedbus.connect(house.url) as owner, contextlib.AsyncExitStack() as stack:
        for number in range(12):
            await owner.registry.import_model(MODEL, f"v{number}a")
        others = [await stack.enter_async_context(fedbus.connect(house.url, name=f"e{n}")) for n in range(4)]

        async def promote(federation: Federation, number):
            await federation.registry.promote(f"v{number}a", f"stage-{number}")

        async def remove(federation: Federation, number):
            await federation.registry.remove(f"v{number}a", grace_s=0)

        both = [
            work(others[(number + at) % 4], number) for number in range(12) for at, work in enumerate((promote, remove))
        ]
        results = await asyncio.gather(*both, return_exceptions=True)
        assert all(result is None or isinstance(result, Conflict) for result in results), results
        staged = {stage.version for stage in await owner.registry.stages()}
        for info in await owner.registry.versions():
            assert (info.kept == "kept") is (info.version in staged), info
            if info.kept == "kept":
                assert await owner.models.get(info.version)
