"""`fedbus client pause|resume|leave|withdraw|card|log`: for the owner of the data beside which a client runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import Json
from fedbus.cli.running import run

StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir", envvar="FEDBUS_STATE_DIR", metavar="DIR", help="That of the client.", show_default=False
    ),
]
Name = Annotated[
    str,
    typer.Option("--name", help="Which client, where several share the directory.", show_default=False),
]
MaybeSession = Annotated[str, typer.Argument(metavar="[SESSION]", show_default=False)]


def _want(state_dir: Path, name: str, what: str, session: str, *, json: bool) -> None:
    from fedbus.cli.owning import want

    run(want(state_dir, name, what, session, json=json))


def pause(state_dir: StateDir, name: Name = "", json: Json = False) -> None:
    """Let a client that runs here do and say nothing, at once and until `resume`, also after a restart."""
    _want(state_dir, name, "pause", "", json=json)


def resume(state_dir: StateDir, session: MaybeSession = "", name: Name = "", json: Json = False) -> None:
    """Let it go on; with SESSION: take part again in one that it left."""
    _want(state_dir, name, "resume", session, json=json)


def leave(state_dir: StateDir, session: MaybeSession = "", name: Name = "", json: Json = False) -> None:
    """Take no part in SESSION any more and drop what was made for it; without SESSION: in none, and pause."""
    _want(state_dir, name, "leave", session, json=json)


def withdraw(
    session: Annotated[str, typer.Argument(metavar="SESSION")],
    state_dir: StateDir,
    name: Name = "",
    json: Json = False,
) -> None:
    """Leave SESSION, and ask that the update of its open round be undone."""
    _want(state_dir, name, "withdraw", session, json=json)


def card(state_dir: StateDir, session: MaybeSession = "", name: Name = "", json: Json = False) -> None:
    """Show what sessions said they are before the client took part, and what was decided."""
    from fedbus.cli.owning import place_of, show_cards

    place_of(state_dir, name)
    show_cards(state_dir, name, session, json=json)


def log(
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir", envvar="FEDBUS_STATE_DIR", metavar="DIR", help="That of the client.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--outgoing-log", metavar="FILE", help="Where it is, if elsewhere.", show_default=False),
    ] = None,
    session: Annotated[str, typer.Option("--session", metavar="SESSION", help="Of one.", show_default=False)] = "",
    name: Name = "",
    check: Annotated[bool, typer.Option("--verify", help="See whether the log is as it was written.")] = False,
    json: Json = False,
) -> None:
    """Show all that left this machine: what, how much, for which session."""
    from fedbus.cli.owning import place_of, show_log

    if (state_dir is None) == (file is None):
        raise typer.BadParameter("give --state-dir or --outgoing-log")
    path = file if file is not None else place_of(state_dir or Path(), name) / "outgoing.jsonl"
    show_log(path, session, check=check, json=json)


def add_to(app: typer.Typer) -> None:
    """Add the commands of owners to those of clients."""
    for command in (pause, resume, leave, withdraw, card, log):
        app.command(command.__name__)(command)
