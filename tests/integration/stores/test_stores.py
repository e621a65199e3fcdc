"""Stores over real servers: the contract, and what a store says when it is away or refuses."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from fedbus.errors import NotFound, StoreDenied, StoreUnavailable
from fedbus.store.objects import open_store
from fedbus.testing.store import check_store, content


async def test_s3_keeps_the_contract(s3):
    """What a store promises holds for objects in a bucket, of a server that is not ours."""

    @asynccontextmanager
    async def make():
        yield lambda: open_store(s3.url("some/prefix"))

    await check_store(make)


async def test_jetstream_keeps_the_contract(broker):
    """What a store promises holds for objects in a stream of a real broker."""

    @asynccontextmanager
    async def make():
        yield lambda: open_store(broker.url.replace("nats:", "jetstream:"))

    await check_store(make)


async def test_a_server_that_writes_files_has_what_was_put(files_s3):
    """What goes in by a multipart upload is, byte for byte, the file that another server wrote; removing removes it."""
    data = content(21 * 2**20 + 3, 1)

    async def pieces():
        for start in range(0, len(data), 700_001):
            yield data[start : start + 700_001]

    store = open_store(files_s3.url("archive"))
    info = await store.put("w/v-1.safetensors", pieces())
    small = await store.put("w/v-1.json", pieces_of(b"{}"))
    file = files_s3.directory / "s3" / "models" / "archive" / "w" / "v-1.safetensors"
    assert (info.nbytes, small.nbytes, await asyncio.to_thread(file.read_bytes)) == (len(data), 2, data)
    assert sorted([found.key async for found in store.list("w/")]) == ["w/v-1.json", "w/v-1.safetensors"]
    assert b"".join([bytes(piece) async for piece in store.read("w/v-1.json")]) == b"{}"
    await store.remove("w/v-1.safetensors")
    assert not file.exists()
    with pytest.raises(NotFound):
        await store.head("w/v-1.safetensors")


async def test_a_wrong_key_is_refused_by_name(files_s3, monkeypatch):
    """Credentials that the server does not know are `StoreDenied`, and the error names the store, not the secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    store = open_store(files_s3.url())
    with pytest.raises(StoreDenied, match="s3://models") as refused:
        await store.put("w/v.json", pieces_of(b"{}"))
    assert "another-secret" not in str(refused.value)


async def test_a_bucket_that_is_not_there_is_told_from_an_object_that_is_not(s3):
    """Writing to a bucket that nobody made says so; it is not taken for an object that does not exist."""
    with pytest.raises(StoreUnavailable, match="no such bucket"):
        await open_store(s3.url(bucket="nobody-made-it")).put("w/v.json", pieces_of(b"{}"))


async def test_a_server_that_is_away_is_unavailable_until_it_is_back(s3):
    """While nobody listens every call is `StoreUnavailable`; the same store works when the server is back."""
    store = open_store(s3.url())
    await store.put("w/v.json", pieces_of(b"{}"))
    await s3.stop()
    for call in (store.head("w/v.json"), store.put("w/x.json", pieces_of(b"x")), store.remove("w/v.json")):
        with pytest.raises(StoreUnavailable):
            await call
    await s3.start()
    await s3.make_bucket()  # its memory went with it
    await store.put("w/v.json", pieces_of(b"again"))
    assert (await store.head("w/v.json")).nbytes == 5


async def pieces_of(*pieces):
    """Yield pieces."""
    for piece in pieces:
        yield piece
