"""`fedbus strategy list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import Json

app = typer.Typer(help="See what sessions can be made of: strategies, codecs, selections.", no_args_is_help=True)


@app.command("list")
def list_strategies(json: Json = False) -> None:
    """List strategies, codecs and selections, also those of installed packages."""
    from fedbus.cli.strategies import list_all

    list_all(json=json)


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="As `fedbus strategy list` shows it, or a chain: a+b.",
            autocompletion=completing.strategies,
        ),
    ],
    json: Json = False,
) -> None:
    """Show one: what it needs, its options with ranges and defaults, and the paper."""
    from fedbus.cli.strategies import show

    show(name, json=json)
