"""Sending a held update: whole to one combiner, or by parts to several, over the bus in memory under virtual time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from blake3 import blake3

from fedbus.bus.memory import Faults, MemoryBroker, MemoryBus
from fedbus.client.app import Model, Update
from fedbus.client.events import Foreign, Settled
from fedbus.client.held import prepare
from fedbus.client.newest import Fetched
from fedbus.client.sending import REFUSALS_SHOWN, Courier, Sending
from fedbus.client.shelf import Shelf
from fedbus.crash import never
from fedbus.errors import NotFound
from fedbus.exchange.station import Station
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.plans import Encoding
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Train
from fedbus.messages.uploads import UploadState
from fedbus.telemetry import Telemetry
from fedbus.tensors import Manifest, chunk_digest
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.together import together
from fedbus.workers import Inline

OURS = Subjects("default")
MODEL = {"w": np.arange(80, dtype=np.float32)}
BYTES = MODEL["w"].tobytes()


class Combiner:
    """A combiner in short: takes what is announced in order, and gives the verdict that it was made with."""

    def __init__(self, broker, name, verdict="accepted"):
        self.name = name
        self.verdict = verdict
        self.bus = MemoryBus(broker, name)
        self.begins = {}
        self.taken = {}
        self.silent = False

    async def run(self):
        """Listen until cancelled."""
        begins = await self.bus.subscribe(OURS.up(self.name))
        chunks = await self.bus.subscribe(OURS.chunks(self.name))

        async def hear_begins():
            async for message in begins:
                sender = OURS.sender(message.subject, "up", 3, 1)
                self.begins[sender.name] = begin = decode(message.data, message.subject).body
                if begin.inline:
                    self.taken[sender.name] = [begin.inline]
                await self.tell(sender, resend=True)

        async def hear_chunks():
            async for message in chunks:
                address = OURS.address(message.subject)
                assert address.digest == chunk_digest(message.data)
                taken = self.taken.setdefault(address.sender.name, [])
                if address.chunk == len(taken):
                    taken.append(bytes(message.data))
                    await self.tell(address.sender, resend=False)

        async with together() as group:
            group.create_task(hear_begins())
            group.create_task(hear_chunks())

    async def tell(self, sender, *, resend):
        """Say how things stand."""
        begin, at = self.begins[sender.name], len(self.taken.get(sender.name, []))
        if self.silent:
            return
        done = self.verdict == "refused" or at == begin.chunks
        state = UploadState(
            session=begin.session,
            round=begin.round,
            attempt=begin.attempt,
            next_chunk=at,
            credit=min(begin.chunks, at + 2),
            resend=resend,
            verdict=self.verdict if done else "pending",
            reason="no room" if self.verdict == "refused" else "",
        )
        await self.bus.publish(OURS.down(sender, self.name), encode(Envelope("i", "default", self.name, state)))


class Crowd:
    """Clients that hold the same update, and what was told of them."""

    def __init__(self, broker, *, shards=(), made_for=None):
        self.bus = MemoryBus(broker, "crowd")
        self.told = []
        self.train = self.task(shards)
        fetched = Fetched(Model(MODEL), Manifest.of(MODEL, 32), 320)
        made_for = self.train if made_for is None else self.task(made_for)
        self.held = prepare(fetched, Update(MODEL, 2.0, {"loss": 0.5}), made_for, Shelf())
        self.station = Station(self.bus, "default", Peer("crowd", "m"), "m-1", VirtualClock(), heartbeat_s=5.0)
        self.courier = Courier(self.station, Inline(), Telemetry.off(), never, self.tell, self.manifest)
        self.looked = []
        self.model = fetched.manifest
        self.left = []
        self.sendings = {}

    def tell(self, sending, event):
        """Note what is told, and how many are under way then."""
        self.told.append((sending.client, event))
        self.left.append(self.courier.under_way("s"))

    async def manifest(self, blob):
        """Return the model of the round; the first look finds nothing."""
        self.looked.append(blob)
        if len(self.looked) == 1:
            raise NotFound(blob)
        return self.model

    @staticmethod
    def task(shards):
        """Where to send."""
        return Train(
            round=1,
            attempt=1,
            version="s-0",
            blob="b",
            combiner=shards[0] if shards else "k0",
            seed=1,
            deadline_at=9.0,
            weight_max=8.0,
            shards=shards,
        )

    async def send(self, *clients):
        """Send for clients until all is settled."""
        down = await self.station.listen([OURS.down(Peer("client", client)) for client in clients])

        async def hear():
            async for heard in self.station.hear(down):
                _, client, combiner = OURS.tokens(heard.message.subject, "down", 3)
                self.sendings[client].hear(combiner, heard.envelope.body)

        hearing = asyncio.create_task(hear())
        async with together() as group:
            for client in clients:
                sending = self.sendings[client] = Sending(client, "s", self.held, self.train, {})
                self.courier.start(group, sending)
            assert self.courier.under_way("s") == len(clients)
        hearing.cancel()
        await asyncio.wait([hearing])
        assert self.courier.under_way("s") == 0


def world(combiners, *clients, **fields):
    """Send for clients to combiners; returns the crowd when all is settled."""

    async def main():
        broker = combiners[0].bus._broker
        crowd = Crowd(broker, **fields)
        running = [asyncio.create_task(combiner.run()) for combiner in combiners]
        await asyncio.sleep(1)
        await crowd.send(*clients)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        return crowd

    return main()


def test_each_client_sends_under_its_own_name():
    """One station speaks for all, and every subject names the client that the update is of."""

    async def main():
        combiner = Combiner(MemoryBroker(), "k0")
        crowd = await world([combiner], "m-0", "m-1")
        assert {name: b"".join(chunks) for name, chunks in combiner.taken.items()} == {"m-0": BYTES, "m-1": BYTES}
        begin = combiner.begins["m-1"]
        assert (begin.nbytes, begin.chunks, begin.weight, begin.metrics) == (320, 10, 2.0, {"loss": 0.5})
        assert (begin.digest, begin.fetched) == (blake3(BYTES).hexdigest(), 320)
        assert sorted(crowd.told) == [(f"m-{n}", Settled(1, 1, accepted=True, reason="")) for n in range(2)]

    run_virtual(main())


def test_a_late_update_is_sent_as_one_of_the_round_with_the_lessened_weight():
    """Two rounds old at a half each: a quarter of its weight, under the round and attempt of the task, and says so."""

    async def main():
        combiner = Combiner(MemoryBroker(), "k0")
        crowd = Crowd(combiner.bus._broker)
        fields = {"round": 3, "attempt": 4, "stale_max": 2, "stale_weight": 0.5}
        crowd.train = crowd.train.model_copy(update=fields)
        running = asyncio.create_task(combiner.run())
        await asyncio.sleep(1)
        await crowd.send("m-0")
        begin = combiner.begins["m-0"]
        assert (begin.round, begin.attempt, begin.stale, begin.weight) == (3, 4, 2, 0.5)
        assert b"".join(combiner.taken["m-0"]) == BYTES
        assert crowd.told == [("m-0", Settled(3, 4, accepted=True, reason=""))]
        assert crowd.looked == [], "what we made ourselves needs no proof"
        running.cancel()
        await asyncio.wait([running])

    run_virtual(main())


OTHER = {name: array + 1 for name, array in MODEL.items()}
LONGER = {name: np.append(array, array) for name, array in MODEL.items()}


@pytest.mark.parametrize(
    ("model", "round_", "why"),
    [
        (MODEL, 1, ""),
        (OTHER, 1, "of another model"),
        (OTHER, 2, ""),
        (LONGER, 2, "of a model of another form"),
    ],
)
def test_what_a_former_process_made_is_sent_where_the_model_is_the_same(model, round_, why):
    """The session may have only its name in common with that of the former process; a missing model is waited for."""

    async def main():
        combiner = Combiner(MemoryBroker(), "k0")
        crowd = Crowd(combiner.bus._broker)
        crowd.train = crowd.train.model_copy(update={"round": round_, "stale_max": 1})
        crowd.model, crowd.held.adopted = Manifest.of(model, 32), True
        running = asyncio.create_task(combiner.run())
        await asyncio.sleep(1)
        await crowd.send("m-0")
        assert crowd.looked == ["b", "b"]
        ((_, event),) = crowd.told
        if why:
            assert isinstance(event, Foreign) and event.round == 1 and why in event.reason and not combiner.begins
        else:
            assert isinstance(event, Settled) and event.accepted and not crowd.held.adopted
        running.cancel()
        await asyncio.wait([running])

    run_virtual(main())


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize(
    ("encoding", "why"),
    [
        (Encoding(packed=True), ""),
        (
            Encoding(form="difference"),
            "made as model encoded by none, and the session wants difference encoded by none",
        ),
        (
            Encoding(form="difference", codec="int8", options={"block": 8}),
            r"wants difference encoded by int8 {'block': 8}",
        ),
    ],
)
def test_an_update_is_not_sent_for_what_it_is_not(encoding, why, adopted):
    """In another form its numbers would mean something else: it is given up, and the log of the round says why."""

    async def main():
        combiner = Combiner(MemoryBroker(), "k0")
        crowd = Crowd(combiner.bus._broker)
        crowd.train, crowd.held.adopted = crowd.train.model_copy(update={"encoding": encoding}), adopted
        running = asyncio.create_task(combiner.run())
        await asyncio.sleep(1)
        await crowd.send("m-0")
        ((_, event),) = crowd.told
        if why:
            assert isinstance(event, Foreign) and why in event.reason and not combiner.begins
        else:
            assert isinstance(event, Settled) and event.accepted
        running.cancel()
        await asyncio.wait([running])

    run_virtual(main())


@pytest.mark.parametrize("shards", [(), ("k0", "k1")])
def test_an_encoded_update_is_announced_by_what_is_sent(shards):
    """Chunks, bytes and digest are those of the encoded chunks, the spec that of the model; in parts too."""

    async def main():
        broker = MemoryBroker()
        combiners = [Combiner(broker, name) for name in shards or ("k0",)]
        crowd = Crowd(broker, shards=shards)
        crowd.train = crowd.train.model_copy(update={"encoding": Encoding(form="difference", codec="fp16")})
        fetched = Fetched(Model(MODEL), Manifest.of(MODEL, 32), 320)
        trained = {"w": MODEL["w"] + np.arange(80, dtype=np.float32) / 64}
        crowd.held = prepare(fetched, Update(trained, 2.0), crowd.train, Shelf())
        running = [asyncio.create_task(combiner.run()) for combiner in combiners]
        await asyncio.sleep(1)
        await crowd.send("m-0")
        sent = b"".join(b"".join(combiner.taken["m-0"]) for combiner in combiners)
        assert sent == (np.arange(80) / 64).astype("<f2").tobytes()
        begins = [combiner.begins["m-0"] for combiner in combiners]
        assert sum(begin.nbytes for begin in begins) == 160 and sum(begin.chunks for begin in begins) == 10
        assert {begin.spec for begin in begins} == {fetched.manifest.spec.digest}
        for combiner, begin in zip(combiners, begins, strict=True):
            assert begin.digest == blake3(b"".join(combiner.taken["m-0"])).hexdigest()
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    run_virtual(main())


def test_what_is_told_is_not_under_way_any_more():
    """Who hears that an update is settled finds its room free: nothing else would wake who waits for it."""

    async def main():
        crowd = await world([Combiner(MemoryBroker(), "k0")], "m-0", "m-1", "m-2")
        assert crowd.left == [2, 1, 0]

    run_virtual(main())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("made_for", [None, (), ("k0", "k1")])
def test_several_combiners_get_a_part_each(seed, made_for):
    """Each with its own digest and chunks counted from 0; over a bad line, and also if it was cut otherwise."""

    async def main():
        faults = Faults(loss=0.1, repetition=0.1, reordering=0.1, reordering_s_max=1.0)
        broker = MemoryBroker(seed, faults)
        combiners = [Combiner(broker, f"k{index}") for index in range(3)]
        crowd = await world(combiners, "m-0", shards=("k0", "k1", "k2"), made_for=made_for)
        parts = [b"".join(combiner.taken["m-0"]) for combiner in combiners]
        assert b"".join(parts) == BYTES and [len(combiner.taken["m-0"]) for combiner in combiners] == [3, 3, 4]
        for combiner, part in zip(combiners, parts, strict=True):
            begin = combiner.begins["m-0"]
            assert (begin.digest, begin.nbytes) == (blake3(part).hexdigest(), len(part))
            assert (begin.spec, begin.weight) == (crowd.held.layout.spec.digest, 2.0)
        assert [combiner.begins["m-0"].fetched for combiner in combiners] == [320, 0, 0]
        assert {combiner.begins["m-0"].update for combiner in combiners} == {crowd.held.identity}
        assert crowd.told == [("m-0", Settled(1, 1, accepted=True, reason=""))]

    run_virtual(main())


def test_nothing_is_accepted_before_everybody_has():
    """While one of the combiners says nothing the update is under way; then it is accepted."""

    async def main():
        broker = MemoryBroker()
        combiners = [Combiner(broker, "k0"), Combiner(broker, "k1")]
        combiners[1].silent = True
        sending = asyncio.create_task(world(combiners, "m-0", shards=("k0", "k1")))
        await asyncio.sleep(100)
        assert not sending.done() and len(combiners[0].taken["m-0"]) == 5
        combiners[1].silent = False
        crowd = await sending
        assert crowd.told == [("m-0", Settled(1, 1, accepted=True, reason=""))]

    run_virtual(main())


def test_one_refusal_is_enough():
    """Its reason is the update's, though another combiner never says anything; nothing goes on."""

    async def main():
        broker = MemoryBroker()
        combiners = [Combiner(broker, "k0"), Combiner(broker, "k1", "refused"), Combiner(broker, "k2")]
        combiners[2].silent = True
        crowd = await world(combiners, "m-0", shards=("k0", "k1", "k2"))
        assert crowd.told == [("m-0", Settled(1, 1, accepted=False, reason="no room"))]
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_whoever_is_told_of_a_verdict_finds_room_for_another():
    """The update is under way no longer when its verdict is told: who waits for room looks only then."""

    async def main():
        broker = MemoryBroker()
        combiner, crowd, rooms = Combiner(broker, "k0"), Crowd(broker), []
        crowd.courier._tell = lambda *_: rooms.append(crowd.courier.under_way("s"))
        running = asyncio.create_task(combiner.run())
        await asyncio.sleep(1)
        await crowd.send("m-0", "m-1", "m-2")
        assert rooms == [2, 1, 0]
        running.cancel()

    run_virtual(main())


def test_sending_can_be_given_up():
    """All its uploads end at once, nobody is told anything, and there is room for another."""

    async def main():
        crowd = Crowd(MemoryBroker(), shards=("k0", "k1"))
        sending = Sending("m-0", "s", crowd.held, crowd.train, {})
        async with together() as group:
            crowd.courier.start(group, sending)
            await asyncio.sleep(10)
            assert len(asyncio.all_tasks()) == 4, "the test, the sending, and an upload to each"
            await crowd.courier.stop(sending)
            assert len(asyncio.all_tasks()) == 1
        assert (crowd.told, crowd.courier.under_way("s")) == ([], 0)
        await crowd.courier.stop(sending)
        await crowd.courier.stop(None)

    run_virtual(main())


def test_thousands_who_are_refused_alike_do_not_flood_the_log(caplog):
    """A hundred lines, then each hundredth."""

    async def main():
        combiner = Combiner(MemoryBroker(), "k0", "refused")
        crowd = await world([combiner], *[f"m-{n}" for n in range(300)])
        assert len(crowd.told) == 300

    run_virtual(main())
    assert len(caplog.records) == REFUSALS_SHOWN + 2
    assert caplog.records[0].getMessage().endswith("the update of round 1 was refused: no room")
