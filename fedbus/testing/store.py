"""The contract of a store, as a test that any implementation can be put through.

    @asynccontextmanager
    async def make():
        with TemporaryDirectory() as root:
            yield lambda: DirectoryStore(root)      # each call: another store on the same objects

    async def test_store(): await check_store(make)

Every promise of `fedbus.store.objects.base` stands here as a check with keys of its own. What a writer does that dies
is shown by pieces that raise, and by a cancellation midway: to a store the two are the same as a killed process, but
for what it can still clear away. (After `fedbus.testing.bus`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise

from fedbus.errors import BadMessage, ConfigError, NotFound, StoreError
from fedbus.store.objects.base import KEY_CHARS_MAX, Store

Fresh = Callable[[], Store]
"""Opens a store; each call a new one, all on the same objects."""

Make = Callable[[], AbstractAsyncContextManager[Fresh]]
"""A place for objects, for as long as the context lasts."""

CHECK_S_MAX = 120.0
"""For one check: a slow machine under load; a check that hangs must fail by name."""

LARGE_BYTES = 96 * 2**20
"""Of an object that must not be in memory as a whole."""

MEMORY_BYTES_MAX = 64 * 2**20
"""What writing or reading it may take in Python's memory at once: parts of an upload, and what was asked for ahead."""

PIECE = 300_007
"""Bytes of a piece: no store cuts there."""

HOSTILE = (
    "",
    "/",
    "/etc/passwd",
    "check/",
    "check//x",
    "..",
    "../x",
    "check/../../x",
    "check/./x",
    ".hidden",
    "check/.parts/x",
    "check/a b",
    "check/a\\b",
    "check/a\0b",
    "check/a\nb",
    "check/%2e%2e/x",
    "check/ä",
    "check/*",
    "check/" + "x" * 201,
    "check/" * 200 + "x" * KEY_CHARS_MAX,
)
"""What a peer might use as a key; a store refuses each in every call."""


async def check_store(make: Make) -> None:
    """Put an implementation through what `fedbus.store.objects.Store` promises; `AssertionError` names what it breaks.

    ``make`` is called once; nothing may stand there under keys that begin with "check".
    """
    async with make() as fresh:
        for check in CHECKS:
            name = check.__name__.strip("_")
            stores: list[Store] = []
            try:
                async with asyncio.timeout(CHECK_S_MAX):
                    await check(_World(fresh, name, stores))
            except (AssertionError, StoreError, ConfigError, BadMessage, NotFound, TimeoutError) as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
            finally:
                for store in stores:
                    await store.close()


class _World:
    """Fresh stores and keys for one check."""

    def __init__(self, fresh: Fresh, name: str, stores: list[Store]) -> None:
        self._fresh = fresh
        self._name = name
        self._stores = stores

    def store(self) -> Store:
        self._stores.append(self._fresh())
        return self._stores[-1]

    def key(self, rest: str = "x.safetensors") -> str:
        return f"check/{self._name}/{rest}"


def content(nbytes: int, seed: int) -> bytes:
    """Return bytes of which no two pieces are alike."""
    return random.Random(seed).randbytes(nbytes)


async def _pieces(data: bytes, size: int = PIECE) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _all(store: Store, key: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([bytes(piece) async for piece in store.read(key, start, stop)])


async def _keys(store: Store, prefix: str) -> list[str]:
    return sorted([info.key async for info in store.list(prefix)])


async def _missing(store: Store, key: str) -> None:
    for name, call in (("head", store.head(key)), ("read", _all(store, key)), ("a range", _all(store, key, 5, 9))):
        try:
            await call
        except NotFound:
            continue
        raise AssertionError(f"{name} of a key without an object: expected NotFound")


async def _write_and_read(world: _World) -> None:
    store, other = world.store(), world.store()
    for nbytes in (0, 1, PIECE, PIECE + 1, 5 * 2**20, 9 * 2**20 + 13):
        key, data = world.key(f"of-{nbytes}.bin"), content(nbytes, nbytes)
        info = await store.put(key, _pieces(data), nbytes=nbytes)
        assert (info.key, info.nbytes) == (key, nbytes), f"put of {nbytes} bytes returned {info}"
        seen = await other.head(key)
        assert (seen.key, seen.nbytes) == (key, nbytes), f"head of {nbytes} bytes returned {seen}"
        assert abs(seen.modified_at - info.modified_at) < 5.0, f"times differ: {seen}, {info}"
        assert await _all(other, key) == data, f"{nbytes} bytes came back changed"


async def _replaces(world: _World) -> None:
    store, key = world.store(), world.key()
    for seed, nbytes in enumerate((2 * 2**20, 3, 12 * 2**20, 0, 700_000)):
        data = content(nbytes, seed)
        await store.put(key, _pieces(data))
        assert await _all(world.store(), key) == data, "the object put last is not the one that is read"
    assert await _keys(store, world.key("")) == [key], "an object that was replaced is listed"


async def _missing_is_not_found(world: _World) -> None:
    store = world.store()
    await _missing(store, world.key())
    await store.put(world.key("there.bin"), _pieces(b"x"))
    await _missing(store, world.key("ther"))
    await _missing(store, world.key("there.bin").rpartition("/")[0])
    assert await _keys(store, world.key("nothing")) == []


async def _ranges(world: _World) -> None:
    store, key = world.store(), world.key()
    data = content(17 * 2**20 + 5, 3)
    await store.put(key, _pieces(data))
    mib = 2**20
    cuts = [0, 1, 511, mib - 1, mib, mib + 1, 8 * mib - 1, 8 * mib, 8 * mib + 1, 16 * mib, len(data) - 1, len(data)]
    far = zip(cuts, cuts[4:], strict=False)
    for start, stop in [*pairwise(cuts), *zip(cuts, cuts, strict=True), *far]:
        assert await _all(store, key, start, stop) == data[start:stop], f"bytes {start} to {stop} are others"
    assert await _all(store, key, len(data) - 7) == data[-7:], "to the end"
    assert await _all(store, key, 5, len(data) + 100) == data[5:], "a stop beyond the end is the end"
    assert await _all(store, key, len(data) + 5) == b"", "a start beyond the end gives nothing"
    for low, high in ((-1, 5), (9, 8), (-3, None)):
        try:
            await _all(store, key, low, high)
        except ConfigError:
            continue
        raise AssertionError(f"range {low} to {high}: expected ConfigError")


class _DiesError(Exception):
    """A writer dies of it."""


async def _dies_after(data: bytes, nbytes: int) -> AsyncIterator[bytes]:
    async for piece in _pieces(data[:nbytes]):
        yield piece
    raise _DiesError


async def _whole_or_not_at_all(world: _World) -> None:
    store, key, old = world.store(), world.key(), world.key("old.bin")
    before, data = content(5_000_000, 1), content(20 * 2**20, 2)
    await store.put(old, _pieces(before))
    for nbytes in (0, 1, PIECE, 7 * 2**20, len(data)):
        for target in (key, old):
            try:
                await store.put(target, _dies_after(data, nbytes))
            except _DiesError:
                continue
            raise AssertionError(f"a writer died after {nbytes} bytes, and put returned, or raised something else")
        await _missing(world.store(), key)
        assert await _all(world.store(), old) == before, f"a writer died after {nbytes} bytes, the old object is gone"
    assert await _keys(store, world.key("")) == [old], "what a dead writer left is listed"
    await store.put(key, _pieces(data))
    assert await _all(store, key) == data, "the next writer's object is another"


async def _stands_after(data: bytes, reached: asyncio.Event) -> AsyncIterator[bytes]:
    async for piece in _pieces(data):
        yield piece
    reached.set()
    await asyncio.Event().wait()


async def _cancelled(world: _World) -> None:
    store, key, old = world.store(), world.key(), world.key("old.bin")
    before, data = content(3_000_000, 4), content(20 * 2**20, 5)
    await store.put(old, _pieces(before))
    for nbytes in (1, 2 * 2**20, 11 * 2**20, len(data)):
        for target in (key, old):
            reached = asyncio.Event()
            writing = asyncio.ensure_future(store.put(target, _stands_after(data[:nbytes], reached)))
            waiting = asyncio.ensure_future(reached.wait())
            await asyncio.wait([waiting, writing], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            assert writing.cancelled(), f"cancelled after {nbytes} bytes, put ended otherwise"
        await _missing(world.store(), key)
        assert await _all(world.store(), old) == before, f"cancelled after {nbytes} bytes, the old object is gone"
    assert await _keys(store, world.key("")) == [old], "what a cancelled writer left is listed"


async def _unfinished_is_not_seen(world: _World) -> None:
    store, other, key = world.store(), world.store(), world.key()
    data = content(18 * 2**20, 6)
    looked = 0

    async def looking() -> AsyncIterator[bytes]:
        nonlocal looked
        async for piece in _pieces(data, 6 * 2**20):
            yield piece
            await _missing(other, key)
            assert await _keys(other, world.key("")) == [], "an object that is being written is listed"
            looked += 1

    await store.put(key, looking())
    assert looked == 3, "not all pieces were taken"
    assert await _all(other, key) == data, "the object that is there now is another"


async def _writers_of_one_key(world: _World) -> None:
    key = world.key()
    contents = [content(2**20 * (1 + 5 * (seed % 2)) + seed, seed) for seed in range(6)]
    puts = [world.store().put(key, _pieces(data)) for data in contents]
    await asyncio.gather(*puts)
    found = await _all(world.store(), key)
    assert found in contents, "what several have put at once is none of what they have put"
    assert (await world.store().head(key)).nbytes == len(found), "the size is that of another writer's object"
    assert await _keys(world.store(), world.key("")) == [key]


async def _a_reader_sees_one_content(world: _World) -> None:
    store, key = world.store(), world.key()
    first, second = content(20 * 2**20, 7), content(21 * 2**20, 8)
    await store.put(key, _pieces(first))
    found = bytearray()
    with contextlib.suppress(StoreError, NotFound):  # a store may say that it cannot go on, not mix the two
        async for piece in store.read(key):
            if not found:
                await world.store().put(key, _pieces(second))
            found += piece
    assert found == first[: len(found)] or found == second[: len(found)], "a reader was given pieces of two objects"
    assert await _all(store, key) == second


async def _lists_prefixes(world: _World) -> None:
    store = world.store()
    names = ["a.json", "a.safetensors", "ab/x.json", "ab/y.json", "abc", "b-1.json", "b/1/2/3.bin", "c_d.e"]
    for name in names:
        await store.put(world.key(name), _pieces(name.encode()))
    for prefix in ("", "a", "a.", "a.json", "ab", "ab/", "ab/x", "abc", "abcd", "b", "b/", "b/1/2", "b-", "c", "z/y"):
        wanted = sorted(world.key(name) for name in names if name.startswith(prefix))
        found = await _keys(store, world.key(prefix))
        assert found == wanted, f"prefix {prefix!r}: expected {wanted}, came {found}"
    sizes = {info.key: info.nbytes async for info in world.store().list(world.key(""))}
    assert sizes == {world.key(name): len(name) for name in names}, f"sizes differ: {sizes}"


async def _removes(world: _World) -> None:
    store, key, other = world.store(), world.key(), world.key("other.bin")
    await store.remove(key)
    await store.put(key, _pieces(content(10 * 2**20, 9)))
    await store.put(other, _pieces(b"stays"))
    await store.remove(key)
    await store.remove(key)
    await _missing(world.store(), key)
    assert await _keys(world.store(), world.key("")) == [other], "more, or less, than one object was removed"
    await store.put(key, _pieces(b"again"))
    assert await _all(world.store(), key) == b"again", "an object cannot be put where one was removed"


async def _many_at_once(world: _World) -> None:
    store = world.store()
    contents = {world.key(f"v-{number}.json"): content(1000 + number, number) for number in range(60)}
    await asyncio.gather(*(store.put(key, _pieces(data)) for key, data in contents.items()))
    assert await _keys(store, world.key("v-")) == sorted(contents)
    found = await asyncio.gather(*(_all(store, key) for key in contents))
    assert found == list(contents.values()), "objects that were put at once are mixed up"


async def _larger_than_memory(world: _World) -> None:
    store, key = world.store(), world.key()
    block = content(2**20, 10)
    count = LARGE_BYTES // len(block)

    async def numbered() -> AsyncIterator[bytes]:
        for number in range(count):
            yield number.to_bytes(4, "big") + block[4:]

    tracemalloc.start()
    try:
        await store.put(key, numbered(), nbytes=LARGE_BYTES)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        at = 0
        async for piece in store.read(key):
            _check_numbered(piece, at, block)
            at += len(piece)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert at == LARGE_BYTES, f"expected {LARGE_BYTES} bytes, came {at}"
    for what, took in (("writing", written), ("reading", read)):
        assert took < MEMORY_BYTES_MAX, f"{what} {LARGE_BYTES} bytes took {took} bytes of memory at once"


def _check_numbered(piece: bytes | bytearray | memoryview, at: int, block: bytes) -> None:
    data, place = memoryview(piece), 0
    while place < len(data):
        number, inside = divmod(at + place, len(block))
        wanted = (number.to_bytes(4, "big") + block[4:])[inside : inside + len(data) - place]
        assert data[place : place + len(wanted)] == wanted, f"block {number} is another"
        place += len(wanted)


async def _hostile_keys(world: _World) -> None:
    store = world.store()
    await store.put(world.key(), _pieces(b"x"))
    for key in HOSTILE:
        for name in ("put", "head", "read", "remove"):
            try:
                await _call(store, name, key)
            except ConfigError:
                continue
            raise AssertionError(f"{name}({key[:60]!r}): expected ConfigError")
    assert await _all(store, world.key()) == b"x"


async def _call(store: Store, name: str, key: str) -> None:
    match name:
        case "put":
            await store.put(key, _pieces(b"bad"))
        case "head":
            await store.head(key)
        case "read":
            await _all(store, key)
        case _:
            await store.remove(key)


async def _closes(world: _World) -> None:
    store = world.store()
    await store.put(world.key(), _pieces(b"stays"))
    await store.close()
    await store.close()
    assert await _all(world.store(), world.key()) == b"stays", "an object went when its writer was closed"


CHECKS = (
    _write_and_read,
    _replaces,
    _missing_is_not_found,
    _ranges,
    _whole_or_not_at_all,
    _cancelled,
    _unfinished_is_not_seen,
    _writers_of_one_key,
    _a_reader_sees_one_content,
    _lists_prefixes,
    _removes,
    _many_at_once,
    _larger_than_memory,
    _hostile_keys,
    _closes,
)
