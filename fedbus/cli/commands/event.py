"""`fedbus event list`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.moments import moment_of
from fedbus.cli.running import run

app = typer.Typer(help="What became true, as the journals say it.", no_args_is_help=True)

DONE = 0


def _only(what: str, metavar: str) -> object:
    return typer.Option(metavar=metavar, help=what, show_default=False)


@app.callback()
def event() -> None:
    """What became true, as the journals say it."""


@app.command("list")
def list_events(
    *,
    session: Annotated[str | None, _only("Only of this session.", "SESSION")] = None,
    kind: Annotated[
        list[str] | None, _only("Only records of this kind, such as RoundClosed; repeatable.", "KIND")
    ] = None,
    since: Annotated[str | None, _only("Only from then on: 2026-05-01T12:30, or 10m, 2h, 3d ago.", "WHEN")] = None,
    until: Annotated[str | None, _only("Only up to then.", "WHEN")] = None,
    text: Annotated[str | None, _only("Only with this text, in whatever case.", "TEXT")] = None,
    after: Annotated[str | None, _only("Only behind the event with this id.", "ID")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="End after so many.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """List events, the oldest first. With --json: one object an event."""
    from fedbus.cli.events import list_events
    from fedbus.cli.roles import Place
    from fedbus.federation.listing import EventFilter

    wanted = EventFilter(
        session,
        tuple(kind or ()),
        moment_of(since) if since is not None else None,
        moment_of(until) if until is not None else None,
        text,
    )
    listing = list_events(
        Place(nats, workspace, credentials), wanted, follow=follow, after=after, limit=limit, json=json
    )
    run(listing, terminated=DONE)
