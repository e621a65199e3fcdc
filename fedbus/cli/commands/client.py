"""`fedbus client run|list|show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import URL, Credentials, Json, LogLevel, Nats, Workspace, host_name
from fedbus.cli.observing import (
    LogFile,
    LogFormat,
    MetricsListen,
    MetricsPort,
    SpansFile,
    SpansTo,
    observe,
)
from fedbus.cli.running import run

app = typer.Typer(help="Take part, or see who does.", no_args_is_help=True)

DONE = 0


@app.command("run")
def run_client(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where your fedbus.ClientApp is.")],
    *,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            help="Who you are; no two clients of a workspace share a name. Default: the machine's.",
            show_default=False,
        ),
    ] = "",
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="Be so many clients in this process: NAME-0, NAME-1 and so on."),
    ] = None,
    first: Annotated[
        int, typer.Option("--first", min=0, help="With --count: the first client's number, where others have the rest.")
    ] = 0,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir", help="Keep updates there until their rounds are closed: they survive this process."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="What the owner of the data allows (TOML).", show_default=False),
    ] = None,
    consent: Annotated[
        str,
        typer.Option("--consent", metavar="HOW", help="Before a session is joined: by the policy, or ask here."),
    ] = "policy",
    outgoing_log: Annotated[
        Path | None,
        typer.Option(
            "--outgoing-log",
            metavar="FILE",
            help="Write down all that leaves. Default: in the --state-dir.",
            show_default=False,
        ),
    ] = None,
    nats: Nats = URL,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", metavar="KEY=VALUE", help="What engineers may filter by; repeatable."),
    ] = None,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    spans: SpansTo = "bus",
    spans_file: SpansFile = None,
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = "127.0.0.1",
) -> None:
    """Take part: train when asked, where the data is."""
    from fedbus.cli.loading import load_app, pairs
    from fedbus.cli.owning import Terminal
    from fedbus.cli.roles import Place, take_part

    name = name or host_name()
    observing = observe(
        "client", name, workspace, log_level, log_format, log_file, spans, spans_file, metrics_port, metrics_listen
    )
    if first and count is None:
        raise typer.BadParameter("--first goes with --count")
    if consent not in ("ask", "policy"):
        raise typer.BadParameter(f"--consent: expected ask or policy, got {consent!r}")
    attributes = pairs("--attribute", attribute or [])
    client_app = load_app(target)
    place = Place(nats, workspace, credentials, observing=observing)
    taking_part = take_part(
        place,
        client_app,
        name,
        attributes,
        count=count,
        first=first,
        state_dir=state_dir,
        policy=policy,
        on_card=Terminal() if consent == "ask" else None,
        outgoing_log=outgoing_log,
    )
    run(taking_part, terminated=DONE)


@app.command("list")
def list_clients(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """List the clients that are there now."""
    from fedbus.cli.listing import list_clients
    from fedbus.cli.roles import Place

    run(list_clients(Place(nats, workspace, credentials), json=json))


@app.command("show")
def show_client(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CLIENT", help="As `fedbus client list` shows it, or a journal.", autocompletion=completing.clients
        ),
    ],
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show a client: whether it is there, what it gave over all sessions, and what became of that."""
    from fedbus.cli.clients import show_client
    from fedbus.cli.roles import Place

    run(show_client(Place(nats, workspace, credentials), name, json=json))
