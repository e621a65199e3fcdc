"""The contract of a bus, as a test that any implementation can be put through.

    @asynccontextmanager
    async def make():
        broker = MemoryBroker()
        async def fresh(name): return MemoryBus(broker, name)
        yield fresh

    async def test_bus(): await check_bus(make)

Every promise of `fedbus.bus.base` stands here as a check with its own streams and subjects, on buses fresh for it. A
failure names the check. Nothing sleeps: what must *not* arrive is proven by a later message that does. (After
trio's ``check_one_way_stream``.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from fedbus.bus.base import Bus, Message, Storage, StreamSpec, Subscription
from fedbus.errors import BusClosed, BusDenied, BusError, BusFull, BusUnavailable, ConfigError, Conflict

Fresh = Callable[[str], Awaitable[Bus]]
"""Gives a connected bus of a name; each call a new one, all on the same broker."""

Make = Callable[[], AbstractAsyncContextManager[Fresh]]
"""A broker for as long as the context lasts."""

CHECK_S_MAX = 60.0
"""For one check: a slow machine under load; a check that hangs must fail by name."""

BIG_BYTES = 3 * 2**20


async def check_bus(make: Make) -> None:
    """Put an implementation through everything that `fedbus.bus.base` promises; `AssertionError` names what it breaks.

    ``make`` is called once; it has to be a broker without faults and without streams whose subjects begin with "check".
    """
    async with make() as fresh:
        for check in CHECKS:
            world = _World(fresh, check.__name__.strip("_"))
            try:
                async with asyncio.timeout(CHECK_S_MAX):
                    await check(world)
            except (AssertionError, BusError, ConfigError, TimeoutError) as error:
                raise AssertionError(f"{world.name}: {type(error).__name__}: {error}") from error
            finally:
                await world.close()


class _World:
    """Fresh buses and names for one check."""

    def __init__(self, fresh: Fresh, name: str) -> None:
        self.name = name
        self.stream = f"check-{name}"
        self._fresh = fresh
        self._buses: list[Bus] = []

    async def bus(self) -> Bus:
        bus = await self._fresh(f"{self.name}-{len(self._buses)}")
        self._buses.append(bus)
        return bus

    async def pair(self) -> tuple[Bus, Bus]:
        return await self.bus(), await self.bus()

    def at(self, rest: str) -> str:
        return f"check.{self.name}.{rest}"

    def spec(self, **changes: object) -> StreamSpec:
        spec = StreamSpec(self.stream, (self.at(">"),), Storage.FILE)
        return replace(spec, **changes)  # type: ignore[arg-type]

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@asynccontextmanager
async def _refused(*kinds: type[Exception]) -> AsyncIterator[None]:
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except kinds:
        return
    except Exception as error:
        raise AssertionError(f"expected {names}, came {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {names}, nothing was raised")


async def _take(subscription: Subscription, count: int) -> list[Message]:
    return [await anext(subscription) for _ in range(count)]


def _same(found: object, wanted: object, what: str) -> None:
    assert found == wanted, f"{what}: expected {wanted!r}, came {found!r}"


# ---- plain messages


async def _patterns(world: _World) -> None:
    receiver, sender = await world.pair()
    subjects = ["a", "a.b", "a.b.c", "a.b.c.d", "x.b", "ab.b"]
    table = {
        "a": ["a"],
        "a.b": ["a.b"],
        "*": ["a"],
        "a.*": ["a.b"],
        "*.b": ["a.b", "x.b", "ab.b"],
        "a.>": ["a.b", "a.b.c", "a.b.c.d"],
        "a.*.c": ["a.b.c"],
        "*.b.>": ["a.b.c", "a.b.c.d"],
        ">": subjects,
    }
    inboxes = {pattern: await receiver.subscribe(world.at(pattern)) for pattern in table}
    for subject in subjects:
        await sender.publish(world.at(subject), b"first")
    for subject in subjects:
        await sender.publish(world.at(subject), b"second")
    for pattern, wanted in table.items():
        # the second round proves that nothing else came in the first
        found = [(m.subject, m.data) for m in await _take(inboxes[pattern], 2 * len(wanted))]
        twice = [(world.at(s), data) for data in (b"first", b"second") for s in wanted]
        _same(found, twice, f"messages of pattern {pattern!r}")


async def _patterns_together(world: _World) -> None:
    receiver, sender = await world.pair()
    crowd = [world.at(f"{kind}.{i}.>") for i in range(1000) for kind in ("task", "down")]
    inbox = await receiver.subscribe([*crowd, world.at("all"), world.at("all"), world.at("*")])
    again = await receiver.subscribe((world.at("task.7.>"),))
    sent = [world.at(s) for s in ("task.7.a", "other", "down.999.b.c", "task.0.a", "task.8", "all", "down.0.x")]
    for subject in sent:
        await sender.publish(subject, b"")
    # "other" and "all" have one token, so they match "*" too; "all" was named twice and is one pattern
    wanted = sorted([*(s for s in sent if not s.endswith("task.8")), world.at("all")])
    found = [m.subject for m in await _take(inbox, len(wanted))]
    _same(sorted(found), wanted, "messages of 2,002 patterns in one subscription")
    _same(list(dict.fromkeys(found)), [s for s in sent if s in wanted], "their order")
    _same((await anext(again)).subject, sent[0], "another subscription to one of the patterns")
    await inbox.close()
    await sender.publish(world.at("task.7.b"), b"")
    _same((await anext(again)).subject, world.at("task.7.b"), "the other subscription goes on")
    _same([m async for m in inbox], [], "a closed subscription of many patterns")


async def _order_payloads_headers(world: _World) -> None:
    receiver, sender = await world.pair()
    inbox = await receiver.subscribe(world.at("x"))
    buffer = bytearray(b"12345")
    await sender.publish(world.at("x"), buffer, {"traceparent": "00-ab", "Accent": "é", "empty": ""})
    buffer[:] = b"reuse"
    await sender.publish(world.at("x"), memoryview(b"abcdef")[1:4])
    await sender.publish(world.at("x"), b"")
    first, second, third = await _take(inbox, 3)
    _same(first.data, b"12345", "a payload whose buffer was used again")
    _same(dict(first.headers), {"traceparent": "00-ab", "Accent": "é", "empty": ""}, "headers")
    _same((second.data, dict(second.headers), second.sequence), (b"bcd", {}, 0), "a slice without headers")
    _same(third.data, b"", "an empty payload")
    for i in range(2000):
        await sender.publish(world.at("x"), b"%d" % i)
    _same([int(m.data) for m in await _take(inbox, 2000)], list(range(2000)), "order of one sender")


async def _own_messages(world: _World) -> None:
    bus = await world.bus()
    inbox, again = await bus.subscribe(world.at("x")), await bus.subscribe(world.at("x"))
    await bus.publish(world.at("x"), b"mine")
    _same([(await anext(i)).data for i in (inbox, again)], [b"mine", b"mine"], "one's own, in each subscription")


async def _closed_subscription(world: _World) -> None:
    bus = await world.bus()
    inbox, other = await bus.subscribe(world.at("x")), await bus.subscribe(world.at("x"))
    waiting = asyncio.ensure_future(anext(inbox, None))
    await bus.publish(world.at("other"), b"")
    await inbox.close()
    await inbox.close()
    _same(await waiting, None, "an iteration that waits while its subscription is closed")
    await bus.publish(world.at("x"), b"late")
    _same((await anext(other)).data, b"late", "the other subscription")
    _same([m async for m in inbox], [], "a closed subscription")


async def _slow_reader(world: _World) -> None:
    receiver, sender = await world.pair()
    slow = await receiver.subscribe(world.at("x"), pending_bytes_max=20_000)
    quick = await receiver.subscribe(world.at("x"))
    for i in range(200):
        await sender.publish(world.at("x"), b"%04d" % i + bytes(996))
    await _take(quick, 200)
    found = [int((await anext(slow)).data[:4])]
    await sender.publish(world.at("x"), b"9999")
    while found[-1] != 9999:
        found.append(int((await anext(slow)).data[:4]))
    assert len(found) < 100, f"of 200 KB, 20 KB may wait, but {len(found)} messages of 1 KB did"
    _same(found[:10], list(range(10)), "what a slow reader gets first: the newest are dropped, not the oldest")
    assert found == sorted(found), f"dropping changed the order: {found}"


async def _requests(world: _World) -> None:
    asker, answerer = await world.pair()
    inbox = await answerer.subscribe(world.at("ask.*"))

    async def answer() -> None:
        asked = await _take(inbox, 20)
        for message in reversed(asked):
            await answerer.publish(message.reply, b"re " + message.data, {"seen": message.headers["n"]})

    task = asyncio.ensure_future(answer())
    asks = [asker.request(world.at(f"ask.{i}"), b"%d" % i, deadline_s=20, headers={"n": str(i)}) for i in range(20)]
    answers = await asyncio.gather(*asks)
    await task
    _same([(m.data, m.headers["seen"]) for m in answers], [(b"re %d" % i, str(i)) for i in range(20)], "answers")
    async with _refused(BusUnavailable):
        await asker.request(world.at("nobody"), b"", deadline_s=CHECK_S_MAX)  # told at once, or the check runs out
    async with _refused(BusUnavailable):
        await asker.request(world.at("ask.silence"), b"", deadline_s=0.2)


# ---- streams


async def _appends(world: _World) -> None:
    bus, other = await world.pair()
    await bus.ensure(world.spec())
    live = await other.subscribe(world.at(">"))
    _same(await bus.append(world.stream, world.at("a"), b"1", headers={"k": "v"}), 1, "first sequence")
    _same(await other.append(world.stream, world.at("b"), b"2"), 2, "second sequence")
    heard = await _take(live, 2)
    _same([(m.subject, m.data) for m in heard], [(world.at("a"), b"1"), (world.at("b"), b"2")], "appends heard live")
    _same(dict(heard[0].headers), {"k": "v"}, "headers of an append heard live")
    async with _refused(ConfigError):
        await bus.append(world.stream, "elsewhere.entirely", b"")
    payloads = [b"%d" % i for i in range(500)]
    many = await asyncio.gather(*(bus.append(world.stream, world.at("many"), p) for p in payloads))
    _same(list(many), list(range(3, 503)), "sequences of 500 appends at once")


async def _optimistic_appends(world: _World) -> None:
    bus, rival = await world.pair()
    await bus.ensure(world.spec())
    journal = world.at("journal")
    first = await bus.append(world.stream, journal, b"1", expected_last=0)
    await bus.append(world.stream, world.at("other"), b"x")
    third = await bus.append(world.stream, journal, b"2", expected_last=first)
    _same(third, 3, "sequence after one of another subject")
    for stale in (0, first, 2):
        async with _refused(Conflict):
            await rival.append(world.stream, journal, b"late", expected_last=stale)
    both = [b.append(world.stream, journal, b"race", expected_last=third) for b in (bus, rival)]
    ends = await asyncio.gather(*both, return_exceptions=True)
    _same(sorted(isinstance(end, Conflict) for end in ends), [False, True], "one of two racers must lose")
    newest = await bus.last(world.stream, journal)
    _same(newest and newest.sequence, 4, "a refused append spends no sequence")


async def _appends_behind_a_pattern(world: _World) -> None:
    bus, rival = await world.pair()
    await bus.ensure(world.spec())
    mine, theirs, chain = world.at("chain.mine"), world.at("chain.theirs"), world.at("chain.*")
    first = await bus.append(world.stream, mine, b"1", expected_last=0, expected_of=chain)
    await bus.append(world.stream, world.at("other"), b"x")
    third = await rival.append(world.stream, theirs, b"2", expected_last=first, expected_of=chain)
    _same((first, third), (1, 3), "sequences of a chain of two subjects")
    for stale in (0, first, 2, third + 1):
        async with _refused(Conflict):
            await bus.append(world.stream, mine, b"late", expected_last=stale, expected_of=chain)
    both = [
        b.append(world.stream, subject, b"race", expected_last=third, expected_of=chain)
        for b, subject in ((bus, mine), (rival, theirs))
    ]
    ends = await asyncio.gather(*both, return_exceptions=True)
    _same(sorted(isinstance(end, Conflict) for end in ends), [False, True], "one of two racers on two subjects")
    fifth = await bus.append(world.stream, mine, b"5", expected_last=4, expected_of=chain, message_id="fifth")
    await rival.append(world.stream, theirs, b"6", expected_last=fifth, expected_of=chain)
    again = await bus.append(world.stream, mine, b"5", expected_last=4, expected_of=chain, message_id="fifth")
    _same(again, fifth, "a repeat of what was stored, when others have written behind it")
    _same(await bus.pending(world.stream, chain), 5, "a refused append stores nothing")
    async with _refused(ConfigError):
        await bus.append(world.stream, mine, b"", expected_of=chain)
    async with _refused(ConfigError):
        await bus.append(world.stream, mine, b"", expected_last=0, expected_of=world.at("other"))


async def _append_only(world: _World) -> None:
    bus = await world.bus()
    await bus.ensure(world.spec())
    await bus.append(world.stream, world.at("a"), b"removed")
    await bus.purge(world.stream, world.at("a"))
    await bus.ensure(world.spec(append_only=True))
    kept = await bus.append(world.stream, world.at("a"), b"kept")
    removals: list[Callable[[], Awaitable[None]]] = [
        lambda: bus.delete(world.stream, kept),
        lambda: bus.purge(world.stream, world.at("a")),
        lambda: bus.purge(world.stream, world.at(">")),
    ]
    for remove in removals:
        async with _refused(BusDenied):
            await remove()
    found = await bus.at(world.stream, kept)
    _same(found and found.data, b"kept", "what nobody may remove")
    async with _refused(ConfigError):
        await bus.ensure(world.spec())
    await bus.ensure(world.spec(append_only=True))
    for forgetful in ({"per_subject_max": 1}, {"age_max_s": 5.0}, {"bytes_max": 1000, "drop_oldest": True}):
        async with _refused(ConfigError):
            await bus.ensure(world.spec(append_only=True, **forgetful))
    empty = replace(world.spec(append_only=True), name=f"{world.stream}-2", subjects=(f"check-{world.name}.>",))
    await bus.ensure(empty)
    await bus.advance(empty.name, 1)
    async with _refused(BusDenied):
        await bus.advance(empty.name, 50)


async def _repeated_appends(world: _World) -> None:
    bus = await world.bus()
    await bus.ensure(world.spec())
    a = world.at("a")
    first = await bus.append(world.stream, a, b"1", message_id="one")
    _same(await bus.append(world.stream, a, b"1", message_id="one"), first, "the sequence of a repeat")
    second = await bus.append(world.stream, a, b"2", message_id="two", expected_last=first)
    repeat = await bus.append(world.stream, a, b"2", message_id="two", expected_last=first)
    _same(repeat, second, "a repeat of an append that won its race")
    async with _refused(Conflict):
        await bus.append(world.stream, a, b"3", message_id="three", expected_last=first)
    _same(await bus.pending(world.stream, a), 2, "each id stored once")


async def _boards(world: _World) -> None:
    bus, other = await world.pair()
    await bus.ensure(world.spec(storage=Storage.MEMORY, per_subject_max=1))
    for i in range(4):
        for subject in ("x", "y"):
            await bus.append(world.stream, world.at(f"task.{subject}"), b"%d" % i)
    _same(await bus.pending(world.stream, world.at(">")), 2, "messages kept on a board")
    usage = await other.usage(world.stream)
    _same(usage and (usage.storage, usage.messages, usage.bytes_max), (Storage.MEMORY, 2, -1), "how full a board is")
    assert usage is not None and 2 < usage.nbytes < 1000, f"bytes of a board: {usage}"
    _same(await other.usage(f"{world.stream}-none"), None, "how full a stream is that is not there")
    assert all(bus.server), f"name and version of the broker: {bus.server}"
    follow = await other.follow(world.stream, world.at("task.*"))
    found = await _take(follow, 2)
    wanted = [(world.at("task.x"), b"3", 7), (world.at("task.y"), b"3", 8)]
    _same([(m.subject, m.data, m.sequence) for m in found], wanted, "what a follower of a board sees")
    await bus.append(world.stream, world.at("task.x"), b"new")
    _same((await anext(follow)).data, b"new", "a change on a board")


async def _following(world: _World) -> None:
    bus, reader = await world.pair()
    await bus.ensure(world.spec())
    for i in range(1, 101):
        await bus.append(world.stream, world.at("odd" if i % 2 else "even"), b"%d" % i, headers={"i": str(i)})
    follow = await reader.follow(world.stream, world.at("even"))
    history = await _take(follow, 50)
    _same([m.sequence for m in history], list(range(2, 101, 2)), "sequences of the history")
    _same([m.pending for m in history], list(range(49, -1, -1)), "how many are behind each")
    fourth = history[3]
    _same((fourth.subject, fourth.data, dict(fourth.headers)), (world.at("even"), b"8", {"i": "8"}), "a message")
    late = await reader.follow(world.stream, world.at(">"), from_sequence=99)
    live = await reader.follow(world.stream, world.at(">"), from_sequence=101)
    await bus.append(world.stream, world.at("odd"), b"101")
    await bus.append(world.stream, world.at("even"), b"102")
    _same([m.sequence for m in await _take(late, 4)], [99, 100, 101, 102], "from a sequence on, then live")
    _same([m.sequence for m in await _take(live, 2)], [101, 102], "live only")
    _same((await anext(follow)).sequence, 102, "live, of one pattern")
    waiting = asyncio.ensure_future(anext(follow, None))
    await follow.close()
    await follow.close()
    _same(await waiting, None, "an iteration that waits while its follow is closed")
    await bus.append(world.stream, world.at("even"), b"103")
    _same((await anext(late)).sequence, 103, "the other follow goes on")
    _same([m async for m in follow], [], "a closed follow")


async def _reading(world: _World) -> None:
    bus = await world.bus()
    await bus.ensure(world.spec())
    for i, subject in enumerate(["m.a", "m.b", "m.c", "m.a", "n.a"], 1):
        await bus.append(world.stream, world.at(subject), b"%d" % i, headers={"n": str(i)})
    last = await bus.last(world.stream, world.at("m.a"))
    assert last is not None, "a subject that has messages"
    found_last = (last.subject, last.data, last.sequence, dict(last.headers))
    _same(found_last, (world.at("m.a"), b"4", 4, {"n": "4"}), "newest")
    _same(await bus.last(world.stream, world.at("m.none")), None, "newest of a subject without messages")
    for pattern, sequence in (("m.*", 4), ("*.a", 5), (">", 5), ("m.b", 2)):
        newest = await bus.last(world.stream, world.at(pattern))
        _same(newest and newest.sequence, sequence, f"newest of all that {pattern!r} matches")
    _same(await bus.last(world.stream, world.at("none.*")), None, "newest of a pattern without messages")
    found = await bus.newest(world.stream, world.at("m.*"))
    wanted = [(world.at(s), n, b"%d" % n) for s, n in (("m.b", 2), ("m.c", 3), ("m.a", 4))]
    _same([(m.subject, m.sequence, m.data) for m in found], wanted, "newest of each")
    _same(await bus.newest(world.stream, world.at("none.>")), [], "newest of a pattern without messages")
    several = await bus.newest(world.stream, [world.at("m.a"), world.at("none.*"), world.at("*.a"), world.at("m.c")])
    _same([m.sequence for m in several], [3, 4, 5], "newest of several patterns, each once")
    _same(await bus.newest(world.stream, [world.at("none.a"), world.at("none.b")]), [], "newest of empty patterns")


async def _reading_many(world: _World) -> None:
    bus = await world.bus()
    await bus.ensure(world.spec(storage=Storage.MEMORY))
    await asyncio.gather(*(bus.append(world.stream, world.at(f"s.{i}"), bytes(10_000)) for i in range(1000)))
    found = await bus.newest(world.stream, world.at("s.*"))
    _same([m.sequence for m in found], list(range(1, 1001)), "newest of 1,000 subjects, 10 MB together")
    _same(await bus.pending(world.stream, world.at("s.*")), 1000, "count of 1,000 subjects")
    each = await bus.newest(world.stream, [world.at(f"s.{i}") for i in range(1000)])
    _same([m.sequence for m in each], list(range(1, 1001)), "newest of 1,000 subjects, named one by one")
    await bus.append(world.stream, world.at("s.more"), b"")
    async with _refused(BusFull):
        await bus.newest(world.stream, world.at("s.*"))
    async with _refused(BusFull):
        await bus.newest(world.stream, [world.at("s.more"), world.at("s.*")])


async def _removing(world: _World) -> None:
    bus = await world.bus()
    await bus.ensure(world.spec())
    for subject in ("a.1", "a.2", "b.1", "a.1", "b.1"):
        await bus.append(world.stream, world.at(subject), b"x")
    counts = [await bus.pending(world.stream, world.at(p)) for p in ("a.1", "a.*", ">", "c")]
    _same(counts, [2, 3, 5, 0], "counts")
    await bus.delete(world.stream, 4)
    await bus.delete(world.stream, 4)
    await bus.delete(world.stream, 4000)
    last = await bus.last(world.stream, world.at("a.1"))
    _same(last and last.sequence, 1, "newest after the newest was removed")
    third = await bus.at(world.stream, 3)
    _same(third and (third.sequence, third.subject, third.data), (3, world.at("b.1"), b"x"), "the one at a sequence")
    for nowhere in (4, 6, 4000):
        _same(await bus.at(world.stream, nowhere), None, "what was removed, and what is not there yet")
    async with _refused(ConfigError):
        await bus.at(world.stream, 0)
    await bus.purge(world.stream, world.at("a.*"))
    await bus.purge(world.stream, world.at("a.*"))
    _same(await bus.pending(world.stream, world.at(">")), 2, "count after a purge")
    follow = await bus.follow(world.stream, world.at(">"))
    _same([m.sequence for m in await _take(follow, 2)], [3, 5], "what is left, under its old sequences")
    _same(await bus.append(world.stream, world.at("a.1"), b"", expected_last=0), 6, "first of a purged subject")


async def _advancing(world: _World) -> None:
    bus, reader = await world.pair()
    await bus.ensure(world.spec())
    early = await reader.follow(world.stream, world.at(">"))
    await bus.advance(world.stream, 1)
    await bus.advance(world.stream, 50)
    await bus.advance(world.stream, 40)
    _same(await bus.append(world.stream, world.at("a"), b"1", expected_last=0), 50, "the first of an advanced stream")
    await bus.advance(world.stream, 51)
    async with _refused(Conflict):
        await bus.advance(world.stream, 52)
    _same(await bus.append(world.stream, world.at("a"), b"2", expected_last=50), 51, "the one behind a refused advance")
    await bus.purge(world.stream, world.at(">"))
    await bus.advance(world.stream, 2**40)
    _same(await bus.append(world.stream, world.at("a"), b"3", expected_last=0), 2**40, "a stream that was emptied")
    found = [(m.sequence, m.data) for m in await _take(early, 1)]
    while found[-1][1] != b"3":
        found += [(m.sequence, m.data) for m in await _take(early, 1)]
    _same(found[-1], (2**40, b"3"), "what a follow sees that was there before")
    assert found == sorted(set(found)), f"a follow goes on over an advance, in order and once, came {found}"
    for wrong in (0, -1, 2**53):
        async with _refused(ConfigError):
            await bus.advance(world.stream, wrong)


async def _descriptions(world: _World) -> None:
    bus, other = await world.pair()
    await bus.ensure(world.spec())
    await bus.append(world.stream, world.at("a"), b"kept")
    await bus.append(world.stream, world.at("a"), b"kept too")
    await other.ensure(world.spec())
    await other.ensure(world.spec(per_subject_max=1, bytes_max=10_000_000))
    _same(await bus.pending(world.stream, world.at(">")), 1, "messages under a new limit")
    await bus.ensure(world.spec(per_subject_max=1, subjects=(world.at(">"), "check-more.>")))
    await bus.append(world.stream, "check-more.x", b"")
    async with _refused(ConfigError):
        await bus.ensure(world.spec(storage=Storage.MEMORY))
    async with _refused(ConfigError):
        await bus.ensure(world.spec(name=f"{world.stream}-2", subjects=(world.at("a"),)))
    async with _refused(ConfigError):
        await bus.ensure(world.spec(name="a.b"))


async def _full_streams(world: _World) -> None:
    bus = await world.bus()
    await bus.ensure(world.spec(bytes_max=100_000))
    for _ in range(4):
        await bus.append(world.stream, world.at("a"), bytes(20_000))
    async with _refused(BusFull):
        await bus.append(world.stream, world.at("a"), bytes(40_000))
    _same(await bus.pending(world.stream, world.at(">")), 4, "nothing old is dropped for what is new")
    await bus.delete(world.stream, 1)
    await bus.purge(world.stream, world.at(">"))
    await bus.append(world.stream, world.at("a"), bytes(40_000))


async def _forgetful_streams(world: _World) -> None:
    bus = await world.bus()
    async with _refused(ConfigError):
        await bus.ensure(world.spec(drop_oldest=True))
    await bus.ensure(world.spec(storage=Storage.MEMORY, bytes_max=100_000, drop_oldest=True))
    for number in range(8):
        await bus.append(world.stream, world.at("ab"[number % 2]), bytes([number]) * 20_000)
    left = await bus.pending(world.stream, world.at(">"))
    assert 1 <= left <= 4, f"expected at most 100,000 bytes to be kept, found {left} messages of 20,000"
    following = await bus.follow(world.stream, world.at(">"))
    kept = [(await anext(following)).data[0] for _ in range(left)]
    _same(kept, list(range(8 - left, 8)), "the newest are kept, whatever their subject")
    async with _refused(BusFull):
        await bus.append(world.stream, world.at("a"), bytes(bus.payload_max + 1))


async def _missing_streams(world: _World) -> None:
    bus, owner = await world.pair()
    async with _refused(BusUnavailable):
        await bus.append(world.stream, world.at("a"), b"", deadline_s=0.3)
    async with _refused(BusUnavailable):
        await bus.last(world.stream, world.at("a"), deadline_s=0.3)
    async with _refused(BusUnavailable):
        await bus.newest(world.stream, world.at("a"), deadline_s=0.3)
    early = await bus.follow(world.stream, world.at(">"))
    waiting = asyncio.ensure_future(bus.append(world.stream, world.at("a"), b"early", deadline_s=20))
    await owner.ensure(world.spec())
    _same(await waiting, 1, "an append that waited for its stream to be made")
    _same((await anext(early)).data, b"early", "a follow that waited for its stream to be made")


# ---- limits and ends


async def _large_payloads(world: _World) -> None:
    bus, other = await world.pair()
    await bus.ensure(world.spec())
    size = min(BIG_BYTES, bus.payload_max)
    data = bytes(range(256)) * (size // 256)
    inbox = await other.subscribe(world.at("plain"))
    follow = await other.follow(world.stream, world.at("stored"))
    await bus.publish(world.at("plain"), data)
    await bus.append(world.stream, world.at("stored"), data)
    assert (await anext(inbox)).data == data, "a large plain message came changed"
    assert (await anext(follow)).data == data, "a large stored message came changed"
    found = await bus.last(world.stream, world.at("stored"))
    assert found is not None and found.data == data, "a large message read by subject came changed"
    await bus.publish(world.at("plain"), bytes(bus.payload_max))
    _same(len((await anext(inbox)).data), bus.payload_max, "the largest payload")
    large = bytes(bus.payload_max + 1)
    async with _refused(BusFull):
        await bus.publish(world.at("plain"), large)
    async with _refused(BusFull):
        await bus.append(world.stream, world.at("stored"), memoryview(large))
    async with _refused(BusFull):
        await bus.request(world.at("plain"), large, deadline_s=1)
    await bus.publish(world.at("plain"), b"still here")
    _same((await anext(inbox)).data, b"still here", "a message after one that was too large")


async def _bad_arguments(world: _World) -> None:
    bus = await world.bus()
    for subject in ("", "a..b", ".a", "a.", "a b", "a.*", "a.>", "a\r\nPING", "x" * 2000):
        async with _refused(ConfigError):
            await bus.publish(subject, b"")
    for pattern in ("", "a..b", "a.b*", "a.>.b", "a.b>", "a b"):
        async with _refused(ConfigError):
            await bus.subscribe(pattern)
        async with _refused(ConfigError):
            await bus.subscribe(["fine", pattern])
        async with _refused(ConfigError):
            await bus.newest(world.stream, ["fine", pattern])
    for too_few_or_many in ([], [f"x.{i}" for i in range(1001)]):
        async with _refused(ConfigError):
            await bus.newest(world.stream, too_few_or_many)
    async with _refused(ConfigError):
        await bus.subscribe([])
    for headers in ({"a b": "x"}, {"a:": "x"}, {"": "x"}, {"a": "x\r\ny"}, {"Nats-Msg-Id": "x"}, {"a": "x" * 5000}):
        async with _refused(ConfigError):
            await bus.publish(world.at("x"), b"", headers)


async def _last_words(world: _World) -> None:
    receiver, sender = await world.pair()
    inbox = await receiver.subscribe(world.at("x"))
    for i in range(100):
        await sender.publish(world.at("x"), b"%d" % i)
    await sender.close()
    _same([int(m.data) for m in await _take(inbox, 100)], list(range(100)), "what was published before closing")


async def _ends(world: _World) -> None:
    before = asyncio.all_tasks()
    bus, other = await world.pair()
    await bus.ensure(world.spec())
    ask = "check-ends-ask"  # of no stream: a stream answers a request with its acknowledgement
    deaf = await other.subscribe(ask)
    waits = [
        asyncio.ensure_future(anext(await bus.subscribe(world.at("never")), None)),
        asyncio.ensure_future(anext(await bus.follow(world.stream, world.at("never")), None)),
        asyncio.ensure_future(bus.request(ask, b"", deadline_s=CHECK_S_MAX)),
    ]
    await anext(deaf)  # the request is on its way, so the iterations wait as well
    async with bus as same:
        assert same is bus, "entering a bus gives itself"
    ends = await asyncio.gather(*waits, return_exceptions=True)
    ended = [end is None or isinstance(end, BusClosed) for end in ends]
    _same(ended, [True, True, True], f"waits end when their bus is closed, came {ends!r}")
    await bus.close()
    assert not bus.connected, "a closed bus says that it is not connected"
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: bus.publish(world.at("x"), b""),
        lambda: bus.subscribe(world.at("x")),
        lambda: bus.request(world.at("x"), b"", deadline_s=1),
        lambda: bus.ensure(world.spec()),
        lambda: bus.append(world.stream, world.at("x"), b""),
        lambda: bus.last(world.stream, world.at("x")),
        lambda: bus.newest(world.stream, world.at("x")),
        lambda: bus.follow(world.stream, world.at("x")),
        lambda: bus.pending(world.stream, world.at("x")),
        lambda: bus.purge(world.stream, world.at("x")),
        lambda: bus.delete(world.stream, 1),
        lambda: bus.advance(world.stream, 1),
    ]
    for call in calls:
        async with _refused(BusClosed):
            await call()
    await other.close()
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not left, f"closed buses left tasks behind: {left}"


CHECKS: tuple[Callable[[_World], Awaitable[None]], ...] = (
    _patterns,
    _patterns_together,
    _order_payloads_headers,
    _own_messages,
    _closed_subscription,
    _slow_reader,
    _requests,
    _appends,
    _optimistic_appends,
    _appends_behind_a_pattern,
    _append_only,
    _repeated_appends,
    _boards,
    _following,
    _reading,
    _reading_many,
    _removing,
    _advancing,
    _descriptions,
    _full_streams,
    _forgetful_streams,
    _missing_streams,
    _large_payloads,
    _bad_arguments,
    _last_words,
    _ends,
)
