"""`fedbus demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import setup_log
from fedbus.cli.running import run


def demo(
    *,
    clients: Annotated[int, typer.Option("--clients", min=1, max=100, help="Owners of digits.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10_000, help="Rounds to run.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same model, bit by bit.")] = 0,
    combiners: Annotated[int, typer.Option("--combiners", min=1, max=16, help="They share the clients.")] = 1,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="NAME", help="The aggregator, or a chain a+b.", autocompletion=completing.strategies
        ),
    ] = "fedavg",
    strategy_option: Annotated[
        list[str] | None, typer.Option("--strategy-option", metavar="KEY=VALUE", help="For the aggregator; repeatable.")
    ] = None,
    codec: Annotated[
        str,
        typer.Option("--codec", metavar="NAME", help="How clients encode updates.", autocompletion=completing.codecs),
    ] = "none",
    codec_option: Annotated[
        list[str] | None, typer.Option("--codec-option", metavar="KEY=VALUE", help="For the codec; repeatable.")
    ] = None,
    http_port: Annotated[
        int, typer.Option("--http-port", min=0, max=65535, help="Of the page, on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    stay: Annotated[bool, typer.Option("--stay", help="Keep page, broker and clients until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")] = False,
) -> None:
    """Run a whole federation on handwritten digits, on this machine, and see what it gains."""
    given = dict(locals())
    from fedbus.cli.demo import Demo
    from fedbus.cli.loading import load_config

    setup_log("error", "demo")
    settings = load_config(None, given | {"clients_min": clients, "quorum": clients})
    run(Demo(settings, combiners=combiners, json=json, http_port=http_port, stay=stay).run())
