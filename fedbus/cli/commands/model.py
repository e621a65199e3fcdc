"""`fedbus model list|show|download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import URL, Credentials, Json, Nats, Store, Workspace
from fedbus.cli.running import run

app = typer.Typer(help="See and fetch published models.", no_args_is_help=True)

Version = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="As `fedbus model list` shows it.", autocompletion=completing.versions),
]


@app.command("list")
def list_models(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """List the published versions, oldest first."""
    from fedbus.cli.listing import list_models
    from fedbus.cli.roles import Place

    run(list_models(Place(nats, workspace, credentials), json=json))


@app.command("show")
def show(
    version: Version,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show a version: where it comes from, and its arrays."""
    from fedbus.cli.listing import show_model
    from fedbus.cli.roles import Place

    run(show_model(Place(nats, workspace, credentials, store), version, json=json))


@app.command("download")
def download(
    version: Version,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: VERSION.safetensors, here.")
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Fetch a version into a safetensors file; its digest is checked before the file gets its name."""
    from fedbus.cli.listing import download
    from fedbus.cli.roles import Place

    run(download(Place(nats, workspace, credentials, store), version, output, json=json))
