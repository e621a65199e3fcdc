"""An aiohttp application that takes part in a federation while it serves.

It measures something (``POST /measured``), and predicts it (``GET /predict``) with the newest model that the federation
has made, locally: a prediction makes no network call. Training runs in a thread, so requests are answered meanwhile.

    python embed_in_aiohttp.py nats://127.0.0.1:4222 --name site-1 --port 8001
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

import numpy as np
from aiohttp import web

import fedbus

STEPS = 20
RATE = 0.2

# The data: the newest measurements, in this process only.
points: deque[tuple[float, float]] = deque(maxlen=10_000)

# The federation's part: an app, as for `fedbus client run`.
federated = fedbus.ClientApp()


def measured() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and outputs as they are now, float64 (n,) each: training must not see them change."""
    table = np.array(list(points), dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@federated.train
def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """Fit the line to the measurements, from the federation's model; runs in a thread."""
    x, y = measured()
    if len(x) == 0:
        raise ValueError("nothing has been measured here yet")  # this round goes on without us, and says so
    slope, offset = model["slope"].copy(), model["offset"].copy()
    for _ in range(task.config.get("steps", STEPS)):
        error = slope * x + offset - y
        slope -= RATE * (error * x).mean()
        offset -= RATE * error.mean()
    loss = float(((slope * x + offset - y) ** 2).mean())
    return fedbus.Update({"slope": slope, "offset": offset}, weight=len(x), metrics={"loss": loss})


# The application's part: as it was, but for `federation`.
NATS_URL = web.AppKey("nats_url", str)
NAME = web.AppKey("name", str)
CLIENT = web.AppKey("client", fedbus.Client)


async def federation(application: web.Application) -> AsyncIterator[None]:
    """Take part for as long as the application lives."""
    async with fedbus.Client(application[NATS_URL], federated, name=application[NAME]) as client:
        application[CLIENT] = client
        running = asyncio.create_task(client.run(), name="federation")
        yield
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def measure(request: web.Request) -> web.Response:
    """Take a measurement, ``{"x": 0.5, "y": -0.5}``; it stays here."""
    try:
        body = await request.json()
        points.append((float(body["x"]), float(body["y"])))
    except (ValueError, TypeError, KeyError) as error:
        raise web.HTTPBadRequest(text='expected a JSON object like {"x": 0.5, "y": -0.5}\n') from error
    return web.json_response({"points": len(points)}, status=201)


async def predict(request: web.Request) -> web.Response:
    """Predict y for ``?x=0.5``, and say with which version of the model."""
    try:
        x = float(request.query["x"])
    except (ValueError, KeyError) as error:
        raise web.HTTPBadRequest(text="expected a number, as in /predict?x=0.5\n") from error
    model = request.app[CLIENT].model
    if model is None:
        raise web.HTTPServiceUnavailable(text="no model has arrived yet: is a session running?\n")
    return web.json_response({"y": float(model["slope"][0] * x + model["offset"][0]), "version": model.version})


def application(nats_url: str, name: str) -> web.Application:
    """Put the application together."""
    app = web.Application()
    app[NATS_URL] = nats_url
    app[NAME] = name
    app.cleanup_ctx.append(federation)
    app.add_routes([web.post("/measured", measure), web.get("/predict", predict)])
    return app


def main() -> None:
    """Read the arguments and serve until interrupted."""
    parser = argparse.ArgumentParser(description="An aiohttp application that takes part in a federation.")
    parser.add_argument("nats_url", help="where the federation's broker listens, e.g. nats://127.0.0.1:4222")
    parser.add_argument("--name", default="site-1", help="this client's name, unique in the federation")
    parser.add_argument("--port", type=int, default=8001, help="where to serve, on the loopback interface")
    arguments = parser.parse_args()
    web.run_app(application(arguments.nats_url, arguments.name), host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    main()
