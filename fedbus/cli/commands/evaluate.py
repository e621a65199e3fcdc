"""`fedbus evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import URL, Credentials, Json, Nats, Store, Workspace
from fedbus.cli.running import run

Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="KEY=VALUE", help="Only clients with this attribute (a,b: one of); repeatable."),
]
Config = Annotated[
    list[str] | None,
    typer.Option("--train-config", metavar="KEY=VALUE", help="JSON for the apps' task.config; repeatable."),
]
GatherDeadline = Annotated[
    float, typer.Option("--gather-deadline-s", metavar="SECONDS", help="Longest wait for enough clients.")
]


def evaluate(
    *,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Published versions, or files: .safetensors or .npz.",
            autocompletion=completing.versions,
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="NAME", help="Of several models: which one client by client.", show_default=False
        ),
    ] = None,
    clients_min: Annotated[int, typer.Option("--clients-min", min=1, help="Clients that must be there.")] = 1,
    answers_min: Annotated[
        int, typer.Option("--answers-min", min=1, help="Clients that must answer; else nothing is kept.")
    ] = 1,
    sums_only: Annotated[
        bool, typer.Option("--sums-only", help="Keep no client's own numbers, only means and sums.")
    ] = False,
    where: Where = None,
    train_config: Config = None,
    deadline_s: Annotated[
        float, typer.Option("--deadline-s", metavar="SECONDS", help="Longest evaluation of a model.")
    ] = 300.0,
    gather_deadline_s: GatherDeadline = 60.0,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Let clients evaluate models without training; of several, who does well where."""
    from fedbus.cli.evaluations import evaluate
    from fedbus.cli.loading import filters, values
    from fedbus.cli.roles import Place

    settings = {
        "clients_min": clients_min,
        "answers_min": answers_min,
        "reveal": "sums" if sums_only else "clients",
        "where": filters("--where", where or []),
        "config": values("--train-config", train_config or []),
        "deadline_s": deadline_s,
        "gather_deadline_s": gather_deadline_s,
    }
    run(evaluate(Place(nats, workspace, credentials, store), models, metric, settings, json=json))
