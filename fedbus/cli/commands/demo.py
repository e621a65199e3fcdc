"""`fedbus demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import setup_log
from fedbus.cli.running import run


def demo(
    clients: Annotated[int, typer.Option("--clients", min=1, max=100, help="Owners of digits.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10_000, help="Rounds to run.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same model, bit by bit.")] = 0,
    combiners: Annotated[int, typer.Option("--combiners", min=1, max=16, help="They share the clients.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")] = False,
) -> None:
    """Run a whole federation on handwritten digits, on this machine, and see what it gains."""
    from fedbus.cli.demo import Demo

    setup_log("error", "demo")
    run(Demo(clients=clients, rounds=rounds, seed=seed, combiners=combiners, json=json).run())
