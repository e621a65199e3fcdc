"""`fedbus bench plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import Json
from fedbus.errors import ConfigError


def plan(
    *,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Connected at a time.")] = 1000,
    per_round: Annotated[int, typer.Option("--per-round", min=0, help="That train in a round; 0: all.")] = 0,
    model_mb: Annotated[float, typer.Option("--model-mb", metavar="MB", help="Size of the model, 10^6 bytes.")] = 45.0,
    round_s: Annotated[
        float, typer.Option("--round-s", metavar="SECONDS", help="How long a round is to take, training included.")
    ] = 600.0,
    regions: Annotated[int, typer.Option("--regions", min=0, help="Leaves with combiners; 0: all at the hub.")] = 0,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=5, help="Servers that keep each stream.")] = 3,
    busy: Annotated[float, typer.Option("--busy", help="Share of a core and of a line to plan with.")] = 0.5,
    server_cores: Annotated[int, typer.Option("--server-cores", min=1, help="Of one server.")] = 16,
    server_gbit: Annotated[float, typer.Option("--server-gbit", help="A server's line.")] = 10.0,
    client_mbit: Annotated[float, typer.Option("--client-mbit", help="A client's line, the slower direction.")] = 20.0,
    clients_per_server: Annotated[
        int, typer.Option("--clients-per-server", min=1, help="Connections of one nats-server.")
    ] = 20_000,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--measured", metavar="FILE", help="What `bench transfer|clients --json` printed; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Compute what a federation needs, from measured processor time per byte and per message."""
    import orjson

    from fedbus.cli import capacity

    need = capacity.Need(
        clients=clients,
        per_round=per_round,
        model_mb=model_mb,
        round_s=round_s,
        regions=regions,
        replicas=replicas,
        busy=busy,
        server_cores=server_cores,
        server_gbit=server_gbit,
        client_mbit=client_mbit,
        clients_per_server=clients_per_server,
    )
    figures = capacity.measured(_run_of(path) for path in measured or ())
    found = capacity.plan(need, figures)
    if json:
        print(orjson.dumps({"need": asdict(need), "figures": asdict(figures), "plan": asdict(found)}).decode())
        return
    for label, value in capacity.rows(found):
        print(f"{label:38s} {value:>12s}")
    for limit in found.limits:
        print(f"limit: {limit}")


def _run_of(path: Path) -> dict[str, object]:
    import orjson

    try:
        last = path.read_bytes().strip().splitlines()[-1]
        run = orjson.loads(last)
    except (IndexError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path}: its last line is no JSON object") from error
    if not isinstance(run, dict):
        raise ConfigError(f"{path}: expected one JSON object, got {type(run).__name__}: measure one case for each file")
    return run
