"""`fedbus session track`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Nats, Workspace
from fedbus.cli.running import run


def track(
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="As `fedbus session list` shows it; or --all.", show_default=False),
    ] = None,
    sink: Annotated[
        list[str],
        typer.Option(
            "--sink",
            metavar="NAME:TARGET",
            help="tensorboard:DIR, mlflow:URI, jsonl:FILE, csv:FILE, or a plug-in's; repeatable.",
        ),
    ],
    everything: Annotated[bool, typer.Option("--all", help="Every session of the workspace.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on with what comes, until the session ends.")
    ] = False,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
) -> None:
    """Write a session's metrics to MLflow, TensorBoard or a file. Begun again, it writes what is missing."""
    from fedbus.cli.roles import Place
    from fedbus.cli.tracking import track

    run(track(Place(nats, workspace, credentials), name, sink, everything=everything, follow=follow))
