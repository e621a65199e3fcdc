"""Those who do not keep to the protocol: they speak by nats-py and msgpack, with nothing of ours between."""

from __future__ import annotations

import asyncio
import contextlib
import math

import msgpack
import nats
import numpy as np
import pytest
from blake3 import blake3
from xxhash import xxh3_64_intdigest

from fedbus.tensors import Manifest


class Attacker:
    """A client that is asked for updates like any other, and sends what it likes; closed after the test.

    ``states``: what combiners told it, ``tasks``: what the coordinator asked of it; both newest last.
    """

    def __init__(self, connection, name):
        self.connection = connection
        self.name = name
        self.states = []
        self.tasks = []
        self.news = asyncio.Event()

    async def listen(self):
        """Hear what is said to a client of this name."""
        await self.connection.subscribe(f"fb.default.down.client.{self.name}.*", cb=self._hear(self.states))
        await self.connection.subscribe(f"fb.default.task.{self.name}.*", cb=self._hear(self.tasks))
        await self.connection.flush()

    def _hear(self, known):
        async def hear(message):
            known.append(msgpack.unpackb(message.data)["body"])
            self.news.set()

        return hear

    async def until(self, condition, within_s=60.0):
        """Wait for news until a condition is true; returns its value."""
        async with asyncio.timeout(within_s):
            while not (found := condition()):
                self.news.clear()
                await self.news.wait()
        return found

    def envelope(self, kind, body, /, **other):
        """Pack an envelope; ``other`` replaces its fields."""
        return msgpack.packb(
            {"v": 1, "id": "x-1", "kind": kind, "ws": "default", "from": self.name, "body": body} | other
        )

    async def say(self, subject, data):
        """Publish, and wait until the broker has it."""
        await self.connection.publish(f"fb.default.{subject}", data)
        await self.connection.flush()

    async def hello(self, **other):
        """Say that we are there."""
        body = {"incarnation": "evil", "heartbeat_s": 60.0}
        await self.say(f"presence.client.{self.name}", self.envelope("Hello", body, **other))

    async def asked(self):
        """Wait for the task to train; returns it."""
        await self.until(lambda: self.tasks and self.tasks[-1]["state"] == "train")
        return self.tasks[-1]["session"], self.tasks[-1]["train"]

    async def upload(self, parcel, **other):
        """Upload as a client does, until there is a verdict; returns its reason, empty if it was accepted."""
        session, train = await self.asked()
        where = {"session": session, "round": train["round"], "attempt": train["attempt"]}
        begin = self.envelope("UploadBegin", where | parcel.begin, **other)
        sent = 0
        for _ in range(60):
            try:
                state = await self.until(lambda: self.states and self.states.pop(0), within_s=0.25)
            except (
                TimeoutError
            ):  # not announced yet, or told to wait: how things stand is the answer to an announcement
                await self.say(f"up.{train['combiner']}.client.{self.name}", begin)
                continue
            if state["verdict"] != "pending":
                return state["reason"]
            if state["resend"]:
                sent = state["next_chunk"]
            for index, data, digest in parcel.chunks[sent : state["credit"]]:
                address = f"{session}.{train['round']}.{train['attempt']}.{index}.{digest:016x}"
                await self.say(f"chunk.{train['combiner']}.client.{self.name}.{address}", data)
            sent = max(sent, state["credit"])
        raise AssertionError(f"{self.name}: no verdict")


class Parcel:
    """An upload that can be made into a lie: ``begin`` is what it announces, ``chunks`` (index, bytes, XXH3)."""

    def __init__(self, arrays, weight=1.0):
        manifest = Manifest.of(arrays)
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
        assert manifest.layout.count == 1 or not data
        self.chunks = [(0, data, xxh3_64_intdigest(data))]
        self.begin = {
            "spec": manifest.spec.digest,
            "digest": blake3(data).hexdigest(),
            "nbytes": len(data),
            "chunks": 1,
            "weight": weight,
        }

    def announcing(self, **fields):
        """Announce something else."""
        self.begin |= fields
        return self

    def sending(self, *chunks):
        """Send something else."""
        self.chunks = list(chunks)
        return self


@pytest.fixture
async def attacker(broker):
    """Make attackers by name; await each."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(name):
            connection = await nats.connect(broker.url, name=name)
            stack.push_async_callback(connection.close)
            made = Attacker(connection, name)
            await made.listen()
            return made

        yield make


def lies_about(model):
    """Return {name: (a parcel that cannot count, what the reason must say)}."""

    def arrays(value=1.0, dtype=None):
        shifted = {key: array + array.dtype.type(value) for key, array in model.items()}
        return {key: array.astype(dtype or array.dtype) for key, array in shifted.items()}

    def broken(value):
        wrong = arrays()
        next(iter(wrong.values())).flat[3] = value
        return Parcel(wrong)

    honest = Parcel(arrays())
    index, data, digest = honest.chunks[0]
    renamed = {f"other-{key}": array for key, array in arrays().items()}
    reshaped = {key: array.reshape(-1) for key, array in arrays().items()}
    flipped = bytes([data[0] ^ 1]) + data[1:]
    return {
        "nan": (broken(math.nan), "expected finite values, got nan"),
        "inf": (broken(math.inf), "expected finite values, got inf"),
        "minus-inf": (broken(-math.inf), "expected finite values, got -inf"),
        "huge": (broken(1e30), "expected magnitudes of at most 64"),
        "name": (Parcel(renamed), "names, shapes or dtypes"),
        "shape": (Parcel(reshaped), "names, shapes or dtypes"),
        "dtype": (Parcel(arrays(dtype=np.float16)), "names, shapes or dtypes"),
        "weight-0": (Parcel(arrays(), weight=0.0), "weight above 0"),
        "weight-minus-9": (Parcel(arrays(), weight=-9.0), "weight above 0"),
        "weight-nan": (Parcel(arrays(), weight=math.nan), "weight above 0"),
        "weight-inf": (Parcel(arrays(), weight=math.inf), "weight above 0"),
        "weight-dust": (Parcel(arrays(), weight=1e-300), "weight of at least"),
        "digest": (Parcel(arrays()).announcing(digest="0" * 64), "expected the digest"),
        "nbytes": (Parcel(arrays()).announcing(nbytes=len(data) + 8), "bytes in 1 chunks"),
        "chunks": (Parcel(arrays()).announcing(chunks=2), "bytes in 1 chunks"),
        "longer": (
            Parcel(arrays()).sending((index, data * 2, xxh3_64_intdigest(data * 2))),
            f"expected {len(data)} bytes, got {2 * len(data)}",
        ),
        "shorter": (
            Parcel(arrays()).sending((index, data[:-4], xxh3_64_intdigest(data[:-4]))),
            f"expected {len(data)} bytes, got {len(data) - 4}",
        ),
        "empty": (Parcel(arrays()).sending((index, b"", xxh3_64_intdigest(b""))), f"expected {len(data)} bytes, got 0"),
        "damaged": (Parcel(arrays()).sending((index, flipped, digest)), "arrived damaged"),
    }


@pytest.fixture(scope="session")
def make_lies():
    """``make_lies(model)``: {name: (parcel, what the reason must say)}."""
    return lies_about


@pytest.fixture(scope="session")
def make_parcel():
    """``make_parcel(arrays, weight=1.0)``: an honest upload of one chunk."""
    return Parcel
