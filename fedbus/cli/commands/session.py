"""`fedbus session start|show|report|watch|stop|settings`; the others are in `fedbus.cli.commands.sessions`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run

app = typer.Typer(help="Start sessions, and see how they go.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(metavar="SESSION", help="As `fedbus session list` shows it.", autocompletion=completing.sessions),
]


def _option(what: str, kind: str = "N", names: Callable[[str], list[str]] | None = None) -> object:
    return typer.Option(metavar=kind, help=what, show_default=False, autocompletion=names)


def _pair(what: str) -> object:
    return typer.Option(metavar="KEY=VALUE", help=f"{what}; repeatable.", show_default=False)


@app.command("start")
def start(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=completing.versions,
            help="The first model: a .safetensors or .npz file, a published version, or a stage's (@production).",
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Default: a name is made up.", show_default=False)] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", exists=True, dir_okay=False, help="JSON with settings; options win over it."
        ),
    ] = None,
    purpose: Annotated[str | None, _option("What it is for, as data owners' policies go by it.", "TEXT")] = None,
    description: Annotated[str | None, _option("What data owners are told besides.", "TEXT")] = None,
    rounds: Annotated[int | None, _option("Rounds to run (10).")] = None,
    strategy: Annotated[
        str | None, _option("The aggregator (fedavg), or a chain a+b.", "NAME", completing.strategies)
    ] = None,
    strategy_option: Annotated[list[str] | None, _pair("For the aggregator")] = None,
    codec: Annotated[str | None, _option("How clients encode updates (none).", "NAME", completing.codecs)] = None,
    codec_option: Annotated[list[str] | None, _pair("For the codec")] = None,
    downlink: Annotated[
        str | None, _option("Codec of new versions for who holds the last (none).", "NAME", completing.codecs)
    ] = None,
    downlink_option: Annotated[list[str] | None, _pair("For that codec")] = None,
    lossless: Annotated[
        bool | None,
        typer.Option("--lossless/--no-lossless", help="Pack chunks of updates with zstd (no).", show_default=False),
    ] = None,
    clients_min: Annotated[int | None, _option("Clients that must be there before a round opens (1).")] = None,
    client_filter: Annotated[list[str] | None, _pair("Only clients of this attribute, or of one of a,b,c")] = None,
    selection: Annotated[
        str | None, _option("How clients-per-round are chosen (random).", "NAME", completing.selections)
    ] = None,
    selection_option: Annotated[list[str] | None, _pair("For the selection")] = None,
    clients_per_round: Annotated[int | None, _option("Updates that a round asks for (of all who are there).")] = None,
    oversample: Annotated[float | None, _option("Ask so many times more clients, count the first (1).", "X")] = None,
    quorum: Annotated[
        int | None, _option("Updates with which a round may close at its deadline (clients-min).")
    ] = None,
    round_deadline_s: Annotated[float | None, _option("Longest round (600).", "SECONDS")] = None,
    close_deadline_s: Annotated[float | None, _option("Longest merge and publication (600).", "SECONDS")] = None,
    gather_deadline_s: Annotated[float | None, _option("Longest wait for clients-min (86400).", "SECONDS")] = None,
    round_attempts_max: Annotated[int | None, _option("Attempts at a round without a quorum (3).")] = None,
    seed: Annotated[int | None, _option("Seed of selection and tasks (0).")] = None,
    train_config: Annotated[list[str] | None, _pair("For task.config")] = None,
    evaluate_every: Annotated[int | None, _option("Evaluate after so many rounds (1); 0 never.")] = None,
    evaluate_deadline_s: Annotated[float | None, _option("Longest evaluation (300).", "SECONDS")] = None,
    target_metric: Annotated[str | None, _option("Stop when reached: 'accuracy>=0.95'.", "TEXT")] = None,
    best_metric: Annotated[str | None, _option("Which version is the best: 'max accuracy'.", "TEXT")] = None,
    patience: Annotated[int | None, _option("Stop after so many evaluations without a better one.")] = None,
    answers_min: Annotated[int | None, _option("Answers below which an evaluation keeps nothing (1).")] = None,
    reveal: Annotated[str | None, _option("What an evaluation keeps: of clients (default), or sums.", "WHAT")] = None,
    weight_max: Annotated[float | None, _option("Largest weight of an update (1048576).", "X")] = None,
    value_floor: Annotated[float | None, _option("Every array may hold values up to it (64).", "X")] = None,
    headroom: Annotated[float | None, _option("Growth of an array in a round (64), as a multiple.", "X")] = None,
    sharding: Annotated[str | None, _option("What combiners share out: clients (default) or chunks.", "WHAT")] = None,
    residency: Annotated[
        str | None, _option("An update may leave its region: prefer (default) or require.", "WHETHER")
    ] = None,
    versions_kept: Annotated[int | None, _option("Versions whose arrays are kept, the newest (all).")] = None,
    late_updates: Annotated[
        str | None, _option("What misses its round: drop (default), stale or buffer: counts later.", "WHAT")
    ] = None,
    stale_weight: Annotated[float | None, _option("Its weight, times this for each round (0.5).", "X")] = None,
    staleness_max: Annotated[int | None, _option("With buffer: of how many rounds ago it may be (5).")] = None,
    chunk_kb: Annotated[
        int,
        typer.Option(
            "--chunk-kb",
            min=1,
            max=4096,
            metavar="KB",
            help="Largest message of its models; less for slow, broken lines.",
        ),
    ] = 512,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress.")] = True,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Start a session from a model."""
    given = dict(locals())
    from fedbus.cli.loading import load_config, model_of
    from fedbus.cli.roles import Place
    from fedbus.cli.sessions import start_session

    settings = load_config(config, given)
    place = Place(nats, workspace, credentials)
    run(start_session(place, settings, model_of(model), name, chunk_bytes=1024 * chunk_kb, watch=watch, json=json))


@app.command("show")
def show(
    name: Name, nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Show a session: settings, rounds, who was refused and why, what waits."""
    from fedbus.cli.roles import Place
    from fedbus.cli.sessions import show_session

    run(show_session(Place(nats, workspace, credentials), name, json=json))


@app.command("report")
def report(
    name: Name,
    round_: Annotated[
        int | None, typer.Option("--round", metavar="N", help="Default: the newest.", show_default=False)
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Report a round: who was waited for, how long, and why; the slowest first."""
    from fedbus.cli.reports import report_round
    from fedbus.cli.roles import Place

    run(report_round(Place(nats, workspace, credentials), name, round_, json=json))


@app.command("trace")
def trace(
    name: Name,
    round_: Annotated[
        int | None,
        typer.Option("--round", metavar="N", min=1, help="Which round; default: the newest.", show_default=False),
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show what every role did for a round, and when: its spans, one below the other on one line of time."""
    from fedbus.cli.roles import Place
    from fedbus.cli.traces import show_trace

    run(show_trace(Place(nats, workspace, credentials), name, round_, json=json))


@app.command("watch")
def watch(
    name: Name, nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Show a session's progress to its end. With --json: one object an event."""
    from fedbus.cli.roles import Place
    from fedbus.cli.sessions import watch_session

    run(watch_session(Place(nats, workspace, credentials), name, json=json))


@app.command("stop")
def stop(
    name: Name,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Goes into the journal.")
    ] = "stopped by request",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Stop a session; the models that it has published stay."""
    from fedbus.cli.roles import Place
    from fedbus.cli.sessions import stop_session

    run(stop_session(Place(nats, workspace, credentials), name, reason, json=json))


@app.command("settings")
def settings(json: Json = False) -> None:
    """Show every setting that a session has, with its default and what is allowed."""
    from fedbus.cli.strategies import show_settings

    show_settings(json=json)
