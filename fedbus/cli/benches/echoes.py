"""The clients of the benchmarks, many in one process: they compute next to nothing and give back what they got, moved.

As clients with a connection each, or as one crowd on a connection that all share. Held, they wait at two gates of each
round until the benchmark opens them, so that the way of the model and that of the updates can be told apart.

    python -m fedbus.cli.benches.echoes FIRST COUNT [crowd] [held]    clients FIRST .. FIRST + COUNT - 1, at FEDBUS_URL
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

import numpy as np
import typer

import fedbus
from fedbus.bus.nats import connect
from fedbus.cli.benches.expectation import SHIFT
from fedbus.cli.benches.gates import Gates
from fedbus.cli.environment import choose_home, environ, setup_log
from fedbus.cli.roles import Place, take_part
from fedbus.cli.running import run
from fedbus.together import together

SERIES = "echo"
"""The clients are ``echo-0``, ``echo-1`` and so on, however they are spread over processes."""


def echo(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """Do what the client does whose number stands at the end of its name."""
    index = int(task.client.rpartition("-")[2])
    shift = np.float32(SHIFT * index)
    return fedbus.Update({name: array + shift for name, array in model.items()}, weight=1 + index)


def echo_app(gates: Gates | None = None) -> fedbus.ClientApp:
    """Return the app of all clients; with gates they wait there for each other."""
    app = fedbus.ClientApp()
    if gates is None:
        app.train(echo)
        return app

    @app.train
    async def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
        await gates.reach(f"{task.round}-fetched")
        update = echo(model, task)
        await gates.reach(f"{task.round}-trained")
        return update

    return app


async def take_parts(place: Place, first: int, count: int, *, crowd: bool = False, held: bool = False) -> None:
    """Run clients until cancelled."""
    async with AsyncExitStack() as stack:
        gates = None
        if held:
            bus = await stack.enter_async_context(await connect(place.url, name=f"gates-{first}"))
            gates = await stack.enter_async_context(Gates.on(bus))
        app = echo_app(gates)
        if crowd:
            await take_part(place, app, SERIES, count=count, first=first)
            return
        group = await stack.enter_async_context(together())
        for index in range(first, first + count):
            group.create_task(take_part(place, app, f"{SERIES}-{index}"))


def main() -> None:
    """Run the clients that argv names."""
    first, count = (int(text) for text in sys.argv[1:3])
    setup_log("error", f"echo-{first}")
    choose_home()
    try:
        place, words = Place(environ()["FEDBUS_URL"]), sys.argv[3:]
        run(take_parts(place, first, count, crowd="crowd" in words, held="held" in words), terminated=0)
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main()
