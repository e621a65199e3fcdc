"""A FastAPI application that takes part in a federation while it serves.

As `embed_in_aiohttp.py`: it measures something (``POST /measured``), and predicts it (``GET /predict``) with the newest
model that the federation has made, locally. The client lives in the application's lifespan. ``pip install fastapi
uvicorn``, then

    FEDBUS_URL=nats://127.0.0.1:4222 FEDBUS_NAME=site-1 uvicorn embed_in_fastapi:api --port 8001
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

import fedbus

STEPS = 20
RATE = 0.2

# The data: the newest measurements, in this process only.
points: deque[tuple[float, float]] = deque(maxlen=10_000)

# The federation's part: an app, as for `fedbus client run`.
federated = fedbus.ClientApp()


@federated.train
def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """Fit the line to the measurements, from the federation's model; runs in a thread."""
    table = np.array(list(points), dtype=np.float64).reshape(-1, 2)
    x, y = table[:, 0], table[:, 1]
    if len(x) == 0:
        raise ValueError("nothing has been measured here yet")  # this round goes on without us, and says so
    slope, offset = model["slope"].copy(), model["offset"].copy()
    for _ in range(task.config.get("steps", STEPS)):
        error = slope * x + offset - y
        slope -= RATE * (error * x).mean()
        offset -= RATE * error.mean()
    loss = float(((slope * x + offset - y) ** 2).mean())
    return fedbus.Update({"slope": slope, "offset": offset}, weight=len(x), metrics={"loss": loss})


# The application's part: as it was, but for the lifespan.
@contextlib.asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Take part for as long as the application lives."""
    url, name = os.environ.get("FEDBUS_URL", "nats://127.0.0.1:4222"), os.environ.get("FEDBUS_NAME", "site-1")
    async with fedbus.Client(url, federated, name=name) as client:
        application.state.client = client
        running = asyncio.create_task(client.run(), name="federation")
        yield
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


api = FastAPI(lifespan=lifespan)


class Measurement(BaseModel):
    """One point of the line; it stays here."""

    x: float
    y: float


@api.post("/measured", status_code=201)
async def measure(measured: Measurement) -> dict[str, int]:
    """Take a measurement."""
    points.append((measured.x, measured.y))
    return {"points": len(points)}


@api.get("/predict")
async def predict(x: float, request: Request) -> dict[str, float | str]:
    """Predict y, and say with which version of the model."""
    model = request.app.state.client.model
    if model is None:
        raise HTTPException(503, "no model has arrived yet: is a session running?")
    return {"y": float(model["slope"][0] * x + model["offset"][0]), "version": model.version}
