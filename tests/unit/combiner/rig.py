"""Real combiners on the memory bus, under virtual time; the test is their coordinator, and their clients."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fedbus.access.signing import OPEN
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.codecs import Coding
from fedbus.combiner.service import Combiner
from fedbus.exchange.station import Station
from fedbus.exchange.upload.service import Parcel, Upload
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Merge, Order, part_of
from fedbus.messages.plans import Plan, fold_weight, given_weight
from fedbus.messages.reports import MergeFailed, ModelStored, ReportTaken, UpdatesJudged
from fedbus.messages.subjects import Subjects
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.store.models import ModelStore
from fedbus.store.spool import Memory
from fedbus.store.streams import ensure_streams
from fedbus.tensors import Hasher, Layout, ModelSpec, Source, chunk_digest
from fedbus.testing.loop import VirtualClock
from fedbus.together import together
from fedbus.workers import Inline

OURS = Subjects("default")
DEFAULT = Plan()


class Rig:
    """A world of combiners.

    With ``keeps`` they come back as the same incarnation, with what they had spooled. ``dies_at`` (a point, and which
    passing of it): who passes there dies, and is born again half a second later. ``chunks``: how often each chunk was
    sent (combiner, sender, round, attempt, index); ``accepted``: of those that died, what they had accepted.
    ``members``: a `fedbus.testing.members.Workspace`, where it is secured.
    """

    def __init__(self, *, keeps=False, dies_at=None, memory_bytes_max=0, members=None, **order):
        self.members = members
        self.memory_bytes_max, self.news = memory_bytes_max, asyncio.Condition()
        self.keeps, self.spools, self.chunks = keeps, {}, Counter()
        self.dies_at, self.passed, self.died, self.accepted = dies_at, 0, [], set()
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, "coordinator")
        self.store = ModelStore(self.bus, OURS, Inline())
        self.combiners, self.births, self.revision = {}, {}, 0
        self.common = {"session": "s", "weight_max": 1024.0, "value_floor": 64.0, "headroom": 64.0} | order
        self.reported = asyncio.Queue()
        self.verdicts = {}
        self.tasks = []

    async def __aenter__(self):
        """Streams, and an ear for reports."""
        await ensure_streams(self.bus, OURS)
        reports = await self.bus.subscribe(OURS.report(Peer("combiner", "*")))
        self.tasks.append(asyncio.create_task(self._hear(reports)))
        self.tasks.append(asyncio.create_task(self._count(await self.bus.subscribe(OURS.chunks("*")))))
        return self

    async def __aexit__(self, *_):
        for name in list(self.combiners):
            await self.kill(name)
        for task in self.tasks:
            task.cancel()

    async def _hear(self, reports):
        async for message in reports:
            heard = decode(message.data, message.subject)
            taken = ReportTaken(reports=(heard.id,))
            peer = Peer("combiner", heard.sender)
            await self.bus.publish(OURS.ack(peer), encode(Envelope("i", "default", "coordinator", taken)))
            if isinstance(heard.body, UpdatesJudged):
                self.verdicts |= {verdict.client: verdict for verdict in heard.body.verdicts}
                async with self.news:
                    self.news.notify_all()
            else:
                self.reported.put_nowait(heard.body)

    async def _count(self, chunks):
        async for message in chunks:
            at = OURS.address(message.subject)
            self.chunks[message.subject.split(".")[3], at.sender.name, at.round, at.attempt, at.chunk] += 1

    def incarnation(self, name):
        """As whom one lives now."""
        return f"{name}-{1 if self.keeps else self.births[name]}"

    def spool(self, name, session):
        """Where one keeps updates."""
        return self.spools.setdefault((name, session), Memory()) if self.keeps else Memory()

    def crash(self, name, bus):
        """What a combiner calls at each point."""

        def passing(point):
            if self.dies_at is None or bus.closed or point is not self.dies_at[0]:
                return
            self.passed += 1
            if self.passed == self.dies_at[1]:
                bus.kill()
                self.tasks.append(asyncio.create_task(self._die(name)))

        return passing

    async def _die(self, name):
        machine = self.combiners[name][0]._sessions["s"].machine
        self.accepted |= {(name, key.sender.name, key.round, key.attempt) for key in machine.accepted}
        await self.kill(name)
        self.died.append(name)
        await asyncio.sleep(0.5)
        await self.start(name)

    async def start(self, *names):
        """Bear combiners, or bear them again."""
        for name in names:
            self.births[name] = self.births.get(name, 0) + 1
            bus = MemoryBus(self.broker, name)
            combiner = Combiner(
                bus,
                name=name,
                incarnation=self.incarnation(name),
                life=self.births[name] if self.keeps else 1,
                workspace="default",
                clock=VirtualClock(),
                workers=Inline(),
                make_spool=partial(self.spool, name),
                crash=self.crash(name, bus),
                memory_bytes_max=self.memory_bytes_max,
                signing=self.signing(Peer("combiner", name)),
            )
            self.combiners[name] = combiner, asyncio.create_task(combiner.run())
        await asyncio.sleep(0.1)

    async def kill(self, name):
        """End one without a word."""
        _, task = self.combiners.pop(name)
        assert not task.done() or self.dies_at, "a combiner ended by itself"
        task.cancel()
        await asyncio.wait([task])

    async def order(self, name, state, **fields):
        """Post an order."""
        self.revision += 1
        body = Order(
            **{"strategy": "fedavg", "version": "s-0", **self.common, **fields},
            revision=self.revision,
            incarnation=self.incarnation(name),
            state=state,
        )
        subject, envelope = OURS.order(name, "s"), Envelope("o", "default", "coordinator", body)
        signer = self.signing(Peer("coordinator", "coordinator")).post_signer
        if signer is not None:
            (envelope,) = signer.sign_all([(subject, envelope)])
        await self.bus.append(OURS.stream("board"), subject, encode(envelope))

    async def client(self, name):
        """A client's place on the bus."""
        bus, peer = MemoryBus(self.broker, name), Peer("client", name)
        station = Station(bus, "default", peer, f"{name}-1", VirtualClock(), heartbeat_s=5.0)
        station.signer = self.signing(peer).signer
        return station

    def signing(self, peer):
        """What somebody signs and verifies: nothing, where there are no members."""
        return OPEN if self.members is None else self.members.signing(*peer)

    async def send(self, name, arrays, weight, combiners, *, round_, attempt, chunk_bytes, metrics=(), spec=None):
        """An honest client sends its update, a part to each combiner; returns what became of the parts.

        ``arrays``: as they travel, or the bytes of all chunks, for a model of ``spec``.
        """
        station, uploads = await self.client(name), []
        if spec is None:
            spec, arrays = ModelSpec.of(arrays).digest, pieces_of(arrays, chunk_bytes)
        down = await station.listen(OURS.down(station.peer))
        for part, combiner in enumerate(combiners):
            pieces = [arrays[i] for i in part_of(len(arrays), part, len(combiners))]
            hasher = Hasher()
            for piece in pieces:
                hasher.update(piece)
            begin = UploadBegin(
                session="s",
                round=round_,
                attempt=attempt,
                spec=spec,
                digest=hasher.hexdigest(),
                nbytes=sum(map(len, pieces)),
                chunks=len(pieces),
                weight=weight,
                metrics=dict(metrics),
            )
            parcel = Parcel(begin, pieces.__getitem__, tuple(map(chunk_digest, pieces)))
            uploads.append(Upload(station, combiner, parcel))

        async def hear():
            async for heard in station.hear(down):
                if isinstance(heard.envelope.body, UploadState):
                    combiner = OURS.tokens(heard.message.subject, "down", 3)[2]
                    for upload in uploads:
                        if upload.combiner == combiner:
                            upload.hear(heard.envelope.body)

        listening = asyncio.create_task(hear())
        outcomes = await asyncio.gather(*(upload.run() for upload in uploads))
        listening.cancel()
        return outcomes

    async def round(self, number, blob, updates, tree, *, shards=(), chunk_bytes=32, plan=DEFAULT, base=None, **fields):
        """Run a round: ``tree``: combiner -> (its clients, its parent); returns the blob of the new model.

        The combiner without a parent is the root. With ``shards`` everybody's update goes to all of these instead.
        ``updates``: client -> (what it has made, weight[, metrics]); it travels as the ``plan`` says, for which
        ``base`` is the model that it was made from.
        """
        common = {"round": number, "blob": blob, "plan": plan, **fields}
        updates = {name: Sent(*update) for name, update in updates.items()}
        clients = list(updates)
        places = {c: [k] for k, (some, _) in tree.items() for c in some} or {c: list(shards) for c in clients}
        names, parts = list(shards or tree), max(1, len(shards))
        own = {k: dict.fromkeys(clients if shards else tree[k][0], number) for k in names}
        for part, k in enumerate(names):
            await self.order(k, "fold", uploads=own[k], part=part if shards else 0, parts=parts, **common)
        async with together() as group:
            for client, sent in updates.items():
                travels = sent.encoded(plan, base, chunk_bytes, seed=number)
                group.create_task(
                    self._must_send(client, travels, sent, places[client], number, chunk_bytes, sent.spec(plan, base))
                )
        root = shards[0] if shards else next(k for k, (_, parent) in tree.items() if not parent)
        publish = f"s-{number}-{number}"
        given = {c: given_weight(plan, sent.weight) for c, sent in updates.items()}
        for part, k in enumerate(names):
            counted = clients if shards or k == root else own[k]
            merge = Merge(
                root=root,
                parent="" if shards or tree[k][1] in ("", root) else tree[k][1],
                attempt=number,
                counted=own[k],
                partials={} if shards else {other: number for other, (_, parent) in tree.items() if parent == k},
                weight_sum=math.fsum(fold_weight(plan, updates[c].weight, updates[c].metrics, 0) for c in counted),
                publish=publish,
                given_sum=math.fsum(given.values()),
                updates=len(clients),
                population=len(clients),
                means={
                    name: math.fsum(given[c] * updates[c].metrics[name] for c in clients) / math.fsum(given.values())
                    for name in plan.metrics
                },
            )
            await self.order(k, "merge", uploads=own[k], merge=merge, part=part if shards else 0, parts=parts, **common)
        stored = await self.reported.get()
        assert isinstance(stored, ModelStored), stored
        assert stored.blob == publish and not isinstance(stored, MergeFailed)
        for k in names:
            await self.order(k, "rest", **common)
        return publish

    async def _must_send(self, client, travels, sent, combiners, number, chunk_bytes, spec):
        for outcome in await self.send(
            client,
            travels,
            sent.weight,
            combiners,
            round_=number,
            attempt=number,
            chunk_bytes=chunk_bytes,
            metrics=sent.metrics,
            spec=spec,
        ):
            assert outcome.accepted, outcome.reason


@dataclass
class Sent:
    """What a client has made of the base model in a round: arrays, or the bytes of a payload."""

    made: object
    weight: float
    metrics: dict = field(default_factory=dict)

    def spec(self, plan, base):
        """The spec that it announces."""
        return ModelSpec.of(base if plan.encoding.form != "model" else self.made).digest

    def encoded(self, plan, base, chunk_bytes, seed):
        """The chunks as they travel."""
        if plan.encoding.form == "payload":
            return [self.made[start : start + chunk_bytes] for start in range(0, len(self.made), chunk_bytes)]
        if plan.encoding.form == "model":
            return pieces_of(self.made, chunk_bytes)
        coding = Coding(Layout(ModelSpec.of(base), chunk_bytes), plan.encoding.codec, plan.encoding.options)
        pieces = pieces_of(difference(self.made, base), chunk_bytes)
        return [coding.encode(index, piece, seed) for index, piece in enumerate(pieces)]


def difference(made, base):
    """What has changed, as a client sends it."""
    return {key: (made[key].astype(float) - value.astype(float)).astype(value.dtype) for key, value in base.items()}


def pieces_of(arrays, chunk_bytes):
    """The chunks of arrays."""
    layout = Layout(ModelSpec.of(arrays), chunk_bytes)
    source = Source(layout, arrays)
    return [bytes(source.chunk(index)) for index in range(layout.count)]


def variant(model, client, number):
    """What a client makes of a model in a round."""
    rng = np.random.default_rng([number, *client.encode()])
    return {key: (value + rng.normal(size=value.shape) / 8).astype(value.dtype) for key, value in model.items()}
