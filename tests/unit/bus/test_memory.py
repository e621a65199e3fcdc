"""The memory bus keeps the contract, repeats itself exactly from a seed, and its misfortunes strike as they say."""

from __future__ import annotations

import asyncio
import selectors
from contextlib import asynccontextmanager

import pytest

from fedbus.bus.base import Storage, StreamSpec
from fedbus.bus.memory import Faults, MemoryBroker, MemoryBus
from fedbus.errors import BusClosed, BusUnavailable, ConfigError
from fedbus.testing.bus import check_bus

JOURNAL = StreamSpec("journal", ("journal.>",), Storage.FILE)
BOARD = StreamSpec("board", ("task.>",), Storage.MEMORY, per_subject_max=1)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that does not wait: where it would, its clock jumps."""

    def __init__(self):
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        real = self._selector.select

        def select(timeout=None):
            assert timeout is not None or not asyncio.all_tasks(self), "every task waits, and no timer runs"
            self.now += timeout or 0.0
            return real(0)

        self._selector.select = select

    def time(self):
        return self.now


def run(main):
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@asynccontextmanager
async def _broker_without_faults():
    broker = MemoryBroker()

    async def fresh(name):
        return MemoryBus(broker, name)

    yield fresh


@asynccontextmanager
async def _broker_far_away():
    broker = MemoryBroker(seed=3, faults=Faults(delay_s=(0.001, 0.004)))

    async def fresh(name):
        return MemoryBus(broker, name)

    yield fresh


def test_the_memory_bus_keeps_the_contract():
    """Everything that base.Bus promises holds for the bus in memory, next door and behind delays, in virtual time."""
    run(check_bus(_broker_without_faults))
    run(check_bus(_broker_far_away))


async def test_the_memory_bus_keeps_the_contract_on_a_real_loop():
    """The same on an ordinary loop."""
    await check_bus(_broker_without_faults)


async def _story(seed, faults):
    """A world of some traffic and all misfortunes; returns what happened, with times."""
    broker = MemoryBroker(seed, faults)
    buses = [MemoryBus(broker, f"b{i}") for i in range(4)]
    loop = asyncio.get_running_loop()
    log = []
    await buses[0].ensure(JOURNAL)

    async def read(name, subscription):
        async for m in subscription:
            # written at once, not collected by a comprehension: the log of all readers is one story
            log.append((round(loop.time(), 9), name, m.subject, m.data, m.sequence, m.pending))  # noqa: PERF401

    readers = []
    for i, bus in enumerate(buses):
        readers.append(asyncio.create_task(read(f"plain{i}", await bus.subscribe("x.*"))))
        readers.append(asyncio.create_task(read(f"follow{i}", await bus.follow("journal", ">"))))

    async def write(bus, name):
        for i in range(30):
            await bus.publish(f"x.{name}", b"%d" % i)
            try:
                log.append((name, await bus.append("journal", f"journal.{name}", b"%d" % i, deadline_s=1.0)))
            except BusUnavailable:
                log.append((name, "unavailable"))
            await asyncio.sleep(0.05)

    writers = [asyncio.create_task(write(bus, f"w{i}")) for i, bus in enumerate(buses)]
    await asyncio.sleep(0.6)
    broker.restart()
    await asyncio.sleep(0.3)
    broker.partition("b1")
    await asyncio.sleep(0.3)
    broker.heal("b1")
    await asyncio.gather(*writers)
    broker.faults = Faults()
    await asyncio.sleep(10)
    stored = [(m.sequence, m.subject, m.data) for m in await _everything(buses[0])]
    for bus in buses:
        await bus.close()
    await asyncio.gather(*readers, return_exceptions=True)
    return log, stored


async def _everything(bus):
    count = await bus.pending("journal", ">")
    follow = await bus.follow("journal", ">")
    return [await anext(follow) for _ in range(count)]


STORMY = Faults(
    loss=0.2, repetition=0.2, reordering=0.2, reordering_s_max=0.2, delay_s=(0.001, 0.02), append_loss=0.1, ack_loss=0.1
)


def test_one_seed_makes_one_world():
    """The same seed gives the same log to the nanosecond; another seed another."""
    first, again, other = run(_story(7, STORMY)), run(_story(7, STORMY)), run(_story(8, STORMY))
    assert first == again
    assert first[0] != other[0]
    assert len(first[0]) > 500


@pytest.mark.parametrize("seed", range(20))
def test_following_is_reliable_in_any_weather(seed):
    """Whatever strikes, every follower sees every stored message once, in order; plain messages suffer."""
    log, stored = run(_story(seed, STORMY))
    for i in range(4):
        seen = [(entry[4], entry[2], entry[3]) for entry in log if entry[1] == f"follow{i}"]
        assert seen == stored
    acknowledged = {(name, n) for name, n, *rest in log if not rest and n != "unavailable"}
    assert {n for _, n in acknowledged} <= {n for n, _, _ in stored}
    assert len({n for _, n in acknowledged}) == len(acknowledged)


async def _collect(faults, count=2000):
    """Publish so many, and return what arrives, up to a marker sent when all has come to rest."""
    broker = MemoryBroker(1, faults)
    sender, receiver = MemoryBus(broker, "s"), MemoryBus(broker, "r")
    inbox = await receiver.subscribe("x")
    for i in range(count):
        await sender.publish("x", b"%d" % i)
    await asyncio.sleep(60)
    broker.faults = Faults()
    await sender.publish("x", b"-1")
    found = []
    while -1 not in found:
        found.append(int((await anext(inbox)).data))
    return found[:-1]


def test_loss_strikes_by_its_odds():
    """Of 2,000 messages with odds of 0.25, about a quarter is lost, the rest arrives in order."""
    found = run(_collect(Faults(loss=0.25)))
    assert 1400 < len(found) < 1600
    assert found == sorted(set(found))


def test_repetition_strikes_by_its_odds():
    """About a quarter arrives twice, none is lost."""
    found = run(_collect(Faults(repetition=0.25)))
    assert set(found) == set(range(2000))
    assert 2400 < len(found) < 2600


def test_only_reordering_breaks_the_order():
    """With delays alone the order of one sender holds; with reordering it does not, and nothing is lost."""
    assert run(_collect(Faults(delay_s=(0.0, 0.5)), 300)) == list(range(300))
    found = run(_collect(Faults(reordering=0.1), 300))
    assert sorted(found) == list(range(300))
    assert found != sorted(found)


def test_a_lost_acknowledgement_is_stored_and_a_lost_append_is_not():
    """Both are BusUnavailable after the deadline; only the first is in the stream."""

    async def main(faults):
        broker = MemoryBroker()
        bus = MemoryBus(broker, "x")
        await bus.ensure(JOURNAL)
        broker.faults = faults
        began = asyncio.get_running_loop().time()
        with pytest.raises(BusUnavailable):
            await bus.append("journal", "journal.a", b"", deadline_s=3.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)
        broker.faults = Faults()
        return await bus.pending("journal", ">")

    assert run(main(Faults(ack_loss=1.0))) == 1
    assert run(main(Faults(append_loss=1.0))) == 0


async def test_a_restart_wipes_memory_and_keeps_files():
    """FILE streams stay, MEMORY streams are gone until their owner needs them, every bus has reconnected once."""
    broker = MemoryBroker()
    owner, client = MemoryBus(broker, "owner"), MemoryBus(broker, "client")
    for spec in (JOURNAL, BOARD):
        await owner.ensure(spec)
    await owner.append("journal", "journal.a", b"kept")
    await owner.append("board", "task.a", b"lost")
    follow = await client.follow("board", "task.a")
    await anext(follow)
    broker.restart()
    assert (owner.reconnects, client.reconnects) == (1, 1)
    assert (await client.last("journal", "journal.a")).data == b"kept"
    with pytest.raises(BusUnavailable, match="no stream 'board'"):
        await client.last("board", "task.a", deadline_s=0.01)
    assert await owner.append("board", "task.a", b"again") == 1
    message = await anext(follow)
    assert (message.data, message.anew) == (b"again", 1)
    broker.restart(wipe_memory=False)
    assert (await owner.last("board", "task.a")).data == b"again"
    broker.wipe()
    assert await owner.last("journal", "journal.a") is None


async def test_a_restart_loses_what_is_on_its_way():
    """Plain messages published but not delivered are gone, and later ones arrive."""
    broker = MemoryBroker()
    bus = MemoryBus(broker, "x")
    inbox = await bus.subscribe("x")
    await bus.publish("x", b"lost")
    broker.restart()
    await bus.publish("x", b"arrives")
    assert (await anext(inbox)).data == b"arrives"


def test_an_outage_ends_calls_at_their_deadline_and_follows_go_on_after_it():
    """While the broker is down calls fail late, publishes wait up to the buffer; when it is up all goes on."""

    async def main():
        broker = MemoryBroker()
        bus, other = MemoryBus(broker, "x"), MemoryBus(broker, "y")
        await bus.ensure(JOURNAL)
        inbox, follow = await other.subscribe("x"), await other.follow("journal", ">")
        broker.down()
        assert not bus.connected
        with pytest.raises(BusUnavailable):
            await bus.last("journal", "journal.a", deadline_s=1.0)
        await bus.publish("x", b"buffered")
        ends = await asyncio.gather(*(bus.publish("y", bytes(2**20)) for _ in range(20)), return_exceptions=True)
        assert {type(end) for end in ends} == {type(None), BusUnavailable}
        patient = asyncio.create_task(bus.last("journal", "journal.a", deadline_s=5.0))
        await asyncio.sleep(1.0)
        broker.up()
        assert await patient is None
        assert (await anext(inbox)).data == b"buffered"
        await bus.append("journal", "journal.a", b"1")
        assert (await anext(follow)).data == b"1"
        assert (bus.connected, bus.reconnects) == (True, 1)

    run(main())


def test_a_partition_cuts_off_one_name_only():
    """The others go on; the healed one has reconnected, missed plain messages, and misses nothing of a stream."""

    async def main():
        broker = MemoryBroker()
        bus, cut = MemoryBus(broker, "x"), MemoryBus(broker, "cut")
        await bus.ensure(JOURNAL)
        inbox, follow = await cut.subscribe("x"), await cut.follow("journal", ">")
        await asyncio.sleep(1)
        broker.partition("cut")
        assert (bus.connected, cut.connected) == (True, False)
        await bus.publish("x", b"missed")
        await bus.append("journal", "journal.a", b"1")
        await asyncio.sleep(1)
        broker.heal("cut")
        await asyncio.sleep(1)
        await bus.publish("x", b"heard")
        assert (await anext(inbox)).data == b"heard"
        assert (await anext(follow)).data == b"1"
        assert (bus.reconnects, cut.reconnects) == (0, 1)

    run(main())


async def test_a_killed_bus_says_nothing_more():
    """After kill nothing goes out, waiting calls and iterations end with BusClosed, and the others don't notice."""
    broker = MemoryBroker()
    doomed, other = MemoryBus(broker, "doomed"), MemoryBus(broker, "other")
    inbox = await other.subscribe("x")
    waits = [
        asyncio.ensure_future(anext(await doomed.subscribe("y"))),
        asyncio.ensure_future(anext(await doomed.follow("journal", ">"))),
        asyncio.ensure_future(doomed.append("journal", "journal.a", b"")),
    ]
    await asyncio.sleep(0)
    await doomed.publish("x", b"never heard")
    doomed.kill()
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [BusClosed] * 3
    await other.publish("x", b"heard")
    assert (await anext(inbox)).data == b"heard"
    assert list(broker._connections) == [other]


def test_old_messages_and_old_ids_are_forgotten():
    """What is older than age_max_s is gone, and a message id is remembered for two minutes, not for three."""

    async def main():
        bus = MemoryBus(MemoryBroker(), "x")
        await bus.ensure(StreamSpec("s", ("s.>",), Storage.FILE, age_max_s=300.0))
        assert await bus.append("s", "s.a", b"", message_id="one") == 1
        await asyncio.sleep(110)
        assert await bus.append("s", "s.a", b"", message_id="one") == 1
        await asyncio.sleep(20)
        assert await bus.append("s", "s.a", b"", message_id="one") == 2
        await asyncio.sleep(200)
        assert await bus.pending("s", ">") == 1

    run(main())


async def test_bytes_are_counted():
    """bytes_out and bytes_in count the payloads that a bus has sent and been given."""
    broker = MemoryBroker()
    a, b = MemoryBus(broker, "a"), MemoryBus(broker, "b")
    await a.ensure(JOURNAL)
    inbox, follow = await b.subscribe("x"), await b.follow("journal", ">")
    await a.publish("x", bytes(100))
    await a.append("journal", "journal.a", bytes(10))
    await anext(inbox)
    await anext(follow)
    assert (a.bytes_out, a.bytes_in, b.bytes_out, b.bytes_in) == (110, 0, 0, 110)


@pytest.mark.parametrize(
    "wrong",
    [{"loss": 1.5}, {"ack_loss": -0.1}, {"delay_s": (2.0, 1.0)}, {"delay_s": (-1.0, 1.0)}, {"reordering_s_max": -1.0}],
)
def test_impossible_faults_are_refused(wrong):
    """Odds beyond 1, negative delays and reversed ranges are mistakes in a setting."""
    with pytest.raises(ConfigError):
        Faults(**wrong)
