"""`fedbus top`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run


def top(
    nats: Nats = URL,
    every_s: Annotated[
        float, typer.Option("--every-s", min=0.2, max=3600, metavar="SECONDS", help="How often it is drawn.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once, as it is now, and end.")] = False,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show everything at a glance, live: who is there, what runs, what waits, until when."""
    from fedbus.cli.roles import Place
    from fedbus.cli.top import top

    run(top(Place(nats, workspace, credentials), every_s=every_s, once=once, json=json))
