"""Crowds over a real broker: the model of as many separate clients, recovery, failures, leaving."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

import fedbus

MEMBERS = 5
LEAVE_S_MAX = 2.0
SMALL = {"w": np.zeros((5, 7), np.float32), "b": np.zeros(3, np.float64)}
LARGE = {"w": np.zeros((700, 1000), np.float32), "b": np.zeros(3, np.float64)}
"""6 chunks, of which the last is a small one."""


def step(model, task, fails=()):
    """An update that depends on name, seed and model only."""
    if task.client in fails:
        raise ValueError(f"{task.client} has no data")
    rng = np.random.default_rng(task.seed)
    arrays = {name: array + rng.standard_normal(array.shape).astype(array.dtype) for name, array in model.items()}
    return fedbus.Update(arrays, weight=1.5 + int(task.client.split("-")[-1]), metrics={"seed": task.seed % 1000})


def walking(*, is_async=False, entered=None, held=None, fails=()):
    """An app of such steps; ``entered`` is set when it trains, ``held`` is what it waits for."""
    app = fedbus.ClientApp()
    entered = entered or threading.Event()

    async def train_later(model, task):
        entered.set()
        if held:
            await held.wait()
        return step(model, task, fails)

    def train(model, task):
        entered.set()
        if held:
            held.wait(10)
        return step(model, task, fails)

    app.train(train_later if is_async else train)

    @app.evaluate
    def evaluate(model, task):
        return fedbus.Evaluation(weight=1.0, metrics={"size": float(len(task.client))})

    return app


@pytest.mark.parametrize(
    ("sharding", "combiners", "model"),
    [
        pytest.param("clients", 1, SMALL, id="small"),
        pytest.param("clients", 2, SMALL, id="small, two combiners"),
        pytest.param("clients", 2, LARGE, id="large, two combiners"),
        pytest.param("chunks", 2, LARGE, id="large, chunks shared out"),
    ],
)
async def test_a_crowd_comes_to_the_model_of_as_many_clients(house, monkeypatch, sharding, combiners, model):
    """Separate clients, one crowd, and two crowds of one series: the same names give the same bits after each round.

    The crowd has room for two large updates in memory and writes the others to its file.
    """
    monkeypatch.setattr("fedbus.client.service.MEMORY_BYTES_MAX", 6_000_000)
    await house.operate(combiners)
    config = {"rounds": 2, "clients_min": MEMBERS, "seed": 7, "sharding": sharding, "evaluate_every": 2}
    app = walking()

    names = [f"m-{number}" for number in range(MEMBERS)]
    for name in names:
        await house.client(name, app)
    await house.present(MEMBERS)
    apart, facts, _ = await house.run(model, **config)
    for name in names:
        await house.dismiss(name)

    await house.crowd("m", app, MEMBERS)
    await house.present(MEMBERS)
    together, facts_together, arrays = await house.run(model, **config)
    await house.stop("m")

    for number, (first, count) in enumerate([(0, 2), (2, MEMBERS - 2)]):
        crowd = await house.crowd("m", walking(is_async=number == 1), count, first=first)
        assert [*crowd.clients] == names[first : first + count]
    await house.present(MEMBERS)
    shared, _, _ = await house.run(model, **config)

    assert apart.digest == together.digest == shared.digest
    assert apart.metrics == together.metrics == shared.metrics
    assert not np.array_equal(arrays["w"], model["w"])
    for told in (facts, facts_together):
        assert [fact.counted for fact in told if fact.kind == "RoundClosed"] == [MEMBERS, MEMBERS]


async def test_one_who_fails_costs_his_own_update_and_no_other(house):
    """His reason stands in the journal under his name, the others count, and the crowd lives on."""
    await house.operate()
    await house.crowd("m", walking(fails=("m-3",)), MEMBERS)
    await house.present(MEMBERS)
    _, facts, _ = await house.run(SMALL, rounds=2, clients_min=MEMBERS, quorum=MEMBERS - 1, evaluate_every=0)
    assert [fact.counted for fact in facts if fact.kind == "RoundClosed"] == [MEMBERS - 1] * 2
    failures = {name: reason for fact in facts if fact.kind == "UpdatesRecorded" for name, reason in refusals(fact)}
    assert failures == {"m-3": "ValueError: m-3 has no data"}


def refusals(fact):
    """Who could not give an update, and why."""
    return [(refused.client, refused.reason) for refused in fact.refused]


async def test_a_crowd_whose_connection_breaks_goes_on(house, broker, eventually):
    """The broker dies while the crowd trains, and again while it sends: every update counts, the result is the same."""
    await house.operate()
    config = {"rounds": 2, "clients_min": MEMBERS, "seed": 7, "evaluate_every": 0}
    await house.crowd("m", walking(), MEMBERS)
    await house.present(MEMBERS)
    undisturbed, _, _ = await house.run(LARGE, **config)
    await house.stop("m")

    entered, held = threading.Event(), threading.Event()
    await house.crowd("m", walking(entered=entered, held=held), MEMBERS)
    await house.present(MEMBERS)
    running = asyncio.create_task(house.run(LARGE, within_s=60, **config))
    await eventually(entered.is_set)
    await broker.kill()
    held.set()
    await asyncio.sleep(0.5)
    await broker.start()
    async with fedbus.connect(house.url) as federation:
        chunks = await federation.bus.subscribe("fb.default.chunk.>")
        await anext(chunks)
    await broker.kill()
    await broker.start()
    disturbed, facts, _ = await running
    assert disturbed.digest == undisturbed.digest
    assert [fact.counted for fact in facts if fact.kind == "RoundClosed"] == [MEMBERS, MEMBERS]


@pytest.mark.parametrize("phase", ["idle", "mid-training sync", "mid-training async", "mid-upload"])
async def test_a_cancelled_crowd_leaves_nothing_behind(house, eventually, phase):
    """Its `run` ends within two seconds; no task, no thread, and nobody of it is there any more."""
    await house.operate()
    is_async = "async" in phase
    entered = asyncio.Event() if is_async else threading.Event()
    held = (asyncio.Event() if is_async else threading.Event()) if "training" in phase else None
    async with fedbus.connect(house.url, name="watch") as federation:
        await federation.combiners()
        tasks = asyncio.all_tasks()
        crowd = await fedbus.Crowd(
            house.url, walking(is_async=is_async, entered=entered, held=held), name="leaver", count=40
        ).__aenter__()
        running = asyncio.create_task(crowd.run())
        await house.present(40)
        if phase != "idle":
            chunks = await federation.bus.subscribe("fb.default.chunk.>")
            session = await federation.start_session(fedbus.SessionConfig(rounds=1, clients_min=40), model=LARGE)
            if held is None:
                await anext(chunks)
            else:
                await eventually(entered.is_set)
            await chunks.close()
        begun = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await crowd.__aexit__(None, None, None)
        assert time.monotonic() - begun < LEAVE_S_MAX
        mine = [task for task in asyncio.all_tasks() - tasks if "client" in repr(task) or "leaver" in repr(task)]
        assert not mine
        if held is not None:
            held.set()
        await eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("fedbus-leaver")], 3)
        await eventually(lambda: nobody(federation))
        if phase != "idle":
            await session.stop()
    house.check()


async def nobody(federation):
    """Whether no client is there."""
    return await federation.clients() == []
