"""The broker's store is full: what does not fit waits, says so, and goes on when there is room."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

import fedbus
from fedbus.bus.embedded import BrokerSettings, EmbeddedBroker
from fedbus.errors import BusFull

MODEL = {"w": np.zeros((512, 640), np.float32)}
"""1.3 MB, of which three versions fit."""

FILE_BYTES_MAX = 5_000_000
CONFIG = {"rounds": 5, "clients_min": 2, "evaluate_every": 0}


@pytest.fixture
async def small(tmp_path, make_house, make_app):
    """A federation of two clients on a broker with a small store."""
    settings = BrokerSettings(file_bytes_max=FILE_BYTES_MAX)
    async with (
        EmbeddedBroker(tmp_path / "small", settings=settings) as broker,
        contextlib.aclosing(make_house(broker.url)) as house,
    ):
        await house.operate()
        for number in range(2):
            await house.client(f"site-{number}", make_app(0.5))
        await house.present(2)
        yield house


async def stored_blobs(federation):
    """Return the names of the blobs of which anything is stored."""
    stream, pattern = federation.subjects.stream("blob"), federation.subjects.blob()
    if not await federation.bus.pending(stream, pattern):
        return set()
    found = set()
    async for message in await federation.bus.follow(stream, pattern):
        found.add(message.subject.split(".")[3])
        if not message.pending:
            break
    return found


async def holds(federation, blobs):
    """Whether just these are stored: of what does not fit a part is there now and then, but is removed."""
    return await stored_blobs(federation) == blobs


@pytest.mark.slow
async def test_a_session_waits_for_room_and_goes_on(small, eventually):
    """The fourth version does not fit: the session waits with that reason, holds nothing of the version that it cannot
    store, trains nothing again, and completes when old versions are removed.
    """
    async with fedbus.connect(small.url) as federation:
        session = await federation.start_session(fedbus.SessionConfig(**CONFIG), model=MODEL, name="full")

        async def waits_for_room(number):
            waits = [wait for wait in await federation.waits() if "the broker's store has room" in wait.what]
            return [(wait.session, wait.round) for wait in waits] == [("full", number)]

        await eventually(lambda: waits_for_room(3), within_s=20)
        first = (await federation.models.list())[0].blob
        await eventually(lambda: holds(federation, {first, "full-1-2", "full-2-2"}))
        await federation.store.remove(first)
        await federation.store.remove("full-1-2")
        await eventually(lambda: waits_for_room(5))  # two made room for two
        await federation.store.remove("full-2-2")
        async with asyncio.timeout(60):
            result = await session.wait()
        assert result.rounds == CONFIG["rounds"]
        arrays = await federation.models.get(result.model_version)
        np.testing.assert_array_equal(arrays["w"], MODEL["w"] + 0.5 * CONFIG["rounds"])
        facts = [event.kind async for event in session.events()]
        assert facts.count("RoundOpened") == CONFIG["rounds"] and "RoundFailed" not in facts


@pytest.mark.slow
async def test_a_first_model_that_does_not_fit_is_refused_whole(small):
    """Starting a session whose model has no room is an error that says what to do; of the model nothing stays, and a
    smaller one is taken.
    """
    async with fedbus.connect(small.url) as federation:
        large = {"w": np.zeros((2048, 1024), np.float32)}
        with pytest.raises(BusFull, match="free room or raise the limit"):
            await federation.start_session(fedbus.SessionConfig(**CONFIG), model=large, name="large")
        assert await stored_blobs(federation) == set()
        tiny = {"w": np.zeros(10_000, np.float32)}
        session = await federation.start_session(fedbus.SessionConfig(**CONFIG), model=tiny, name="tiny")
        async with asyncio.timeout(60):
            assert (await session.wait()).rounds == CONFIG["rounds"]
