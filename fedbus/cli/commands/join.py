"""`fedbus join`: a machine becomes a member of a workspace."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import Json, by_way
from fedbus.cli.running import run


def join(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What you were sent (fbj_...); - reads it from stdin.")],
    *,
    name: Annotated[
        str,
        typer.Option(
            "--name", help="Who you will be. Default: whom the token is for, or the machine.", show_default=False
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where your credentials go. Default: fedbus's own place.", show_default=False
        ),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", metavar="KEY=VALUE", help="What whoever approves is told; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Join a workspace with a token: your key is made here and never leaves this machine."""
    from fedbus.cli import joining
    from fedbus.cli.loading import pairs

    text = sys.stdin.read() if token == "-" else token
    wanted = joining.Wanted(name, pairs("--attribute", attribute or []), out, partial(by_way, ctx))
    run(joining.take_token(text, wanted, json=json))
