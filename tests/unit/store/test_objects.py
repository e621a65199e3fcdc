"""Stores without a network, and how a URL becomes one."""

from __future__ import annotations

import errno
import os
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import BusUnavailable, ConfigError, StoreUnavailable
from fedbus.messages.subjects import Subjects
from fedbus.store.objects import open_store
from fedbus.store.objects.directory import DirectoryStore
from fedbus.store.objects.jetstream import JetStreamStore
from fedbus.store.objects.registry import REGISTRY
from fedbus.testing.store import check_store

ROOT = Path(__file__).parents[3]


async def test_the_directory_keeps_the_contract(tmp_path):
    """What a store promises holds for files in a directory."""

    @asynccontextmanager
    async def make():
        yield lambda: DirectoryStore(tmp_path / "models")

    await check_store(make)
    assert list((tmp_path / "models" / ".parts").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("models", "expected a URL"),
        ("ftp://somewhere/x", "store 'ftp' is unknown; known: file, jetstream, s3"),
        ("file:relative/path", "absolute path"),
        ("file://host/path", "absolute path"),
        ("file:///path?x=1", "it has no options, got x"),
        ("s3://", "expected s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/x", "expected s3://BUCKET/PREFIX"),
        ("s3://bucket/x?secret=1", "unknown option secret"),
        ("s3://bucket/x?region=a&region=b", "each option once"),
        ("s3://bucket/../x", "key: expected"),
        ("s3://bucket/x?path_style=perhaps", "expected true or false"),
        ("jetstream:default", "expected jetstream://HOST:PORT"),
        ("jetstream://host?workspace=a b", "workspace: expected"),
    ],
)
def test_a_url_that_cannot_be_is_refused_by_name(url, says):
    """Each mistake in a store's URL is a `ConfigError` that says what was expected."""
    with pytest.raises(ConfigError) as refused:
        open_store(url)
    assert says in str(refused.value)


def test_a_url_shows_no_secret():
    """What a store calls itself, in logs and on pages, has no password in it."""
    assert "secret" not in open_store("jetstream://user:secret@host:4222").url


async def test_a_link_out_of_the_directory_is_not_followed(tmp_path):
    """Who can place a link in the directory cannot have what lies elsewhere overwritten, read or removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file.json").write_text("theirs")
    store = DirectoryStore(tmp_path / "store")
    (tmp_path / "store" / "w").mkdir(parents=True)
    (tmp_path / "store" / "w" / "link").symlink_to(outside)
    (tmp_path / "store" / "w" / "file.json").symlink_to(outside / "file.json")
    for key in ("w/link/file.json", "w/file.json"):
        for call in (store.put(key, pieces(b"ours")), store.head(key), store.remove(key), anext(store.read(key))):
            with pytest.raises(ConfigError, match="leads out of it"):
                await call
    assert (outside / "file.json").read_text() == "theirs"
    assert [info.key async for info in store.list()] == []


async def test_a_full_disk_is_unavailable(tmp_path, monkeypatch):
    """No room is `StoreUnavailable`: the same call may be repeated when there is some; nothing of it stays."""
    store = DirectoryStore(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("fedbus.store.objects.directory.os.fsync", full)
        with pytest.raises(StoreUnavailable, match="no space left"):
            await store.put("w/v.json", pieces(b"x"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    await store.put("w/v.json", pieces(b"x"))


async def test_what_a_killed_writer_left_goes(tmp_path):
    """A part that nobody has written to for a day is removed by the next writer, a newer one is somebody's."""
    parts = tmp_path / ".parts"
    parts.mkdir()
    (parts / "old").write_text("x")
    (parts / "new").write_text("x")
    os.utime(parts / "old", (1.0, 1.0))
    await DirectoryStore(tmp_path).put("w/v.json", pieces(b"x"))
    assert [path.name for path in parts.iterdir()] == ["new"]


async def pieces(*data):
    """Yield pieces."""
    for piece in data:
        yield piece


def test_entry_points_and_registry_name_the_same():
    """An installed package and a plain checkout find the same stores."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][REGISTRY.group]
    assert told == {name: entry.value for name, entry in REGISTRY._own.items()}


class Flaky:
    """A bus whose answer to the next head that is stored is lost; ``stored``: whether it is stored."""

    def __init__(self, bus):
        self._bus = bus
        self.stored = None

    def __getattr__(self, name):
        return getattr(self._bus, name)

    async def append(self, stream, subject, data, **how):
        stored = self.stored
        if stored is None or not subject.endswith(".head"):
            return await self._bus.append(stream, subject, data, **how)
        self.stored = None
        if stored:
            await self._bus.append(stream, subject, data, **how)
        raise BusUnavailable("no answer")


@pytest.mark.parametrize("stored", [True, False])
async def test_an_object_on_a_bus_whose_answer_was_lost_is_one_or_the_other(stored):
    """The head was stored, or was not: what it names is there, whole, in either case; nothing else is left."""
    bus = Flaky(MemoryBus(MemoryBroker(), "all"))
    subjects = Subjects("w")

    async def connected():
        return bus

    async def pieces(data):
        yield data

    async def read():
        return b"".join([bytes(piece) async for piece in store.read("k")])

    store = JetStreamStore(connected, subjects)
    await store.put("k", pieces(b"old"))
    bus.stored = stored
    if stored:
        await store.put("k", pieces(b"new"))
    else:
        with pytest.raises(StoreUnavailable):
            await store.put("k", pieces(b"new"))
    assert await read() == (b"new" if stored else b"old")
    await store.put("k", pieces(b"newest"))
    assert await read() == b"newest"
    assert await bus.pending(subjects.stream("object"), subjects.objects()) == 2
