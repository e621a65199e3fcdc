"""The coordinator as it runs, on the memory bus: thousands of clients, late catalogues, silent boards, rivals."""

from __future__ import annotations

import asyncio

import pytest
from crowd import MODEL, Combiner, Crowd, session_of

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.coordinator import posting, service
from fedbus.coordinator.chores import Chores
from fedbus.coordinator.events import NotPosted, PostOrder, PostTask
from fedbus.coordinator.leading import Leading
from fedbus.coordinator.posting import Poster
from fedbus.coordinator.service import Coordinator
from fedbus.errors import BusFull, BusUnavailable, NotFound
from fedbus.exchange.station import Station
from fedbus.federation.service import Federation
from fedbus.messages import records
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.presence import Hello
from fedbus.messages.records import Entry
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Task
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")
COUNT = 2500


def test_a_crowd_goes_through_its_rounds():
    """Each client is told once for each thing it has to do; the journal grows by batches, not by clients."""

    async def after(federation, coordinator):
        clients = await federation.clients()
        assert [seen.name for seen in clients] == sorted(f"crowd-{i}" for i in range(COUNT))
        assert {(seen.role, seen.incarnation, seen.members) for seen in clients} == {("client", "c-1", 0)}
        assert [model.version for model in await federation.models.list()] == ["s-0", "s-1", "s-2"]
        assert await federation.bus.pending(OURS.stream("command"), OURS.command()) == 0
        assert not coordinator.machines

    config = SessionConfig(rounds=2, clients_min=COUNT, evaluate_every=2)
    events, entries, crowd, combiner = run_virtual(session_of(COUNT, config, after=after))
    assert crowd.tasks == {"train": 2 * COUNT, "evaluate": COUNT, "ended": COUNT}
    assert combiner.orders == {"fold": 2, "merge": 2, "rest": 1, "ended": 1}
    closed = [event.data for event in events if isinstance(event.data, records.RoundClosed)]
    assert [(one.counted, one.not_counted) for one in closed] == [(COUNT, {}), (COUNT, {})]
    (evaluated,) = [event.data for event in events if isinstance(event.data, records.RoundEvaluated)]
    assert len(evaluated.clients) == COUNT and evaluated.missing == {}
    updates = sum(event.kind == "UpdatesRecorded" for event in events)
    assert len(entries) == 1 + updates + 2 + 1, "the opening, the updates, two closes, the end of the evaluation"
    assert 2 * COUNT / 1000 <= updates <= 40


# --- posting ---


def posts_of(count):
    """Some posts, an order first."""
    common = {"version": "v", "blob": "b", "weight_max": 1.0, "value_floor": 1.0, "headroom": 1.0, "strategy": "x"}
    order = Order(session="s", revision=1, incarnation="i", state="rest", round=0, **common)
    tasks = [PostTask(f"c{i}", Task(session="s", revision=1, state="rest")) for i in range(count)]
    return [PostOrder("k0", order), *tasks]


class Board:
    """A bus that takes some appends only."""

    def __init__(self, refuse):
        self.refuse = refuse
        self.taken, self.tried, self.under_way, self.most = [], 0, 0, 0

    async def append(self, stream, subject, data, *, headers, deadline_s):
        """Append, or not."""
        self.tried += 1
        error = self.refuse(subject)
        if error is None:
            self.taken.append(subject.split(".")[2:4])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.01)
        self.under_way -= 1
        if error:
            raise error
        return 1


def post_to(board, posts):
    """Post to a board."""

    async def main():
        station = Station(board, "default", Peer("coordinator", "co"), "i", VirtualClock(), heartbeat_s=1.0)
        return await Poster(station).post("s", posts, None)

    return run_virtual(main())


def test_posts_go_out_in_order_and_many_at_once(monkeypatch):
    """Orders before tasks, as given; never more under way than the bound."""
    monkeypatch.setattr(posting, "POSTS_MAX", 7)
    board = Board(lambda subject: None)
    assert post_to(board, posts_of(40)) is None
    assert board.taken == [["order", "k0"], *(["task", f"c{i}"] for i in range(40))] and board.most == 7


def test_what_the_bus_does_not_take_is_named():
    """One that does not fit holds nobody up."""
    board = Board(lambda subject: BusFull("too large") if ".c3." in subject or ".k0." in subject else None)
    assert post_to(board, posts_of(9)) == NotPosted(frozenset({"c3"}), frozenset({"k0"})) and len(board.taken) == 8


def test_a_silent_bus_is_not_asked_ten_thousand_times(monkeypatch):
    """After the first silence the rest is left for later: each try would wait for its deadline."""
    monkeypatch.setattr(posting, "POSTS_MAX", 5)
    board = Board(lambda subject: BusUnavailable("silence"))
    left = post_to(board, posts_of(100))
    assert board.tried == 5 and len(left.clients) == 100 and left.combiners == {"k0"}


# --- chores ---


def test_chores_are_done_until_they_are_done():
    """What the bus does not take is tried again, and done once; the end waits for what is left, but not long."""

    async def main():
        done, refused = [], [BusUnavailable("away"), BusFull("full")]

        class Models:
            async def enter(self, model):
                if refused:
                    raise refused.pop()
                done.append(model)

            async def remove(self, blob):
                done.append(blob)
                if blob == "stuck":
                    await asyncio.sleep(1e9)

        chores = Chores(None, OURS, Models(), None)
        task = asyncio.create_task(chores.run())
        model = records.SessionStarted(config=SessionConfig(), version="s-0", blob="b", digest="ab" * 32, nbytes=1)
        chores.enter(model.model("s", 1.0))
        chores.enter(model.model("s", 1.0))
        chores.discard("litter")
        await asyncio.sleep(5)
        assert [getattr(one, "version", one) for one in done] == ["litter", "s-0"]
        task.cancel()
        await asyncio.wait([task])
        chores.discard("stuck")
        await chores.finish()
        assert done[-1] == "stuck"

    run_virtual(main())


def test_a_chore_that_cannot_be_done_holds_up_no_other():
    """A full store has no room for what an expiry writes down first: what makes room behind it in the line is done, as
    are the catalogue's entries, and the expiry comes to its end then.
    """

    async def main():
        done = []

        class Models:
            async def remove(self, blob):
                done.append(blob)

            async def enter(self, model):
                done.append(model.version)

        class Full:
            async def expire(self, model, why):
                if "litter" not in done:
                    raise BusFull("no room")
                done.append(f"{model.version} expires")
                return ""

        chores = Chores(None, OURS, Models(), None)
        chores._removal = Full()
        task = asyncio.create_task(chores.run())
        model = records.SessionStarted(config=SessionConfig(), version="s-0", blob="b", digest="ab" * 32, nbytes=1)
        chores.expire(model.model("s", 1.0))
        chores.enter(model.model("s", 1.0))
        chores.discard("litter")
        await asyncio.sleep(5)
        assert done == ["s-0", "litter", "s-0 expires"]
        task.cancel()
        await asyncio.wait([task])

    run_virtual(main())


# --- a whole one ---


class House:
    """A coordinator, a combiner and a crowd on one broker."""

    def __init__(self, count=2):
        self.broker, self.clock, self.tasks = MemoryBroker(), VirtualClock(), []
        self.crowd = Crowd(MemoryBus(self.broker, "crowd"), self.clock, count)

    def live(self, work):
        """Let a role live."""
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    def coordinator(self, name):
        """Start a coordinator."""
        bus = MemoryBus(self.broker, name)
        fields = {"incarnation": f"{name}-1", "workspace": "default", "clock": self.clock, "workers": Inline()}
        return self.live(Coordinator(bus, name=name, **fields).run())

    def people(self):
        """Let the crowd and a combiner live."""
        self.live(self.crowd.run())
        self.live(Combiner(MemoryBus(self.broker, "k0"), self.clock, self.crowd).run())


def in_house(test, count=2):
    """Run a coroutine function in a fresh house."""

    async def main():
        house = House(count)
        async with Federation(MemoryBus(house.broker, "eve"), name="eve", workers=Inline()) as federation:
            await ensure_streams(federation.bus, OURS)
            await test(house, federation)
        for task in house.tasks:
            assert not task.done() or task.cancelled(), task
            task.cancel()
        await asyncio.wait(house.tasks)

    run_virtual(main())


def test_a_catalogue_that_takes_nothing_holds_no_round_up(monkeypatch):
    """Rounds go on, every version can be found all the same, and is entered when the catalogue takes it."""

    async def main(house, federation):
        enter, away = ModelStore.enter, True

        async def refuse(self, model):
            if away:
                raise BusUnavailable("the catalogue is away")
            await enter(self, model)

        monkeypatch.setattr(ModelStore, "enter", refuse)
        house.people()
        house.coordinator("co")
        config = SessionConfig(rounds=3, clients_min=2, evaluate_every=0)
        session = await federation.start_session(config, model=MODEL, name="s")
        assert (await session.wait()).model_version == "s-3"
        assert await federation.models.list() == []
        found = [await federation.models.find(f"s-{i}") for i in range(4)]
        assert [(model.version, model.round) for model in found] == [(f"s-{i}", i) for i in range(4)]
        for missing in ("s-4", "s", "t-1", "-1"):
            with pytest.raises(NotFound):
                await federation.models.find(missing)
        away = False
        await asyncio.sleep(3)
        assert await federation.models.list() == found

    in_house(main)


def test_two_that_both_believe_to_lead_do_no_harm(monkeypatch, caplog):
    """The lease is for liveness alone: the loser of each entry throws away what it has decided, and reads again."""

    class Sure(Leading):
        reigns = valid = True
        valid_s = 99.0

        async def run(self):
            await asyncio.sleep(1e9)

        async def over(self, term):
            await asyncio.sleep(1e9)

        async def leave(self):
            pass

    monkeypatch.setattr(service, "Leading", Sure)

    async def main(house, federation):
        house.people()
        house.coordinator("co")
        house.coordinator("rival")
        config = SessionConfig(rounds=5, clients_min=2, evaluate_every=1)
        session = await federation.start_session(config, model=MODEL, name="s")
        async with asyncio.timeout(300):
            assert (await session.wait()).rounds == 5
        entries = await federation.journal.read("s")
        assert "another coordinator has written the journal" in caplog.text, "both were at work"
        kinds = [record.kind for journalled in entries for record in journalled.entry.unpack()]
        assert kinds.count("ModelPublished") == kinds.count("RoundClosed") == kinds.count("RoundEvaluated") == 5
        assert kinds.count("SessionStarted") == kinds.count("SessionEnded") == 1

    in_house(main)


def test_what_a_rival_has_decided_stands():
    """An entry that somebody else wrote: what we decide behind the one before is not written, and we go on from it."""

    async def main(house, federation):
        house.people()
        house.coordinator("co")
        journal = Journal(federation.bus, OURS)
        config = SessionConfig(clients_min=3)
        session = await federation.start_session(config, model=MODEL, name="s")
        await asyncio.sleep(2)
        (started,) = await journal.read("s")
        ended = records.SessionEnded(outcome="stopped", reason="by a rival", version="s-0", digest="ab" * 32)
        await journal.append("s", Entry.of(house.clock.now(), "rival", (ended,)), started.sequence)
        peer = Peer("client", "late")
        station = Station(federation.bus, "default", peer, "i", house.clock, heartbeat_s=9.0)
        await station.say(OURS.presence(peer), Hello(incarnation="i", heartbeat_s=9.0))
        await asyncio.sleep(5)
        assert [journalled.entry.epoch for journalled in await journal.read("s")] == ["co-1", "rival"]
        assert (await session.wait()).reason == "by a rival" and await federation.waits() == []

    in_house(main)


def test_strangers_who_speak_for_others_are_refused():
    """A client that says it has members, or a crowd whose clients would have no names: nobody is there for it."""

    async def main(house, federation):
        house.coordinator("co")
        stranger = MemoryBus(house.broker, "stranger")
        await asyncio.sleep(2)
        for peer in (Peer("client", "a"), Peer("crowd", "x" * 64)):
            station = Station(stranger, "default", peer, "i", house.clock, heartbeat_s=9.0)
            await station.say(OURS.presence(peer), Hello(incarnation="i", heartbeat_s=9.0, members=3))
        own = Peer("client", "crowd-1")
        station = Station(stranger, "default", own, "own", house.clock, heartbeat_s=9.0)
        await station.say(OURS.presence(own), Hello(incarnation="own", heartbeat_s=9.0, attributes={"x": "y"}))
        house.people()
        await asyncio.sleep(2)
        clients = [(seen.name, seen.incarnation) for seen in await federation.clients()]
        assert clients == [("crowd-0", "c-1"), ("crowd-1", "own"), ("crowd-2", "c-1")]

    in_house(main, count=3)
