"""`fedbus stage list|show|clear`; `fedbus model promote` and `rollback` change one."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run

app = typer.Typer(help="See stages: named places for a version, such as production.", no_args_is_help=True)

Stage = Annotated[
    str, typer.Argument(metavar="STAGE", help="Its name, such as production.", autocompletion=completing.stages)
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="For those who ask later.")]


@app.command("list")
def list_stages(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """List stages: which version each has, since when, by whom."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.list_stages(Place(nats, workspace, credentials), json=json))


@app.command("show")
def show(
    stage: Stage,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show a stage, and the versions that it had before."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.show_stage(Place(nats, workspace, credentials), stage, json=json))


@app.command("clear")
def clear(
    stage: Stage,
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Take a stage away; its version stays, as long as something else keeps it."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.clear_stage(Place(nats, workspace, credentials), stage, reason, json=json))
