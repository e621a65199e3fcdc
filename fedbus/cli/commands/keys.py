"""`fedbus keys init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import Json, Workspace

app = typer.Typer(help="Keys of a broker's operator: whoever has them says who takes part.", no_args_is_help=True)


@app.callback()
def keys_() -> None:
    """Keys of a broker's operator: whoever has them says who takes part."""


@app.command("init")
def init(
    *,
    keys: Annotated[
        Path, typer.Option("--keys", envvar="FEDBUS_KEYS", metavar="DIR", help="Where they are; kept where there are.")
    ],
    url: Annotated[
        list[str] | None, typer.Option("--url", metavar="URL", help="Where members find the broker; repeatable.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="ROLE/NAME=FILE", help="Who gets credentials, and where; repeatable."),
    ] = None,
    broker: Annotated[
        Path | None,
        typer.Option("--broker", metavar="FILE", help="What nats-server has to know, to be included in its settings."),
    ] = None,
    store: Annotated[Path, typer.Option("--store", metavar="DIR", help="Where that nats-server keeps its streams.")] = (
        Path("/var/lib/nats")
    ),
    workspace: Workspace = "default",
    json: Json = False,
) -> None:
    """Make keys, credentials, and a broker's settings of who may come in, before anything runs; again does no harm."""
    from fedbus.cli import founding

    members = founding.read_members(member or [])
    founding.found(keys, workspace, members, urls=url or [], broker=broker, store=store, json=json)
