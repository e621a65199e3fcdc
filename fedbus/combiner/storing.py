"""Stores a new model while it is made: chunks are made in a thread, those made before are being stored meanwhile.

Order of writes: the pieces of a chunk's state, the chunk; when all chunks are there, the head of the state, then the
manifest. Where chunks are shared out among combiners, each stores its own, and the root reads the others' in order, as
they come, to describe the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

from fedbus.bus.base import Payload
from fedbus.combiner.carried import state_of
from fedbus.combiner.making import BUFFERS, Given, Made, Making
from fedbus.errors import NotFound
from fedbus.messages.orders import Order
from fedbus.store.models import ModelStore
from fedbus.tensors import Manifest
from fedbus.together import together
from fedbus.workers import Workers

BATCH = 4
"""Chunks made in one go: a hop to the thread costs 50 us, a chunk of 512 KiB a millisecond."""

PAUSE_S, PAUSE_S_MAX = 0.02, 0.25
"""How long the root waits before it looks again for a chunk that another has not stored yet."""


class Storing:
    """Stores the models of one workspace."""

    def __init__(self, store: ModelStore, workers: Workers) -> None:
        self._store = store
        self._workers = workers

    async def store(self, making: Making, order: Order) -> None:
        """Make and store the chunks that are folded here, and their state."""
        assert order.merge is not None
        if making.carried.is_there and order.round > 1:
            making.carried.load((await self._store.chunk(state_of(order.blob), 0)).data)
        room = asyncio.Semaphore(BUFFERS)
        # The root has the first part, so what it makes are the model's first chunks; others describe nothing.
        make = partial(making.make, described=order.part == 0)
        batches: list[Sequence[int]] = [making.chunks[i : i + BATCH] for i in range(0, len(making.chunks), BATCH)]
        async with together() as group:
            coming: asyncio.Task[Mapping[int, Given]] | None = None
            for batch, following in pairwise([(), *batches, ()]):
                given = await coming if coming is not None else {}
                coming = group.create_task(self._given(making, order, following)) if following else None
                for _ in batch:
                    await room.acquire()
                for made in await self._workers.run(make, given) if given else ():
                    group.create_task(self._put(order.merge.publish, making, made, room))

    async def _given(self, making: Making, order: Order, chunks: Sequence[int]) -> Mapping[int, Given]:
        """Read what the steps of some chunks need."""
        bases: dict[int, Payload] = {}
        pieces: dict[int, Payload] = {}
        numbers = [number for index in chunks for number in making.carried.needed(index)]
        async with together() as group:
            if making.reads_base:
                for index in chunks:
                    group.create_task(self._read_base(order.blob, index, bases))
            for number in numbers:
                group.create_task(self._read(state_of(order.blob), number, pieces))
        return {
            index: Given(bases.get(index), [pieces[number] for number in making.carried.needed(index)])
            for index in chunks
        }

    async def _read_base(self, blob: str, index: int, into: dict[int, Payload]) -> None:
        try:
            await self._read(blob, index, into)
        except NotFound:  # a small model lies in its manifest, which we have not read where we made it ourselves
            await self._store.manifest(blob)
            await self._read(blob, index, into)

    async def _read(self, blob: str, index: int, into: dict[int, Payload]) -> None:
        into[index] = (await self._store.chunk(blob, index)).data

    async def _put(self, blob: str, making: Making, made: Made, room: asyncio.Semaphore) -> None:
        """Store a chunk behind the pieces of its state; that of a small model goes with the manifest."""
        for number, piece in zip(making.carried.pieces(made.index), made.pieces, strict=True):
            await self._store.put_chunk(state_of(blob), number, piece)
        if making.is_whole and self._store.is_small(making.base):
            making.small = bytes(made.data)
        else:
            await self._store.put_chunk(blob, made.index, made.data)
        making.done(made)
        room.release()

    async def finish(self, making: Making, order: Order) -> Manifest:
        """Take note of the chunks that others store, waiting for each; then store the head of the state.

        Returns the manifest, which is not stored yet. It does not give up: whoever calls it does, when the order
        changes.
        """
        assert order.merge is not None
        blob, count = order.merge.publish, making.count
        for first in range(making.chunks.stop, count, BATCH):
            found: dict[int, Payload] = {}
            async with together() as group:
                for index in range(first, min(first + BATCH, count)):
                    group.create_task(self._await_chunk(blob, index, found))
            await self._workers.run(making.description.add, [found[index] for index in sorted(found)])
        manifest = await self._workers.run(making.description.manifest)
        if making.carried.is_there:
            await self._store.put_chunk(state_of(blob), 0, making.carried.head(making.scalars))
        return manifest

    async def _await_chunk(self, blob: str, index: int, into: dict[int, Payload]) -> None:
        pause_s = PAUSE_S
        while True:
            try:
                await self._read(blob, index, into)
            except NotFound:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
            else:
                return
