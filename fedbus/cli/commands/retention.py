"""`fedbus retention show|set`; `fedbus model collect` acts on it."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run

app = typer.Typer(help="Say which versions are kept.", no_args_is_help=True)


@app.command("show")
def show(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Show of how many versions of each session a collection keeps the arrays."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.show_retention(Place(nats, workspace, credentials), json=json))


@app.command("set")
def set_(
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", min=1, metavar="N", help="The newest so many.", show_default=False)
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="All of them.")] = False,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Say of how many versions of each session a collection keeps the arrays."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    place = Place(nats, workspace, credentials)
    run(registry.set_retention(place, keep_last, keep_all=keep_all, json=json))
