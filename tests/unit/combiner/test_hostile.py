"""Hostile senders beside honest ones at a real combiner: the honest finish in their time, the sum is theirs alone."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from rig import OURS, Rig, variant

from fedbus.bus.memory import MemoryBus
from fedbus.combiner.machine import PROGRESS_BYTES, STALL_S
from fedbus.combiner.slots import ROOM_BYTES, WINDOW_BYTES
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Merge
from fedbus.messages.reports import ModelStored
from fedbus.messages.subjects import ChunkAddress
from fedbus.messages.uploads import UploadBegin
from fedbus.tensors import Manifest, Source, chunk_digest, model_digest
from fedbus.testing.loop import run_virtual

CHUNK_BYTES = 64 * 1024
MODEL = {"w": np.zeros(5 * WINDOW_BYTES // 16, np.float32), "b": np.ones(3)}
"""More than a window: eight such updates fill all the room."""

HONEST = [f"honest-{i}" for i in range(3)]
KINDS = (*["dribbles"] * 8, "floods", "shuffles", "repeats", "lags", "babbles", "silent")
HOSTILE = [f"{kind}-{i}" for i, kind in enumerate(KINDS)]


class Hostile:
    """A client that knows the protocol and does not keep to it."""

    def __init__(self, rig, name):
        self.name, self.rng = name, random.Random(name)
        self.bus = MemoryBus(rig.broker, name)
        self.peer = Peer("client", name)
        self.arrays = variant(MODEL, name, 1)
        self.manifest = Manifest.of(self.arrays, CHUNK_BYTES)
        self.source = Source(self.manifest.layout, self.arrays)
        self.told = []

    async def run(self):
        """Announce, hear what comes, and misbehave for ever."""
        down = await self.bus.subscribe(OURS.down(self.peer))
        hearing = asyncio.create_task(self.hear(down))
        try:
            while True:
                await self.announce()
                await getattr(self, self.name.split("-")[0])()
                await asyncio.sleep(1.5)
        finally:
            hearing.cancel()

    async def hear(self, down):
        async for message in down:
            self.told.append(decode(message.data, message.subject).body)

    @property
    def expected(self):
        """The chunk that it was last asked for."""
        return self.told[-1].next_chunk if self.told else 0

    @property
    def credit(self):
        """How far it may send."""
        return self.told[-1].credit if self.told else 0

    async def announce(self):
        """An announcement as it should be."""
        begin = UploadBegin(
            session="s",
            round=1,
            attempt=1,
            spec=self.manifest.spec.digest,
            digest=self.manifest.digest,
            nbytes=self.manifest.spec.nbytes,
            chunks=self.manifest.layout.count,
            weight=2.0,
        )
        await self.bus.publish(OURS.up("k0", self.peer), encode(Envelope("i", "default", self.name, begin)))

    async def chunk(self, index, *, round_=1, attempt=1):
        """One chunk as it should be, of whatever round."""
        data = bytes(self.source.chunk(index))
        address = ChunkAddress(self.peer, "s", round_, attempt, index, chunk_digest(data))
        await self.bus.publish(OURS.chunk("k0", address), data)

    async def dribbles(self):
        """One chunk in a while."""
        await asyncio.sleep(2.0)
        await self.chunk(self.expected)

    async def floods(self):
        """All that there is, at once, with or without credit."""
        for index in range(self.manifest.layout.count):
            await self.chunk(index)

    async def shuffles(self):
        """What it may send, in any order but the right one."""
        may = list(range(self.expected + 1, self.credit))
        for index in self.rng.sample(may, len(may)):
            await self.chunk(index)

    async def repeats(self):
        """The first, many times, once it may."""
        for _ in range(40 if self.credit else 0):
            await self.chunk(0)

    async def lags(self):
        """Of a round that is over, of one to come, of another attempt."""
        for round_, attempt in ((0, 1), (2, 1), (1, 9)):
            for index in range(10):
                await self.chunk(index, round_=round_, attempt=attempt)

    async def babbles(self):
        """Bytes where words should be, and words that mean nothing."""
        for subject in (OURS.up("k0", self.peer), f"fb.default.chunk.k0.client.{self.name}.s.1.1.x.y"):
            await self.bus.publish(subject, self.rng.randbytes(100))
        address = ChunkAddress(self.peer, "s", 1, 1, 0, 7)
        if self.credit:
            await self.bus.publish(OURS.chunk("k0", address), self.rng.randbytes(CHUNK_BYTES))

    async def silent(self):
        """Nothing, for long."""
        await asyncio.sleep(8.0)


@pytest.mark.parametrize("first", ["hostile", "honest"])
def test_honest_senders_finish_beside_hostile_ones(first):
    """Eight who dribble hold all the room; others flood, shuffle, repeat, lag, babble or are silent; three are honest.

    They finish within two leases; nobody's bytes but theirs are in the model; each of the others was told why, seldom.
    """
    assert KINDS.count("dribbles") * WINDOW_BYTES == ROOM_BYTES and PROGRESS_BYTES > CHUNK_BYTES

    async def main():
        async with Rig() as rig:
            await rig.store.put("first", MODEL, CHUNK_BYTES)
            await rig.start("k0")
            attempts, common = dict.fromkeys([*HONEST, *HOSTILE], 1), {"round": 1, "blob": "first"}
            await rig.order("k0", "fold", uploads=attempts, **common)
            hostile = [Hostile(rig, name) for name in HOSTILE]
            loop = asyncio.get_running_loop()

            async def attack():
                tasks = [asyncio.create_task(one.run()) for one in hostile]
                await asyncio.sleep(1.0)
                return tasks

            tasks = await attack() if first == "hostile" else []
            began = loop.time()
            sending = [
                asyncio.create_task(
                    rig.send(name, variant(MODEL, name, 1), 1.0, ["k0"], round_=1, attempt=1, chunk_bytes=CHUNK_BYTES)
                )
                for name in HONEST
            ]
            tasks = tasks or await attack()
            for outcomes in await asyncio.gather(*sending):
                assert all(outcome.accepted for outcome in outcomes), outcomes
            took_s = loop.time() - began
            assert took_s < 2 * STALL_S, f"honest senders took {took_s:.1f} s"
            await asyncio.sleep(20.0)
            counted = dict.fromkeys(HONEST, 1)
            merge = Merge(root="k0", attempt=5, counted=counted, weight_sum=3.0, publish="s-1-5")
            await rig.order("k0", "merge", uploads=counted, merge=merge, **common)
            stored = await rig.reported.get()
            assert isinstance(stored, ModelStored)
            arrays = (await rig.store.read("s-1-5")).arrays
            lived_s = loop.time() - began + 1.0
            for task in tasks:
                task.cancel()
            judge(rig, hostile, lived_s)
            return model_digest(arrays)

    async def calm():
        async with Rig() as rig:
            await rig.store.put("first", MODEL, CHUNK_BYTES)
            await rig.start("k0")
            updates = {name: (variant(MODEL, name, 1), 1.0) for name in HONEST}
            blob = await rig.round(1, "first", updates, {"k0": (HONEST, "")}, chunk_bytes=CHUNK_BYTES)
            return model_digest((await rig.store.read(blob)).arrays)

    assert run_virtual(main()) == run_virtual(calm())


def judge(rig, hostile, lived_s):
    """Each was told the reason, no more often than its own announcements and a clock explain; floods were refused."""
    reasons = {kind: set() for kind in KINDS}
    for one in hostile:
        reasons[one.name.split("-")[0]] |= {state.reason for state in one.told}
    assert any("others wait" in reason for reason in reasons["dribbles"])
    assert any("chunks came without credit" in reason for reason in reasons["floods"])
    assert any("expected is chunk" in reason for reason in reasons["shuffles"])
    assert any("came twice" in reason for reason in reasons["repeats"])
    assert any("round 1 is under way" in reason for reason in reasons["lags"])
    assert any("damaged" in reason for reason in reasons["babbles"])
    assert any("others wait" in reason for reason in reasons["silent"])
    for one in hostile:
        assert len(one.told) < 10 + 6 * lived_s, f"{one.name} was answered {len(one.told)} times in {lived_s:.0f} s"
    names = {name for name, verdict in rig.verdicts.items() if verdict.accepted}
    assert set(HONEST) <= names, "the coordinator has their verdicts"
