"""`fedbus session list|clone|compare|export`: sessions beside each other, and as files."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.completing import sessions as complete
from fedbus.cli.environment import URL, Credentials, Json, Nats, Store, Workspace
from fedbus.cli.running import run


class Standing(Enum):
    """Where a session stands."""

    STARTING = "starting"
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    REFUSED = "refused"


class Format(Enum):
    """What a session becomes."""

    JSON = "json"
    CSV = "csv"


class What(Enum):
    """What of a session becomes rows."""

    ROUNDS = "rounds"
    CLIENTS = "clients"
    CURVES = "curves"


Name = Annotated[
    str, typer.Argument(metavar="SESSION", help="As `fedbus session list` shows it.", autocompletion=complete)
]


def _only(what: str, metavar: str) -> object:
    return typer.Option(metavar=metavar, help=what, show_default=False)


def list_sessions(
    *,
    status: Annotated[list[Standing] | None, _only("Only those that stand so; repeatable.", "STATUS")] = None,
    strategy: Annotated[str | None, _only("Only those of this strategy.", "NAME")] = None,
    text: Annotated[
        str | None, _only("Only those with this text in name, reason, strategy or starter.", "TEXT")
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="So many at most.")] = None,
    after: Annotated[str | None, _only("Behind this one, the last of the page before.", "SESSION")] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """List sessions, and what they wait for."""
    from fedbus.cli.roles import Place
    from fedbus.cli.sessions import list_sessions

    chosen = {
        "status": [one.value for one in status or ()],
        "strategy": strategy,
        "text": text,
        "order": "newest" if newest else "oldest",
        "limit": limit,
        "after": after,
    }
    run(list_sessions(Place(nats, workspace, credentials), chosen, json=json))


def clone(
    *,
    name: Name,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting that differs, as JSON or text; repeatable.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, _only("Begin with this version (the one that SESSION began with).", "VERSION")] = None,
    new: Annotated[str | None, typer.Option("--name", help="Default: a name is made up.", show_default=False)] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Start a session like another one."""
    from fedbus.cli.comparisons import clone_session
    from fedbus.cli.loading import values
    from fedbus.cli.roles import Place

    given = values("--set", changes or [])
    run(clone_session(Place(nats, workspace, credentials, store), name, given, model, new, json=json))


def compare(
    names: Annotated[list[str], typer.Argument(metavar="SESSION...", help="2 to 10 of them.", autocompletion=complete)],
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Compare sessions: settings in which they differ, and what came of each. With --json: their curves, too."""
    from fedbus.cli.comparisons import compare_sessions
    from fedbus.cli.roles import Place

    run(compare_sessions(Place(nats, workspace, credentials), names, json=json))


def export(
    *,
    name: Name,
    format_: Annotated[Format, typer.Option("--format", help="json: all of it; csv: what --what says.")] = Format.JSON,
    what: Annotated[
        What, typer.Option("--what", help="Of CSV: a row a round, a row a client and round, or a row a value.")
    ] = What.ROUNDS,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Default: stdout.", show_default=False)
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Write a session to a file: all of it as JSON, or its rounds, clients or curves as CSV."""
    from fedbus.cli.comparisons import export_session
    from fedbus.cli.roles import Place

    place = Place(nats, workspace, credentials)
    run(export_session(place, name, format_.value, what.value, output, json=json))


def add_to(app: typer.Typer) -> None:
    """Let these be commands of `fedbus session`."""
    for name, command in (("list", list_sessions), ("clone", clone), ("compare", compare), ("export", export)):
        app.command(name)(command)
