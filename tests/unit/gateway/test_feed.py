"""Events to readers, over the memory bus: none twice, none missing, also of a journal that was written again."""

from __future__ import annotations

import asyncio

from asker import ask, gateway_in
from whole_house import House

from fedbus.bus.memory import MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.gateway import feed as feeds
from fedbus.gateway.events import BEGINNING, Event
from fedbus.gateway.feed import ALL, Quiet, Reset, Said
from fedbus.gateway.folded import Folded
from fedbus.gateway.index import Position
from fedbus.messages import records
from fedbus.messages.records import RESTORED, RESTORING, Entry
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journal
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import run_virtual

DIGEST = "0" * 64
API = "/api/v1"


class Writer:
    """Who writes journals; ``last``: of each session, the sequence of its newest entry."""

    def __init__(self, house):
        bus = MemoryBus(house.broker, "writer")
        self.bus = bus
        self.journal = Journal(bus, Subjects("default"))
        self.last = {}
        self.data = {}

    async def start(self, session, rounds=1000):
        """A session begins."""
        config = SessionConfig(rounds=rounds)
        begins = records.SessionStarted(config=config, version=f"{session}-0", blob="b", digest=DIGEST, nbytes=8)
        await self.write(session, begins, opened(1))

    async def write(self, session, *happened):
        """Append an entry."""
        entry = Entry.of(1000.0, "co", happened)
        self.last[session] = await self.journal.append(session, entry, self.last.get(session, 0))
        self.data.setdefault(session, []).append(self.journal.written)

    async def round(self, session, number):
        """Close a round and open the next one: an entry of two records."""
        closed = records.RoundClosed(round=number, counted=0, opened_at=1000.0)
        await self.write(session, closed, opened(number + 1))

    async def write_again(self, session):
        """Append all that was written of a session, between the two marks, as a coordinator does."""
        last = await self.journal.mark(session, RESTORING, 2000.0, 0)
        for data in self.data[session]:
            last = await self.journal.append_again(session, data, last)
        self.last[session] = await self.journal.mark(session, RESTORED, 2000.0, last)


def opened(number):
    """A round of nobody."""
    return records.RoundOpened(
        round=number, attempt=1, version="v", blob="b", clients={}, incarnations={}, target=1, deadline_at=1.0
    )


class Heard:
    """What a reader was told: events as (session, id), and what else there was."""

    def __init__(self, gateway, session=ALL, start=None, quiet_s=1000.0):
        self.told = []
        self.resets = self.quiets = 0
        self.said = []
        self.task = asyncio.ensure_future(self._run(gateway.feed.read(session, start, quiet_s=quiet_s)))

    async def _run(self, told):
        async for one in told:
            match one:
                case Event():
                    self.told.append((one.session, str(one.position)))
                case Reset():
                    self.resets += 1
                    self.told = []
                case Quiet():
                    self.quiets += 1
                case Said():
                    self.said.append(one.frame)

    async def close(self):
        """Go away."""
        self.task.cancel()
        await asyncio.wait([self.task])


def scene(test):
    """Run a test with a gateway and a writer."""

    async def main():
        house = House()
        writer = Writer(house)
        await ensure_streams(writer.bus, Subjects("default"))
        await test(house, writer)
        house.check()

    run_virtual(main())


def test_a_reader_hears_what_comes_once_and_in_order():
    """From now on, of the workspace and of a session alone; the same for whoever comes later and begins earlier."""

    async def test(house, writer):
        await writer.start("s")
        async with gateway_in(house) as gateway:
            heard, of_s = Heard(gateway), Heard(gateway, "s")
            await asyncio.sleep(0.1)
            await writer.start("t")
            await writer.round("s", 1)
            await asyncio.sleep(0.1)
            late, after = Heard(gateway, start=BEGINNING), Heard(gateway, start=Position(1, 0))
            await writer.round("t", 1)
            await asyncio.sleep(0.1)
            new = [("t", "2.0"), ("t", "2.1"), ("s", "3.0"), ("s", "3.1"), ("t", "4.0"), ("t", "4.1")]
            assert heard.told == new
            assert of_s.told == [("s", "3.0"), ("s", "3.1")]
            assert late.told == [("s", "1.0"), ("s", "1.1"), *new]
            assert after.told == [("s", "1.1"), *new], "from the middle of an entry"
            for reader in (heard, of_s, late, after):
                assert reader.resets == 0
                await reader.close()
            assert gateway.feed.readers == gateway.feed.listeners == 0

    scene(test)


def test_a_reader_that_is_behind_what_is_held_reads_the_journal(monkeypatch):
    """However little is held, and however slow a reader is: each event once, in order."""
    monkeypatch.setattr(feeds, "HELD_MAX", 4)

    async def test(house, writer):
        await writer.start("s")
        await writer.start("t")
        async with gateway_in(house) as gateway:
            slow, slow_of_s = [], []

            async def read(session, told):
                async for one in gateway.feed.read(session, BEGINNING, quiet_s=1000):
                    told.append((one.session, str(one.position)))
                    await asyncio.sleep(0.5)

            reading = [asyncio.ensure_future(read(ALL, slow)), asyncio.ensure_future(read("s", slow_of_s))]
            quick = Heard(gateway, start=BEGINNING)
            expected = [("s", "1.0"), ("s", "1.1"), ("t", "2.0"), ("t", "2.1")]
            for number in range(1, 31):
                session = "s" if number % 3 else "t"
                await writer.round(session, number)
                expected += [(session, f"{number + 2}.{index}") for index in range(2)]
                await asyncio.sleep(0.05)
            await asyncio.sleep(60)
            assert quick.told == slow == expected
            assert slow_of_s == [one for one in expected if one[0] == "s"]
            for task in reading:
                task.cancel()
            await asyncio.wait(reading)
            await quick.close()

    scene(test)


def test_a_quiet_reader_hears_that_nothing_came():
    """After each so many seconds; what is said to the workspace is not told to who reads a session.

    The workspace hears the overview once, not each second: nothing changes.
    """

    async def test(house, writer):
        await writer.start("s")
        async with gateway_in(house) as gateway:
            heard, of_s = Heard(gateway, quiet_s=10.0), Heard(gateway, "s", quiet_s=10.0)
            await asyncio.sleep(35)
            assert (heard.quiets, of_s.quiets) == (3, 3)
            assert len(heard.said) == 1 and heard.said[0].startswith(b"event: overview\ndata: {")
            gateway.feed.say(b"one")
            gateway.feed.say(b"two")
            await asyncio.sleep(1)
            assert heard.said[-1] == b"two" and b"one" not in heard.said, "only the newest counts"
            assert of_s.said == []
            await heard.close()
            await of_s.close()

    scene(test)


def test_garbage_in_the_journal_is_passed_over():
    """What no coordinator wrote takes its place in the count, and nothing else."""

    async def test(house, writer):
        await writer.start("s")
        await writer.bus.append("fb-default-journal", "fb.default.journal.s", b"garbage")
        async with gateway_in(house) as gateway:
            heard = Heard(gateway, start=BEGINNING)
            await writer.bus.append("fb-default-journal", "fb.default.journal.t", b"\xc1")
            writer.last["s"] = 2
            await writer.round("s", 1)
            await asyncio.sleep(0.1)
            assert heard.told == [("s", "1.0"), ("s", "1.1"), ("s", "4.0"), ("s", "4.1")]
            answer = await ask(gateway, "GET", f"{API}/sessions")
            assert [one["session"] for one in answer.json["items"]] == ["s"]
            await heard.close()

    scene(test)


def test_a_journal_that_was_lost_is_told_again():
    """The broker comes back without its data, and one of two sessions is written again: all that was told is void.

    Whoever reads is told so, and everything that stands there now; so is who comes with a place from before.
    """

    async def test(house, writer):
        await writer.start("gone")
        await writer.start("s")
        for number in range(1, 4):
            await writer.round("s", number)
        async with gateway_in(house) as gateway:
            heard, of_s = Heard(gateway, start=BEGINNING), Heard(gateway, "s", start=BEGINNING)
            await asyncio.sleep(0.1)
            assert len(heard.told) == 10 and len(of_s.told) == 8
            house.broker.wipe()
            await asyncio.sleep(5)
            assert (await ask(gateway, "GET", f"{API}/sessions")).json["items"] == [], "an empty broker is noticed"
            await writer.bus.advance("fb-default-journal", 1_000_001)
            await writer.write_again("s")
            await asyncio.sleep(5)
            await writer.round("s", 4)
            await asyncio.sleep(5)
            # 1000001: the first mark; then four entries, the second mark, and one that is new
            sequences = [*range(1_000_002, 1_000_006), 1_000_007]
            now = [("s", f"{sequence}.{index}") for sequence in sequences for index in range(2)]
            assert heard.resets >= 1 and of_s.resets >= 1
            assert heard.told == of_s.told == now
            old = Heard(gateway, start=Position(3, 1))
            await asyncio.sleep(1)
            assert (old.resets, old.told) == (1, now)
            answer = await ask(gateway, "GET", f"{API}/sessions")
            assert [one["session"] for one in answer.json["items"]] == ["s"]
            answer = await ask(gateway, "GET", f"{API}/sessions/s/rounds")
            assert [one["round"] for one in answer.json["items"]] == [1, 2, 3, 4, 5]
            answer = await ask(gateway, "GET", f"{API}/events?limit=500")
            assert [one["id"] for one in answer.json["items"]] == [id_ for _, id_ in now]
            for reader in (heard, of_s, old):
                await reader.close()

    scene(test)


def test_a_place_beyond_the_end_is_none():
    """A broker that was restored to an earlier state: the reader begins anew, and is told so."""

    async def test(house, writer):
        await writer.start("s")
        async with gateway_in(house) as gateway:
            heard, behind_entry = Heard(gateway, start=Position(77, 0)), Heard(gateway, start=Position(1, 9999))
            await asyncio.sleep(5)
            assert (heard.resets, heard.told) == (1, [("s", "1.0"), ("s", "1.1")])
            assert (behind_entry.resets, behind_entry.told) == (0, []), "behind an entry, whatever it has"
            await heard.close()
            await behind_entry.close()

    scene(test)


def test_a_place_that_another_gateway_has_told_is_waited_for():
    """A reader may come from a gateway that heard of an event a moment before this one: nothing begins anew for it."""

    async def test(house, writer):
        await writer.start("s")
        async with gateway_in(house) as gateway:
            heard = Heard(gateway, start=Position(2, 1))
            await asyncio.sleep(1)
            await writer.round("s", 1)
            await writer.round("s", 2)
            await asyncio.sleep(5)
            assert (heard.resets, heard.told) == (0, [("s", "3.0"), ("s", "3.1")])
            await heard.close()

    scene(test)


def test_an_entry_that_fits_to_nothing_ends_no_gateway():
    """Records that contradict what stands before them are passed over: what follows, of all sessions, is known."""
    counted = records.RoundClosing(
        round=1, attempt=1, counted=("nobody",), root="k", publish="s1-1", reason="x", deadline_at=9.0
    )
    ended = records.SessionEnded(outcome="stopped", reason="enough")

    async def scene():
        house = House()
        async with gateway_in(house) as gateway:
            writer = Writer(house)
            await writer.start("s1")
            await writer.write("s1", counted)
            await writer.write("s1", ended)
            await writer.start("s2")
            await asyncio.sleep(1)
            found = (await ask(gateway, "GET", f"{API}/sessions")).json["items"]
            report = await ask(gateway, "GET", f"{API}/sessions/s1/rounds/1")
            return {one["session"]: one["status"] for one in found}, report.status

    assert run_virtual(scene()) == ({"s1": "stopped", "s2": "running"}, 200)


def test_a_defect_of_the_fold_ends_no_gateway(monkeypatch, caplog):
    """What raises on one record is logged; the next ones are known."""
    original = Folded._take

    def raises(self, session, record, at):
        if isinstance(record, records.RoundClosed):
            raise KeyError("nobody")
        original(self, session, record, at)

    monkeypatch.setattr(Folded, "_take", raises)

    async def scene():
        house = House()
        async with gateway_in(house) as gateway:
            writer = Writer(house)
            await writer.start("s1")
            await writer.round("s1", 1)
            await writer.write("s1", records.SessionEnded(outcome="stopped", reason="enough"))
            await asyncio.sleep(1)
            return (await ask(gateway, "GET", f"{API}/sessions/s1")).json["status"]

    assert run_virtual(scene()) == "stopped"
    assert "s1: 2.0 is passed over" in caplog.text


def test_who_has_heard_nothing_resumes_exactly_there():
    """A stream of an empty journal has an id to go on from: what is written while it is broken comes afterwards."""

    async def listened(gateway, **headers):
        headers = {"Accept": "text/event-stream", **headers}
        asking = asyncio.ensure_future(ask(gateway, "GET", f"{API}/events", headers=headers))
        await asyncio.sleep(0.5)  # of virtual time
        gateway.draining.set()
        told = (await asking).body.decode()
        gateway.draining.clear()
        return [line[4:] for line in told.splitlines() if line.startswith("id: ")]

    async def scene():
        house = House()
        async with gateway_in(house) as gateway:
            (place,) = await listened(gateway)
            await Writer(house).start("s1")
            await asyncio.sleep(0.5)
            return await listened(gateway, **{"Last-Event-ID": place})

    assert run_virtual(scene())[1:] == ["1.0", "1.1"]
