"""Code as users write it against the public face; mypy checks it strictly (it is never run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedbus

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


@app.initial
def initial(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """A first model is made from a seed."""
    return {"w": np.full(3, seed, np.float32)}


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
