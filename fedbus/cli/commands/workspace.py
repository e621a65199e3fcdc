"""`fedbus workspace create|list|show|set`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Keys, Nats, Workspace
from fedbus.cli.running import run
from fedbus.cli.sizes import size_of

app = typer.Typer(help="Make workspaces, and decide what they may use.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new workspace.")],
    nats: Nats = URL,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Make a workspace at a broker that runs, on the machine that has its keys; and an admin's credentials for you."""
    from fedbus.cli import keyed

    run(keyed.create_workspace(keys, name, nats, json=json))


@app.command("list")
def list_workspaces(nats: Nats = URL, keys: Keys = None, json: Json = False) -> None:
    """List the workspaces that there are keys for on this machine."""
    from fedbus.cli import keyed

    run(keyed.list_workspaces(keys, nats, json=json))


@app.command("show")
def show(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Show what a workspace may use."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.show_bounds(Place(nats, workspace, credentials), json=json))


@app.command("set")
def set_bounds(
    *,
    clients_max: Annotated[
        int | None,
        typer.Option("--clients-max", min=0, help="Active clients; 0: any number.", show_default=False),
    ] = None,
    sessions_max: Annotated[
        int | None,
        typer.Option("--sessions-max", min=0, help="Sessions at once; 0: any number.", show_default=False),
    ] = None,
    bytes_max: Annotated[
        int | None,
        typer.Option(
            "--bytes-max",
            metavar="SIZE",
            parser=size_of,
            show_default=False,
            help="Of all that it has on the broker's disk, such as 50GiB; 0: without a bound.",
        ),
    ] = None,
    approval: Annotated[
        str | None,
        typer.Option(
            "--approval",
            metavar="HOW",
            help="Of who joins with a token that says nothing else: auto or ask.",
            show_default=False,
        ),
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Change what a workspace may use; what is not given stays."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    told = {
        "clients_max": clients_max,
        "sessions_max": sessions_max,
        "bytes_max": bytes_max,
        "approval": approval,
    }
    run(admitting.set_bounds(Place(nats, workspace, credentials), told, json=json))


@app.command("rotate-keys")
def rotate_keys(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The workspace.")],
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="begin, then switch, then retire; see the page on joining.")
    ],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Retire also while members have nothing newer: they join again.")
    ] = False,
    nats: Nats = URL,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Replace the keys that sign a workspace's members, in three steps, so that nobody is shut out by it."""
    from fedbus.cli import keyed

    run(keyed.rotate_keys(keys, name, nats, step, force=force, json=json))
