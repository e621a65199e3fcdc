"""`fedbus bench echo`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import setup_log
from fedbus.cli.running import run

app = typer.Typer(help="Measure.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure a federation on this machine."""


@app.command("echo")
def echo(
    clients: Annotated[int, typer.Option("--clients", min=1, max=10_000, help="How many.")] = 10,
    model_mb: Annotated[
        float, typer.Option("--model-mb", min=0.0, max=4000, metavar="MB", help="Size of the model, 10^6 bytes.")
    ] = 45,
    arrays: Annotated[int, typer.Option("--arrays", min=1, max=100_000, help="Arrays of the model.")] = 62,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10_000, help="Rounds to run.")] = 5,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, max=256, help="Processes that share the clients (2).", show_default=False),
    ] = None,
    combiners: Annotated[int, typer.Option("--combiners", min=1, max=64, help="How many.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")] = False,
) -> None:
    """Send a model round: clients that compute nothing, every role in processes of its own, and check the result."""
    from fedbus.cli.bench import Bench

    setup_log("error", "bench")
    bench = Bench(
        clients=clients,
        model_mb=model_mb,
        arrays=arrays,
        rounds=rounds,
        processes=min(processes or 2, clients),
        combiners=combiners,
    )
    figures = run(bench.run(json=json))
    if not figures["correct"]:
        raise typer.Exit(1)
