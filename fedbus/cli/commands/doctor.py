"""`fedbus doctor`."""

from __future__ import annotations

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run


def doctor(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Check the way from here to the clients, hop by hop, and say what to do where it breaks."""
    from fedbus.cli.doctor import examine, report
    from fedbus.cli.roles import Place

    checks = run(examine(Place(nats, workspace, credentials)))
    report(checks, json=json)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
