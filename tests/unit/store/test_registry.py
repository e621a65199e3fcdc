"""The registry's state under several hands; removals that meet promotions at every moment, and after every death."""

from __future__ import annotations

import asyncio
import random

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, BusFull, BusUnavailable, Conflict, NotFound
from fedbus.federation.service import Federation
from fedbus.messages.commands import StartSession
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.records import Entry, ModelPublished, SessionEnded, SessionStarted, Typed
from fedbus.messages.registry import HELD_MAX, Promoted, RegistryState, Stage
from fedbus.messages.subjects import Subjects
from fedbus.store import registry as registry_module
from fedbus.store import removal as removal_module
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.registry import RegistryStore
from fedbus.store.removal import Collected, Removal
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")


class Workplace:
    """A broker with an ended session whose versions are s-0 to s-2."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.clock = VirtualClock()
        self.bus = MemoryBus(self.broker, "owner")
        self.models = ModelStore(self.bus, OURS, Inline())
        self.entries = {}

    async def open(self):
        """Write the session."""
        await ensure_streams(self.bus, OURS)
        for number in range(3):
            blob = f"s-{number}-1"
            manifest = await self.models.put(blob, {"w": np.full(4, number, np.float32)})
            entry = ModelPublished(
                round=number, version=f"s-{number}", parent=f"s-{number - 1}" if number else "", session="s",
                blob=blob, digest=manifest.digest, nbytes=16, at=1.0,
            )  # fmt: skip
            self.entries[entry.version] = entry
            await self.models.enter(entry)
        first = self.entries["s-0"]
        started = SessionStarted(config=SessionConfig(), version="s-0", blob=first.blob, digest=first.digest, nbytes=16)
        published = (self.entries["s-1"], self.entries["s-2"])
        ended = SessionEnded(outcome="completed", reason="r", version="s-2")
        await Journal(self.bus, OURS).append("s", Entry.of(1.0, "one", (started, *published, ended)), 0)
        return self

    def federation(self, name):
        """Somebody with a connection of his own."""
        return Federation(MemoryBus(self.broker, name), name=name, clock=self.clock, workers=Inline())

    def removal(self, name, passed=lambda _: None):
        """Somebody who removes, as a coordinator or a collection does."""
        bus = MemoryBus(self.broker, name)
        models = ModelStore(bus, OURS, Inline())
        return Removal(bus, OURS, models, RegistryStore(bus, OURS, name, self.clock), passed)

    async def check(self):
        """Whatever a stage has, or would be rolled back to, is there and whole; what the catalogue says is true."""
        state = (await RegistryStore(self.bus, OURS, "check", self.clock).read()).state
        for name, stage in state.stages.items():
            assert await self.models.is_whole(stage.now.blob), (name, stage.now.version)
            assert not (await self.models.find(stage.now.version)).removed_at
        for version in self.entries:
            entry = await self.models.find(version)
            assert bool(entry.removed_at) is not await self.models.is_whole(entry.blob), version
        return state


class Turns:
    """Lets one of several coroutines go on at a time: at each call of the bus that is whose a seed says."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    async def turn(self):
        """Wait for a turn, which comes after some others' or none."""
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(self._random.random() / 10)


class Staggered:
    """A bus whose every call may be overtaken by others': before it goes out, and before its answer is read."""

    def __init__(self, bus, turns):
        self._bus = bus
        self._turns = turns

    def __getattr__(self, name):
        found = getattr(self._bus, name)
        if name not in ("append", "last", "purge", "pending", "newest", "follow"):
            return found

        async def call(*args, **how):
            await self._turns.turn()
            try:
                return await found(*args, **how)
            finally:
                await self._turns.turn()

        return call


def staggered(place, name, seed):
    """Somebody whose every step may be overtaken."""
    return Federation(
        Staggered(MemoryBus(place.broker, name), Turns(seed)), name=name, clock=place.clock, workers=Inline()
    )


OUTCOMES = set()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["expire", "remove", "collect"]))
def test_a_promotion_that_meets_a_removal(seed, how):
    """Steps of both in any order: the stage has the version and it is there, or the promotion is refused with the state
    that it is in; never both, never neither.
    """

    async def main():
        place = await Workplace().open()
        one, other = staggered(place, "one", seed), staggered(place, "other", seed + 1)
        async with one, other:
            remover = other.registry

            async def remove():
                if how == "expire":
                    return await remover.removal.expire(place.entries["s-1"], "old")
                if how == "remove":
                    return await remover.remove("s-1", "old", grace_s=0)
                await remover.set_retention(1)
                return await remover.collect(grace_s=0)

            promoted, removed = await asyncio.gather(
                one.registry.promote("s-1", "live"), remove(), return_exceptions=True
            )
            state = await place.check()
            if isinstance(promoted, Conflict):
                assert promoted.state in ("retired", "removed") and "live" not in state.stages
                await other.registry.removal.go_on(Collected())
                assert (await place.models.find("s-1")).removed_at
            else:
                assert not isinstance(promoted, BaseException), promoted
                assert state.stages["live"].now.version == "s-1"
                assert not (await place.models.find("s-1")).removed_at
                assert how != "remove" or isinstance(removed, Conflict)
            OUTCOMES.add((how, isinstance(promoted, Conflict)))

    run_virtual(main())


def test_both_ends_of_the_race_were_seen():
    """The seeds above let promotions win and lose, against every way of removing; else they would prove nothing."""
    if OUTCOMES:
        assert {lost for _, lost in OUTCOMES} == {True, False}


@pytest.mark.parametrize("point", ["retired", "committed", "purged", "marked"])
@pytest.mark.parametrize("how", ["remove", "expire"])
def test_who_dies_while_removing_leaves_nothing_half_done(point, how):
    """Whoever looks next goes on; the version is gone then, with its reason, and nobody could promote it meanwhile."""

    class DeathError(BaseException):
        """Killed."""

    async def main():
        place = await Workplace().open()

        def passed(where):
            if where == point:
                raise DeathError

        dying = place.removal("dying", passed)
        model = place.entries["s-1"]
        died = False
        try:
            if how == "expire":
                await dying.expire(model, "old")
            else:
                await dying.retire([model], why="old", grace_s=0.0, needed=dying.needed)
                await dying.go_on(Collected())
        except DeathError:
            died = True
        assert died is not (how == "expire" and point == "committed"), "who expires commits as it retires"
        async with place.federation("eve") as eve:
            with pytest.raises(Conflict):
                await eve.registry.promote("s-1", "live")
            await eve.registry.removal.go_on(Collected())
            await place.check()
            entry = await place.models.find("s-1")
            assert entry.removed_at and entry.removed_why == "dying: old"
            await asyncio.sleep(61)
            await eve.registry.removal.go_on(Collected())
            assert (await eve.registry.store.read()).state.retired == ()

    run_virtual(main())


def test_what_becomes_needed_within_the_grace_is_called_back():
    """A version that a session asks for when its grace is over is not removed, and may be used again."""

    async def main():
        place = await Workplace().open()
        async with place.federation("eve") as eve:
            await eve.registry.remove("s-1", grace_s=10)
            blob = place.entries["s-1"].blob

            async def needed():
                return {blob: "session t evaluates it"}

            await asyncio.sleep(11)
            found = Collected()
            await eve.registry.removal.go_on(found, needed)
            assert found.kept == {"s-1": "session t evaluates it"} and not found.removed
            assert (await eve.registry.promote("s-1", "live")).version == "s-1"
            await place.check()

    run_virtual(main())


# --- the state ---


def change_of(stage, version):
    """A change that gives a stage a version, whatever it has."""

    async def decide(state):
        held = (
            Promoted(version=version, blob=version, at=1.0, by="x"),
            *(state.stages[stage].held if stage in state.stages else ()),
        )
        return state.model_copy(update={"stages": {**state.stages, stage: Stage(held=held[:HELD_MAX])}})

    return decide


def test_no_change_of_many_is_lost():
    """Twenty who change at once: each change is in the state, and in the history, once."""

    async def main():
        place = await Workplace().open()
        stores = [RegistryStore(MemoryBus(place.broker, f"e{n}"), OURS, f"e{n}", place.clock) for n in range(20)]
        await asyncio.gather(
            *(store.change(f"change {n}", change_of("live", f"v{n}")) for n, store in enumerate(stores))
        )
        state = (await stores[0].read()).state
        assert sorted(one.version for one in state.stages["live"].held) == sorted(f"v{n}" for n in range(20))
        history = await stores[0].history()
        assert sorted(one.what for one in history) == sorted(f"change {n}" for n in range(20))

    run_virtual(main())


def test_a_change_whose_answer_was_lost_is_made_once():
    """The bus went away over the append, which was stored, and somebody else wrote behind it: it is not made again."""

    async def main():
        place = await Workplace().open()
        other = RegistryStore(place.bus, OURS, "other", place.clock)

        class Losing:
            lost = False

            def __init__(self, bus):
                self._bus = bus

            def __getattr__(self, name):
                return getattr(self._bus, name)

            async def append(self, *args, **how):
                sequence = await self._bus.append(*args, **how)
                if not Losing.lost:
                    Losing.lost = True
                    await other.change("theirs", change_of("live", "theirs"))
                    raise BusUnavailable("the answer is lost")
                return sequence

        store = RegistryStore(Losing(MemoryBus(place.broker, "eve")), OURS, "eve", place.clock)
        await store.change("mine", change_of("live", "mine"))
        held = [one.version for one in (await other.read()).state.stages["live"].held]
        assert held == ["theirs", "mine"]

    run_virtual(main())


def test_a_full_store_takes_a_change_in_place_of_older_ones(monkeypatch):
    """What makes room has to be written down first: older revisions go for it, as far as there are any."""

    async def main():
        place = await Workplace().open()
        full = False

        class Full:
            def __init__(self, bus):
                self._bus = bus

            def __getattr__(self, name):
                return getattr(self._bus, name)

            async def append(self, stream, subject, data, **how):
                held = await self._bus.pending(stream, subject)
                if full and held > 1:
                    raise BusFull("no room")
                return await self._bus.append(stream, subject, data, **how)

        store = RegistryStore(Full(MemoryBus(place.broker, "eve")), OURS, "eve", place.clock)
        await store.reserve()
        assert len(await store.history()) == registry_module.RESERVED
        await store.reserve()
        assert len(await store.history()) == registry_module.RESERVED, "once for each workspace"
        full = True
        await store.change("mine", change_of("live", "v"))
        assert (await store.read()).state.stages["live"].now.version == "v"
        assert [one.what for one in await store.history()][-1] == "mine"

    run_virtual(main())


def test_the_state_stays_small_enough_to_travel(monkeypatch):
    """Where it would be too large, stages forget their oldest versions; never the one before the one that they have."""
    monkeypatch.setattr(registry_module, "STATE_BYTES_MAX", 3000)

    async def main():
        place = await Workplace().open()
        store = RegistryStore(place.bus, OURS, "eve", place.clock)
        for number in range(60):
            await store.change("x", change_of(f"stage-{number % 6}", f"v{number}"))
        state = (await store.read()).state
        assert all(len(stage.held) >= 2 for stage in state.stages.values())
        assert [stage.now.version for stage in state.stages.values()] == [f"v{number}" for number in range(54, 60)]
        assert sum(len(stage.held) for stage in state.stages.values()) < 60

    run_virtual(main())


def test_a_workspace_without_a_registry_says_so_soon():
    """One that only an older release has served: who asks is told what makes it; a session can be started anyway."""

    async def main():
        bus = MemoryBus(MemoryBroker(), "eve")
        store = RegistryStore(bus, OURS, "eve", VirtualClock())
        began = asyncio.get_running_loop().time()
        with pytest.raises(BusUnavailable, match="has no registry yet: a coordinator of this release makes it"):
            await store.read()
        assert asyncio.get_running_loop().time() - began < 5
        assert await store.read_or_none() == RegistryState()
        with pytest.raises(BusUnavailable, match="no registry yet"):
            await store.annotate("v", "x")

    run_virtual(main())


def test_a_version_without_an_entry_is_no_obstacle():
    """The catalogue was lost with the broker: a retirement of such a version is forgotten, and others go on."""

    async def main():
        place = await Workplace().open()
        removal = place.removal("co")
        await removal.retire(list(place.entries.values()), why="old", grace_s=0.0, needed=removal.needed)
        await place.bus.purge(OURS.stream("model"), OURS.model("s-0"))
        await removal.go_on(Collected())
        with pytest.raises(NotFound):
            await place.models.find("s-0")
        assert (await place.models.find("s-1")).removed_at and (await place.models.find("s-2")).removed_at

    run_virtual(main())


def test_what_a_newer_release_has_written_is_not_undone():
    """Fields that this one does not know stay when it changes others; a state that it cannot read it does not replace
    by an older one: the promotion that stands there, and what it protects, would be lost.
    """

    async def main():
        place = await Workplace().open()
        stream, subject = OURS.stream("registry"), OURS.registry_state()
        store = RegistryStore(place.bus, OURS, "eve", place.clock)
        await store.change("mine", change_of("live", "v1"))

        async def write(**changed):
            message = await place.bus.last(stream, subject)
            wire = msgpack.unpackb(message.data)
            wire["body"].update(changed.pop("body", {}))
            await place.bus.append(stream, subject, msgpack.packb({**wire, **changed}))

        held = (await store.read()).state.stages["live"].model_dump()
        held["held"] = [{**one, "signed_by": "x"} for one in held["held"]]
        await write(body={"frozen_until": 7, "stages": {"live": held}})
        await store.change("mine", change_of("live", "v2"))
        body = msgpack.unpackb((await place.bus.last(stream, subject)).data)["body"]
        assert body["frozen_until"] == 7 and body["stages"]["live"]["held"][1]["signed_by"] == "x"
        await write(body={"keep_last": "as many as there is room for"})
        for newer in ({}, {"v": 2}, {"kind": "RegistryStateOfTomorrow"}):
            await write(**newer)
            for call in (store.read(), store.change("mine", change_of("live", "v3"))):
                with pytest.raises(BadMessage, match="newer release"):
                    await call

    run_virtual(main())


def test_a_note_that_is_none_hides_no_other():
    """What somebody without business there has written beside a version is passed over in a list."""

    async def main():
        place = await Workplace().open()
        store = RegistryStore(place.bus, OURS, "eve", place.clock)
        await store.annotate("s-1", "the one")
        await place.bus.append(OURS.stream("registry"), OURS.registry_note("s-2"), b"garbage")
        assert await store.notes() == {"s-1": "the one"}

    run_virtual(main())


def test_a_version_that_is_about_to_be_evaluated_does_not_expire():
    """A command to start with it stands, which the coordinator that lets it go has not read yet."""

    async def main():
        place = await Workplace().open()
        one = place.entries["s-1"]
        start = StartSession(
            session="e", config=SessionConfig(rounds=0), blob=one.blob, digest=one.digest, nbytes=16, base="s-1"
        )
        data = encode(Envelope("start", "default", "eve", start))
        await place.bus.append(OURS.stream("command"), OURS.command(Peer("engineer", "eve")), data)
        assert "session e is to start with it" in await place.removal("co").expire(one, "old")
        assert await place.models.is_whole(one.blob)
        assert await place.removal("co").expire(place.entries["s-0"], "old") == ""

    run_virtual(main())


def test_an_expiry_says_where_there_is_no_room_for_it(monkeypatch):
    """The arrays stay, so it is not told that they are gone; a collection removes them later."""
    monkeypatch.setattr(removal_module, "RETIRED_MAX", 1)

    async def main():
        place = await Workplace().open()
        removal = place.removal("co")
        await removal.retire([place.entries["s-0"]], why="old", grace_s=600.0, needed=removal.needed)
        assert "too many" in await removal.expire(place.entries["s-1"], "old")
        assert await place.models.is_whole(place.entries["s-1"].blob)

    run_virtual(main())


def test_a_session_that_began_again_needs_its_versions():
    """Its journal has an end of one of the same name before: its newest versions are needed as those of any other."""

    async def main():
        place = await Workplace().open()
        journal, first = Journal(place.bus, OURS), place.entries["s-0"]
        assert first.blob not in await place.removal("co").needed()
        started = SessionStarted(config=SessionConfig(), version="s-0", blob=first.blob, digest=first.digest, nbytes=16)
        last = await journal.append("s", Entry.of(2.0, "one", (started,)), 1)
        assert "has not ended" in (await place.removal("co").needed())[first.blob]
        nonsense = (Typed(type="RoundEvaluated", data={"round": "x"}),)
        await journal.append("s", Entry(at=3.0, epoch="one", records=nonsense), last)
        with pytest.raises(BadMessage, match="RoundEvaluated"):
            await place.removal("co").needed()

    run_virtual(main())
