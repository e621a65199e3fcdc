"""A whole federation with a store behind the bus: what leaves the bus is still there for everybody."""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import numpy as np
import pytest

import fedbus
from fedbus.bus.embedded.child import die_with
from fedbus.cli.archiving import archive
from fedbus.cli.listing import download
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import NotFound
from fedbus.messages import records
from fedbus.store import archivist
from fedbus.store.objects.directory import DirectoryStore
from fedbus.store.streams import ensure_streams
from fedbus.tensors import files
from fedbus.tensors.digest import model_digest
from fedbus.workers import Threads


async def session_of(house, make_app, zeros, name="digits"):
    """Run a session of three rounds; returns the digests of its versions, by round."""
    await house.operate()
    await house.client("site-1", make_app(0.25))
    await house.run(zeros, rounds=3, clients_min=1, evaluate_every=1, name=name)
    async with fedbus.connect(house.url) as federation:
        return {entry.round: entry.digest for entry in await federation.models.list()}


async def test_what_left_the_bus_is_read_from_the_store(house, make_app, zeros, tmp_path, capsys):
    """Archived versions that a collection removed are fetched, evaluated, gone on from; without the store they are not.

    A collection with a store removes nothing that is not archived yet.
    """
    digests = await session_of(house, make_app, zeros)
    url = (tmp_path / "models").as_uri()
    place = Place(house.url, store=url)
    async with fedbus.connect(house.url, store=url) as federation, fedbus.connect(house.url) as without:
        await federation.registry.set_retention(1)
        kept = (await federation.registry.collect(grace_s=0)).kept
        assert all("is not archived" in kept[f"digits-{number}"] for number in (1, 2)), kept
        await archive(place, json=False)
        assert "4 versions; new: 4" in capsys.readouterr().out
        await archive(place, json=False)
        assert "4 versions; new: 0" in capsys.readouterr().out
        removed = (await federation.registry.collect(grace_s=0)).removed
        assert {"digits-1", "digits-2"} <= set(removed)
        assert (await federation.registry.find("digits-1")).kept == "archived"
        with pytest.raises(NotFound):
            await without.models.get("digits-1")
        assert model_digest(await federation.models.get("digits-1")) == digests[1]
        again = await federation.start_session(
            fedbus.SessionConfig(rounds=1, clients_min=1, evaluate_every=0), model="digits-1", name="again"
        )
        result = await again.wait()
        first = await federation.models.find("again-0")
        assert (first.digest, first.parent) == (digests[1], "digits-1")
        assert model_digest(await federation.models.get(result.model_version)) == digests[2]
        found = await federation.evaluate("digits-2", clients_min=1)
        assert found.metrics["first"] == pytest.approx(0.5)
    await download(place, "digits-1", tmp_path / "one.safetensors", json=True)
    assert model_digest(files.read(tmp_path / "one.safetensors")) == digests[1]


async def test_a_gateway_archives_what_is_published(house, make_app, zeros, tmp_path, eventually):
    """With a store the gateway copies by itself, tells how far it is, and serves ranges of what left the bus."""
    store = tmp_path / "models"
    url = await house.gateway(store=store.as_uri())
    digests = await session_of(house, make_app, zeros)
    async with aiohttp.ClientSession(url) as http:

        async def told():
            async with http.get("/api/v1/overview") as answer:
                assert answer.status == 200, await answer.text()
                return (await answer.json())["archive"]

        async def done():
            state = await told()
            return state["archived"] == 4 and not state["waiting"]

        await eventually(done, within_s=20, every_s=0.1)
        state = await told()
        assert (state["store"], state["error"], state["refused"]) == (store.as_uri(), "", {})
        file = store / "default" / "digits-2.safetensors"
        assert model_digest(files.read(file)) == digests[2]
        async with fedbus.connect(house.url) as federation:
            await federation.registry.set_retention(1)
            assert "digits-2" in (await federation.registry.collect(grace_s=0)).removed
        async with http.get("/api/v1/models/digits-2/content") as answer:
            assert answer.status == 200, await answer.text()
            whole = await answer.read()
        assert np.array_equal(files.from_bytes(whole)["w"], np.full((5, 7), 0.5, np.float32))
        async with http.get(
            "/api/v1/models/digits-2/content", headers={"Range": f"bytes=9-{len(whole) - 3}"}
        ) as answer:
            assert (answer.status, await answer.read()) == (206, whole[9 : len(whole) - 2])


async def test_an_archivist_that_is_killed_leaves_nothing_half(broker, tmp_path, eventually):
    """Killed by -9 in the middle of a file, there is no object; the next one makes it whole."""
    arrays = {"w": np.random.default_rng(0).standard_normal(32 * 2**18, dtype=np.float32)}
    async with fedbus.connect(broker.url) as federation:
        await ensure_streams(federation.bus, federation.subjects)
        manifest = await federation.store.put("blob", arrays)
        digest, nbytes = manifest.digest, manifest.spec.nbytes
        entry = records.ModelPublished(
            round=1, version="big-1", parent="", session="big", blob="blob", digest=digest, nbytes=nbytes, at=1.0
        )
        await federation.store.enter(entry)
    for number in range(5):  # it may have been quicker than we were
        store = tmp_path / f"models-{number}"
        command = ["-m", "fedbus", "model", "archive", "--store", store.as_uri(), "--nats", broker.url]
        killed = await asyncio.create_subprocess_exec(sys.executable, *command, preexec_fn=die_with(os.getpid()))
        await eventually(lambda store=store: has_begun(store), within_s=30, every_s=0.001)
        killed.kill()
        await killed.wait()
        if has_begun(store) == "a part":
            break
    else:
        pytest.fail("it was never killed in the middle")
    assert [info.key async for info in DirectoryStore(store).list()] == []
    await archive(Place(broker.url, store=store.as_uri()), json=True)
    assert model_digest(files.read(store / "default" / "big-1.safetensors")) == digest


def has_begun(store):
    """Return how far an archivist is: with a part, or with the whole file; '' before that."""
    if (store / "default" / "big-1.safetensors").exists():
        return "a file"
    try:
        return "a part" if any(part.stat().st_size for part in store.glob(".parts/*")) else ""
    except FileNotFoundError:
        return ""  # it was just renamed


async def test_a_bucket_that_is_away_gets_its_versions_when_it_is_back(broker, s3, eventually, monkeypatch):
    """While the server is down a version waits, with the reason; it is in the bucket soon after the server is back."""
    monkeypatch.setattr(archivist, "PAUSE_S_MAX", 0.5)
    await s3.stop()
    workers = Threads(2, "archivist")
    async with fedbus.connect(broker.url, store=s3.url("archive")) as federation:
        await ensure_streams(federation.bus, federation.subjects)
        archive, subjects = federation.models.archive, federation.subjects
        copying = archivist.Archivist(federation.bus, subjects, archive, workers=workers, clock=SystemClock())
        running = asyncio.create_task(copying.run())
        manifest = await federation.store.put("blob", {"w": np.zeros(100_000, np.float32)})
        digest, nbytes = manifest.digest, manifest.spec.nbytes
        entry = records.ModelPublished(
            round=1, version="v-1", parent="", session="v", blob="blob", digest=digest, nbytes=nbytes, at=1.0
        )
        await federation.store.enter(entry)
        await eventually(lambda: copying.state.error and copying.state.waiting, within_s=30)
        state = copying.state
        assert (state.waiting, state.waiting_bytes, state.since_at) == (1, nbytes, 1.0)
        assert s3.endpoint in state.error
        await s3.start()
        await s3.make_bucket()
        await eventually(lambda: copying.has("v-1"), within_s=30)
        assert (await archive.read(entry)).manifest.digest == digest
        running.cancel()
        await asyncio.wait([running])
    workers.close()
