"""`fedbus backup` and `fedbus restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="An earlier backup is continued.")],
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="TIME", help="Again and again, so often: 60s, 5m, 1h.", show_default=False),
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Copy journals, models and the catalogue into a directory, while sessions run."""
    from fedbus.cli.backups import back_up, seconds
    from fedbus.cli.roles import Place

    every_s = None if every is None else seconds(every)
    run(back_up(Place(nats, workspace, credentials), directory, every_s, json=json), terminated=0 if every else 143)


def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="What `fedbus backup` made.")],
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    from_open: Annotated[
        bool,
        typer.Option(
            "--from-open",
            help="The backup is of an open workspace: seal its models on the way into this secured one.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Bring a backup back to a broker that has lost what it holds; nothing is overwritten."""
    from fedbus.cli.backups import restore as bring_back
    from fedbus.cli.roles import Place

    run(bring_back(Place(nats, workspace, credentials), directory, from_open=from_open, json=json))
