"""What waits at a coordinator is bounded: the inbox, the copies of the journal, the reports nobody can place."""

from __future__ import annotations

import asyncio

from fedbus.bus.base import Message
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.coordinator import copies as copies_module
from fedbus.coordinator import inbox as inbox_module
from fedbus.coordinator import strays as strays_module
from fedbus.coordinator.clock import SharedClock
from fedbus.coordinator.copies import Copies, Copy
from fedbus.coordinator.events import Reported, StopAsked
from fedbus.coordinator.inbox import Inbox, Told
from fedbus.coordinator.strays import LOOK_S, Strays
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.records import Entry
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journal
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import run_virtual

OURS = Subjects("default")
K0 = Peer("combiner", "k0")


def judged(count):
    """A report of so many verdicts."""
    verdicts = tuple(reports.Verdict(client=f"c{i}", attempt=1, accepted=True) for i in range(count))
    body = reports.UpdatesJudged(session="s", round=1, incarnation="i", verdicts=verdicts)
    return Told("s", Reported(K0, f"r{count}", body))


def failed(name, number):
    """A report of a client."""
    body = reports.TaskFailed(session="s", round=1, attempt=1, stage="train", reason="-")
    return Told("s", Reported(Peer("client", name), f"r{number}", body))


def test_reports_beyond_the_bound_are_left_to_be_said_again(monkeypatch):
    """By their verdicts; commands and the passing of time always get through; what was taken makes room."""
    monkeypatch.setattr(inbox_module, "REPORTS_WEIGHT_MAX", 10)
    monkeypatch.setattr(inbox_module, "CLIENT_WEIGHT_MAX", 2)

    async def main():
        inbox = Inbox()
        command = Told("s", StopAsked("enough"), 7)
        for told in (judged(6), judged(5), judged(4), judged(1), command):
            inbox.put(told)
        inbox.tick()
        inbox.tick()
        assert await inbox.take() == ([judged(6), judged(4), command], True) and inbox.dropped == 2
        inbox.put(judged(50))
        assert await inbox.take() == ([judged(50)], False), "one that is larger than all there is room for"
        told = [failed(name, number) for name, number in [("evil", 1), ("evil", 2), ("evil", 3), ("c-1", 4)]]
        for one in told:
            inbox.put(one)
        assert await inbox.take() == ([told[0], told[1], told[3]], False), "one client's leave room for another's"

    run_virtual(main())


def test_copies_are_kept_as_stored_each_once_and_within_a_bound(monkeypatch):
    """In order, compressed where it pays; beyond the bound a session has none, and the others keep theirs."""
    monkeypatch.setattr(copies_module, "COPIES_BYTES_MAX", 5000)
    copies, large = Copies(), bytes(range(256)) * 40
    for sequence, data in ((3, b"one"), (5, large), (5, large), (4, b"late"), (9, memoryview(b"two"))):
        copies.keep("s", sequence, data)
    assert copies.of("s") == [Copy(3, b"one"), Copy(5, large), Copy(9, b"two")]
    assert 0 < copies.nbytes < len(large) // 2
    for sequence in range(10, 13):
        copies.keep("t", sequence, b"x" * 2000)
    assert copies.of("t") == [] and len(copies.of("s")) == 3, "too much: nothing of it"
    copies.keep("t", 13, b"small")
    assert copies.of("t") == [], "a part of a journal is none"
    copies.drop("s")
    copies.drop("t")
    assert copies.nbytes == 0
    copies.keep("t", 1, b"anew")
    assert copies.of("t") == [Copy(1, b"anew")]


def test_a_stray_is_acknowledged_when_the_journal_does_not_know_it_either(monkeypatch):
    """One that has ended at once; one that the journal goes on about is read; all with bounds on looks and memory."""
    monkeypatch.setattr(strays_module, "STRAYS_MAX", 3)

    async def main():
        async with MemoryBus(MemoryBroker(), "co") as bus:
            await ensure_streams(bus, OURS)
            strays = Strays(bus, OURS)
            last = await Journal(bus, OURS).append("known", Entry(at=1.0, epoch="e", records=()), 0)
            strays.add("over", (K0, "r1"), ended=True)
            strays.add("known", (K0, "r2"), ended=False)
            strays.add("nowhere", (K0, "r3"), ended=False)
            strays.doubt("mine")
            for index in range(5):
                strays.add(f"flood-{index}", (K0, f"f{index}"), ended=False)
            assert await strays.look({"mine": 4}) == ["known"]
            assert list(strays.useless()) == [(K0, ["r1", "r3", "f0"])]
            strays.add("nowhere", (K0, "r4"), ended=False)
            strays.doubt("known")
            assert await strays.look({"known": last}) == [] and not list(strays.useless()), "not so soon again"
            await asyncio.sleep(LOOK_S)
            assert await strays.look({"known": last}) == [] and list(strays.useless()) == [(K0, ["r4"])]

    run_virtual(main())


def test_a_journal_that_cannot_be_asked_settles_nothing():
    """No answer is not the answer that nobody knows the session."""

    async def main():
        broker = MemoryBroker()
        async with MemoryBus(broker, "co") as bus:
            await ensure_streams(bus, OURS)
            strays = Strays(bus, OURS)
            broker.down()
            strays.add("s", (K0, "r1"), ended=False)
            assert await strays.look({}) == [] and not list(strays.useless())
            broker.up()
            assert await strays.look({}) == [] and list(strays.useless()) == [(K0, ["r1"])]

    run_virtual(main())


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now):
        self.at = now

    def now(self):
        """What it was set to."""
        return self.at


def test_the_time_of_the_former_leader_is_taken_over():
    """By the lease that was under way for the shortest time, not by the first one, and never behind the journal."""
    own = Clock(1000.0)
    clock = SharedClock(own)
    for holder, at in (("a", 10.0), ("a", 4999.6), ("a", 5000.0), ("a", 4999.9)):
        clock.heard(holder, at)
    assert clock.now() == 1000.0, "only with taking over"
    assert clock.adopt(0.0, under_way=True) == 4000.0 and clock.now() == 5000.0
    clock.heard("b", 9.0)
    assert clock.adopt(0.0, under_way=False) == 0.0, "one lease of unknown age says nothing"
    assert clock.adopt(5003.0, under_way=False) == 3.0
    own.at += 10.0
    assert clock.now() == 5013.0
    clock.heard("c", 4900.0)
    own.at += 7.0
    assert clock.succeeding == 4907.0 and clock.now() == 5020.0, "whoever takes over and dies has handed the time on"
    assert clock.adopt(0.0, under_way=True) == -113.0 and clock.now() == 4907.0, "rather late than soon"
    assert clock.reach(4900.0) == 0.0 and clock.reach(4910.0) == 3.0 and clock.now() == 4910.0, "an entry came late"


def test_where_no_lease_is_left_time_goes_on_from_the_journal():
    """All coordinators and the board are gone: an outage looks as a clock that is wrong by it, so time is late."""
    own = Clock(9000.0)
    clock = SharedClock(own)
    assert clock.adopt(5000.0, under_way=True) == -4000.0 and clock.now() == 5000.0
    own.at += 60.0
    assert clock.adopt(5010.0, under_way=True) == 0.0 and clock.now() == 5060.0, "who has led knows the time"
    assert SharedClock(own).adopt(5000.0, under_way=False) == 0.0, "nothing hangs on it"
    assert SharedClock(own).adopt(0.0, under_way=True) == 0.0, "nothing is journalled yet but garbage"


def test_messages_are_kept_by_their_bytes():
    """A view of a receive buffer is copied: the buffer is written over."""
    buffer = bytearray(b"entry")
    copies = Copies()
    message = Message("x", memoryview(buffer))
    copies.keep("s", 1, message.data)
    buffer[:] = b"other"
    assert copies.of("s") == [Copy(1, b"entry")]
