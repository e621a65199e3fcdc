"""Several coordinators on one bus, in virtual time: taking over, handing over, standing still, clocks that differ."""

from __future__ import annotations

import asyncio

import pytest
from crowd import MODEL, Combiner, Crowd

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.coordinator import answers, service
from fedbus.coordinator.lease import TTL_S
from fedbus.coordinator.service import Coordinator
from fedbus.errors import BusFull
from fedbus.federation.service import Federation
from fedbus.messages import queries, records
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journal
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")
TAKE_OVER_S = 5.0


class House:
    """Coordinators, a combiner and a crowd on one broker; the crowd is asked and does not answer before it may."""

    def __init__(self):
        self.broker, self.clock = MemoryBroker(), VirtualClock()
        self.crowd = Crowd(MemoryBus(self.broker, "crowd"), self.clock, 2)
        self.coordinators, self.tasks, self.buses = {}, {}, {}

    def live(self, name, work):
        """Let a role live."""
        self.tasks[name] = asyncio.create_task(work)

    def coordinator(self, name, skew_s=0.0):
        """Start a coordinator."""
        bus = self.buses[name] = MemoryBus(self.broker, name)
        fields = {"incarnation": f"{name}-1", "workspace": "default", "workers": Inline()}
        made = self.coordinators[name] = Coordinator(bus, name=name, clock=VirtualClock(skew_s), **fields)
        self.live(name, made.run())

    def people(self):
        """Let the crowd and a combiner live."""
        self.live("crowd", self.crowd.run())
        self.live("k0", Combiner(MemoryBus(self.broker, "k0"), self.clock, self.crowd).run())

    async def kill(self, name):
        """End a coordinator as kill -9 would."""
        self.buses[name].kill()
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks.pop(name)])

    async def stop(self, name):
        """End a coordinator as SIGTERM does."""
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks.pop(name)])

    def leaders(self):
        """Who leads."""
        return [name for name, one in self.coordinators.items() if one.leads and name in self.tasks]


def in_house(test):
    """Run a coroutine function in a fresh house."""

    async def main():
        house = House()
        async with Federation(MemoryBus(house.broker, "eve"), name="eve", workers=Inline()) as federation:
            await ensure_streams(federation.bus, OURS)
            await test(house, federation)
        for task in house.tasks.values():
            assert not task.done() or task.cancelled(), task
            task.cancel()
        await asyncio.wait(house.tasks.values())

    run_virtual(main())


async def first_and_standby(house, **skews):
    """Start two coordinators, the first of which leads."""
    house.coordinator("first", skews.get("first", 0.0))
    await asyncio.sleep(1.0)
    house.coordinator("second", skews.get("second", 0.0))
    await asyncio.sleep(3.0)
    assert house.leaders() == ["first"]


async def next_entry(federation, name, behind):
    """Wait for the next entry of a session's journal; returns it."""
    async for journalled in federation.journal.follow(name, behind + 1):
        return journalled
    raise AssertionError("the journal ends")


async def opened(federation, clients=2, **settings):
    """Start a session that waits for more clients than there are; returns it and its last sequence."""
    config = SessionConfig(rounds=1, clients_min=clients, evaluate_every=0, **settings)
    session = await federation.start_session(config, model=MODEL, name="s")
    entries = await federation.journal.read("s")
    return session, entries[-1].sequence


def test_a_standby_goes_on_within_five_seconds_of_a_kill():
    """It leads, answers, and journals what becomes true then; nothing was asked twice."""

    async def main(house, federation):
        await first_and_standby(house)
        session, last = await opened(federation)
        await house.kill("first")
        began = asyncio.get_running_loop().time()
        house.people()
        entry = await next_entry(federation, "s", last)
        assert asyncio.get_running_loop().time() - began < TAKE_OVER_S
        assert (entry.entry.epoch, entry.entry.term) == ("second-1", 2) and house.leaders() == ["second"]
        assert (await session.wait()).outcome == "completed"

    in_house(main)


def test_who_is_told_to_end_hands_over_at_once():
    """The lease is given back: no waiting until it runs out; the session does not notice."""

    async def main(house, federation):
        await first_and_standby(house)
        session, _ = await opened(federation)
        began = asyncio.get_running_loop().time()
        await house.stop("first")
        await asyncio.sleep(0.5)
        assert asyncio.get_running_loop().time() - began < 1.0 and house.leaders() == ["second"]
        house.people()
        assert (await session.wait()).outcome == "completed"

    in_house(main)


def test_a_leader_that_was_cut_off_follows_when_it_is_reached_again():
    """Thirty seconds without the bus: another leads since; it says so, and journals nothing any more."""

    async def main(house, federation):
        await first_and_standby(house)
        session, last = await opened(federation)
        house.broker.partition("first")
        await asyncio.sleep(30.0)
        assert house.leaders() == ["second"] and not house.coordinators["first"].leads
        house.broker.heal("first")
        house.people()
        assert (await session.wait()).outcome == "completed"
        entries = await federation.journal.read("s")
        assert {entry.entry.epoch for entry in entries if entry.sequence > last} == {"second-1"}
        assert house.leaders() == ["second"]

    in_house(main)


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_a_standby_whose_clock_is_an_hour_off_goes_on_by_the_leaders_time(skew_s):
    """Deadlines stay what they are: the session does not fail early, nor an hour late, and no time goes back."""

    async def main(house, federation):
        await first_and_standby(house, second=skew_s)
        session, last = await opened(federation, gather_deadline_s=60.0)
        began = asyncio.get_running_loop().time()
        await house.kill("first")
        entry = await next_entry(federation, "s", last)
        assert 59.0 < asyncio.get_running_loop().time() - began < 62.0
        (ended,) = entry.entry.unpack()
        assert isinstance(ended, records.SessionEnded) and "not within 60 s" in ended.reason
        entries = await federation.journal.read("s")
        times = [one.entry.at for one in entries]
        assert times == sorted(times) and times[-1] - times[0] < 62.0
        del session

    in_house(main)


def test_the_first_to_come_does_not_go_behind_the_journal():
    """A clock that is behind what is journalled goes on from there, it does not stand still until it is reached."""

    async def main(house, federation):
        house.coordinator("first")
        await asyncio.sleep(1.0)
        _, last = await opened(federation, gather_deadline_s=60.0)
        began = asyncio.get_running_loop().time()
        await house.kill("first")
        house.coordinator("late", -3600.0)
        await next_entry(federation, "s", last)
        assert 55.0 < asyncio.get_running_loop().time() - began < 65.0

    in_house(main)


def test_a_full_journal_holds_one_session_and_shows_among_the_waits(monkeypatch):
    """It waits for room and says so; another session goes through; with room it goes on with what it had decided."""
    append, full = Journal.append, True

    async def refuse(self, session, entry, expected_last):
        if full and session == "s" and expected_last:
            raise BusFull("the store holds 100 of at most 100 bytes")
        return await append(self, session, entry, expected_last)

    monkeypatch.setattr(Journal, "append", refuse)

    async def main(house, federation):
        nonlocal full
        house.coordinator("first")
        session, _ = await opened(federation)
        house.people()
        await asyncio.sleep(5.0)
        waits = {wait.what: wait for wait in await federation.waits()}
        (held,) = [wait for what, wait in waits.items() if "room in the broker's store" in what]
        assert held.session == "s" and held.since_at < held.until_at and "100 bytes" in held.what and held.then
        config = SessionConfig(rounds=1, clients_min=9, evaluate_every=0)
        other = await federation.start_session(config, model=MODEL, name="other")
        await other.stop("enough")
        assert (await other.wait()).outcome == "stopped"
        full = False
        assert (await session.wait()).outcome == "completed"

    in_house(main)


def test_what_a_former_leader_has_on_its_way_does_not_stay():
    """A coordinator that is heard of anew may have posted: everything is posted again, so the newest word is ours."""
    posted = []

    async def main(house, federation):
        await first_and_standby(house)
        await opened(federation, clients=3)
        house.people()
        await asyncio.sleep(2.0)
        stale = await federation.bus.last(OURS.stream("board"), OURS.order("k0", "s"))
        house.broker.partition("first")
        await asyncio.sleep(TTL_S + 1.0)
        assert house.leaders() == ["second"]
        house.broker.heal("first")
        await house.buses["first"].append(OURS.stream("board"), OURS.order("k0", "s"), b"an older word")
        await asyncio.sleep(service.HEARTBEAT_S + 1.0)
        newest = await federation.bus.last(OURS.stream("board"), OURS.order("k0", "s"))
        assert bytes(newest.data) != b"an older word" and newest.sequence > stale.sequence + 1
        posted.append(newest)

    in_house(main)
    assert posted


def test_three_coordinators_one_leads():
    """Started together: one is the leader, after any of them is gone one of the others is."""

    async def main(house, federation):
        for name in ("a", "b", "c"):
            house.coordinator(name)
        await asyncio.sleep(3.0)
        for _ in range(2):
            (leader,) = house.leaders()
            await house.kill(leader)
            await asyncio.sleep(TAKE_OVER_S)
        assert len(house.leaders()) == 1
        del federation

    in_house(main)


def test_an_engineer_goes_by_the_coordinators_time():
    """After an outage of an hour a wait has as long to go as it had, by the time that its answer says."""

    async def main(house, federation):
        mine = Federation(MemoryBus(house.broker, "ann"), name="ann", clock=house.clock, workers=Inline())
        async with mine:
            house.coordinator("first")
            await opened(federation, clients=3)
            await asyncio.sleep(1.0)
            (before,) = await mine.waits()
            assert mine.now() == pytest.approx(house.clock.now(), abs=0.5)
            left_s = before.until_at - mine.now()
            await house.kill("first")
            await asyncio.sleep(3600.0)
            house.coordinator("second")
            await asyncio.sleep(TAKE_OVER_S)
            overview = await mine.overview()
            (after,) = overview.waits
            assert after.until_at - house.clock.now() < left_s - 3500, "by our own clock it has been over long ago"
            assert left_s - 15 < after.until_at - mine.now() <= left_s
            assert [peer.name for peer in overview.coordinators] == ["second"]
            assert abs(overview.coordinators[0].seen_at - mine.now()) < 10

    in_house(main)


def test_a_coordinator_that_does_not_say_its_time(monkeypatch):
    """One of an older version: the engineer's own clock is what there is."""

    async def main(house, federation):
        mine = Federation(MemoryBus(house.broker, "ann"), name="ann", clock=house.clock, workers=Inline())
        async with mine:
            house.coordinator("first", -3600.0)
            await asyncio.sleep(3.0)
            await mine.waits()
            assert mine.now() == pytest.approx(house.clock.now() - 3600.0, abs=0.5)
            monkeypatch.setattr(answers, "_answer_to", lambda *_: queries.Waits(waits=()))
            await mine.waits()
            assert mine.now() == house.clock.now()

    in_house(main)
