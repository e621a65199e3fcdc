"""The public face over a real broker: apps sync and async, models, leaving in every phase, wrong addresses."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import numpy as np
import pytest

import fedbus
from fedbus.errors import BusUnavailable

LEAVE_S_MAX = 2.0
BIG = {"w": np.zeros((2048, 1024), np.float32)}
"""8 MB, 16 chunks: fetching and uploading take long enough to be left in their midst."""


def growing(*, is_async, held=None, entered=None):
    """An app that adds 1; ``entered`` is set when it trains, ``held`` is what it waits for."""
    app = fedbus.ClientApp()

    def grown(model):
        return fedbus.Update({name: array + array.dtype.type(1) for name, array in model.items()})

    if is_async:

        @app.train
        async def train(model, task):
            if entered:
                entered.set()
            if held:
                await held.wait()
            return grown(model)

    else:

        @app.train
        def train(model, task):
            if entered:
                entered.set()
            if held:
                held.wait(10)
            return grown(model)

    return app


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_clients_model_is_none_and_then_the_newest(house, zeros, is_async):
    """Before the first task there is no model; afterwards the newest that came, read-only, with its version."""
    await house.operate()
    client = await house.client("site-1", growing(is_async=is_async))
    assert client.model is None
    result, _, arrays = await house.run(zeros, rounds=2, evaluate_every=0)
    assert client.model.version == f"{result.session}-1", "what it trained on last"
    np.testing.assert_array_equal(client.model["w"], zeros["w"] + 1)
    np.testing.assert_array_equal(arrays["w"], zeros["w"] + 2)
    with pytest.raises(ValueError, match="read-only"):
        client.model["w"][0] = 5


async def test_a_sync_train_leaves_the_loop_free(house, zeros):
    """While a plain function trains in its thread, the loop turns."""
    await house.operate()
    entered, held = threading.Event(), threading.Event()
    await house.client("site-1", growing(is_async=False, held=held, entered=entered))
    running = asyncio.create_task(house.run(zeros, rounds=1, evaluate_every=0))
    while not entered.is_set():  # noqa: ASYNC110 - set in a thread
        await asyncio.sleep(0.01)
    begun = time.monotonic()
    for _ in range(50):
        await asyncio.sleep(0)
    assert time.monotonic() - begun < 0.5
    held.set()
    await running


async def test_several_clients_share_a_loop_and_an_app(house, zeros):
    """Five clients of one app in one loop: each counts."""
    await house.operate()
    app = growing(is_async=False)
    for number in range(5):
        await house.client(f"site-{number}", app)
    _, facts, arrays = await house.run(zeros, rounds=2, clients_min=5, evaluate_every=0)
    np.testing.assert_array_equal(arrays["w"], zeros["w"] + 2)
    assert [fact.counted for fact in facts if fact.kind == "RoundClosed"] == [5, 5]


class Leaver:
    """A client of its own, whose leaving is watched."""

    def __init__(self, url, app):
        self.tasks = asyncio.all_tasks()
        self.client = fedbus.Client(url, app, name="leaver")

    async def leave(self, running, eventually, threads=()):
        """Cancel `run` and leave; asserts that it is prompt and that nothing of it stays."""
        begun = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await self.client.__aexit__(None, None, None)
        assert time.monotonic() - begun < LEAVE_S_MAX
        mine = [task for task in asyncio.all_tasks() - self.tasks if "leaver" in repr(task) or "nats" in repr(task)]
        assert not mine
        for thread in threads:
            thread.set()
        await eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("fedbus-leaver")], 3)


@pytest.mark.parametrize(
    "phase", ["idle", "at once", "mid-fetch", "mid-training sync", "mid-training async", "mid-upload"]
)
async def test_cancelling_leaves_promptly_and_nothing_behind(house, eventually, phase):
    """A cancelled `run` ends within two seconds wherever it is; the federation forgets the client at its `Bye`."""
    await house.operate()
    async with fedbus.connect(house.url, name="watch") as federation:
        await federation.combiners()
        entered, held = (threading.Event(), threading.Event()) if "sync" in phase else (None, None)
        if phase == "mid-training async":
            entered, held = asyncio.Event(), asyncio.Event()
        is_async = "async" in phase
        leaver = Leaver(house.url, growing(is_async=is_async, held=held, entered=entered))
        client = await leaver.client.__aenter__()
        running = asyncio.create_task(client.run(), name="leaver")
        if phase == "at once":
            await asyncio.sleep(0)
        else:
            await house.present(1)
        session = None
        if phase.startswith("mid"):
            chunks = await federation.bus.subscribe("fb.default.chunk.>")
            session = await federation.start_session(fedbus.SessionConfig(rounds=1, evaluate_every=0), model=BIG)
            if "training" in phase:
                await eventually(entered.is_set)
            elif phase == "mid-upload":
                await anext(chunks)
            else:
                await eventually(federation.waits, every_s=0.001)
                assert client.model is None
            await chunks.close()
        await leaver.leave(running, eventually, [held] if phase == "mid-training sync" else ())
        await eventually(lambda: nobody(federation))
        if session is not None:
            await session.stop()
            assert (await session.wait()).outcome == "stopped"
        house.check()


async def nobody(federation):
    """Whether no client is there."""
    return await federation.clients() == []


async def test_cancelled_while_it_connects(unused_port):
    """Nobody answers, and the caller leaves before the deadline: prompt, and nothing stays."""
    tasks = asyncio.all_tasks()
    client = fedbus.Client(f"nats://127.0.0.1:{unused_port}", growing(is_async=True), name="leaver")
    entering = asyncio.create_task(client.__aenter__())
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert time.monotonic() - begun < LEAVE_S_MAX
    assert asyncio.all_tasks() <= tasks


async def test_run_outside_of_the_context_says_what_is_missing():
    """A client that was not entered tells how to."""
    with pytest.raises(fedbus.FedbusError, match="enter the client first"):
        await fedbus.Client("nats://127.0.0.1:1", growing(is_async=True), name="x").run()


@pytest.mark.parametrize("who", ["connect", "client"])
async def test_a_wrong_address_is_an_error_within_seconds(unused_port, who):
    """Nobody listens there: the error names the address and what to do, and does not take long."""
    url = f"nats://user:secret@127.0.0.1:{unused_port}"
    entered = fedbus.connect(url) if who == "connect" else fedbus.Client(url, growing(is_async=True), name="x")
    begun = time.monotonic()
    with pytest.raises(BusUnavailable, match=rf"127\.0\.0\.1:{unused_port}.*is a broker running there") as caught:
        async with entered:
            pass
    assert time.monotonic() - begun < 8
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:notaport", "http://127.0.0.1:80", "nats://", "nats://no.such.invalid"])
async def test_an_address_that_is_none_is_an_error_of_ours(url):
    """What cannot be an address, or leads nowhere: an error of fedbus's own tree within seconds."""
    begun = time.monotonic()
    with pytest.raises(fedbus.FedbusError):
        async with fedbus.connect(url):
            pass
    assert time.monotonic() - begun < 8


async def test_a_name_that_cannot_be_is_refused_at_once():
    """Names, apps and models that cannot be: the error says what may."""
    app = growing(is_async=True)
    with pytest.raises(fedbus.FedbusError, match="1 to 64 of the characters"):
        fedbus.Client("nats://x", app, name="site 1")
    with pytest.raises(fedbus.FedbusError, match=r"@app\.train"):
        fedbus.Client("nats://x", fedbus.ClientApp(), name="site-1")
    with pytest.raises(fedbus.FedbusError, match="already"):
        app.train(lambda model, task: None)


@pytest.fixture
def unused_port():
    """A port of loopback on which nobody listens."""
    import socket

    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
