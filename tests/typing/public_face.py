"""Code as users write it against the public face; mypy checks it strictly (it is never run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedbus
from fedbus.algorithms import (
    Ditto,
    FedDyn,
    Personal,
    Proximal,
    Scaffold,
    batches,
    learning_rate,
    without_controls,
)

app = fedbus.ClientApp()


@app.train
def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """Sync functions may train."""
    arrays = {name: array + task.round for name, array in model.items()}
    return fedbus.Update(arrays, weight=1.0, metrics={"loss": float(task.config["loss"])})


@app.evaluate
async def evaluate(model: fedbus.Model, task: fedbus.EvaluateTask) -> fedbus.Evaluation:
    """Async functions may too."""
    return fedbus.Evaluation(weight=10, metrics={"accuracy": len(model) / task.round})


@app.consent
async def consent(card: fedbus.Card) -> bool | str:
    """The owner of the data is shown what a session is, and says yes, or why not."""
    return card.updates_min >= 5 or f"a model of {card.updates_min} updates is too few"


async def decide(client: fedbus.Client) -> tuple[int, ...]:
    """An owner's word is a coroutine."""
    await client.pause()
    await client.resume("s-1")
    await client.leave("s-2")
    assert all(card.purpose for card in client.cards.values())
    return await client.withdraw("s-1")


@app.initial
def initial(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """A first model is made from a seed."""
    return {"w": np.full(3, seed, np.float32)}


keeping = fedbus.ClientApp()


@keeping.train
def train_and_keep(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """What a client keeps are arrays by name; batches, rates and terms come from the algorithms."""
    near, arrays, steps = Proximal(model, task), model.copy(), batches(task, examples=100)
    for batch in steps:
        for name, pull in near.gradient(arrays).items():
            arrays[name] -= learning_rate(task) * (pull + len(batch))
    seen: np.ndarray[Any, Any] = task.kept.get("seen", np.zeros(1))
    return fedbus.Update(arrays, weight=100, metrics=steps.metrics, keep={"seen": seen + 1})


def other_methods(model: fedbus.Model, task: fedbus.TrainTask) -> list[fedbus.Update]:
    """Each method gives an update; a payload is any bytes."""
    scaffold, dynamic, ditto, layers = Scaffold(model, task), FedDyn(model, task), Ditto(model, task), Personal(["h.*"])
    return [
        scaffold.update(scaffold.model.copy(), steps=3, learning_rate=0.1),
        dynamic.update(model.copy(), metrics={"loss": 0.5}),
        ditto.update(model.copy(), ditto.personal, weight=2),
        layers.update(model, task, layers.merge(model, task)),
        layers.withhold(fedbus.Update(model.copy()), model, task),
        fedbus.Update(payload=b"trees", weight=3),
    ]


@keeping.evaluate
def evaluate_own(model: fedbus.Model, task: fedbus.EvaluateTask) -> fedbus.Evaluation:
    """An evaluation has what the client keeps, too."""
    own = Personal(["h.*"]).merge(without_controls_of(model), task)
    return fedbus.Evaluation(weight=1, metrics={"arrays": len(own) + len(task.kept)})


def without_controls_of(model: fedbus.Model) -> dict[str, np.ndarray[Any, Any]]:
    """Control variates are no part of what predicts."""
    return without_controls(model)


async def data_owner() -> fedbus.Model | None:
    """A client is a coroutine, its model a mapping."""
    async with fedbus.Client("nats://127.0.0.1:4222", app, name="site-1", attributes={"region": "north"}) as client:
        await client.run()
        return client.model


async def many(count: int) -> Mapping[str, Any] | None:
    """A crowd is many clients in one coroutine; a task tells for whom it is."""
    app_of_many = fedbus.ClientApp()

    @app_of_many.train
    def train_one(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
        number = int(task.client.removeprefix("phone-"))
        return fedbus.Update(model.copy(), weight=1 + number)

    async with fedbus.Crowd("nats://127.0.0.1:4222", app_of_many, name="phone", count=count, first=100) as crowd:
        names: list[str] = list(crowd.clients)
        assert names[0] == "phone-100"
        await crowd.run()
        return crowd.model


async def engineer(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Mapping[str, np.ndarray[Any, Any]]:
    """A session is started, watched and waited for."""
    async with fedbus.connect("nats://127.0.0.1:4222", credentials=None) as federation:
        config = fedbus.SessionConfig(rounds=10, strategy="fedavg", clients_min=3, target_metric="accuracy>=0.9")
        session = await federation.start_session(config, model=arrays)
        async for event in session.events():
            kind: str = event.kind
            assert kind, event.at
        result: fedbus.SessionResult = await session.wait()
        digest: str = result.digest
        assert digest, result.metrics["accuracy"]
        return await federation.models.get(result.model_version)


if __name__ == "__main__":
    reveal: fedbus.FedbusError = fedbus.FedbusError("no")
