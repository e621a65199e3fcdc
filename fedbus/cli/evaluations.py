"""What `fedbus evaluate` prints: means, each client's own, and for several models who does well where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedbus.cli.listing import federation_of
from fedbus.cli.loading import model_of
from fedbus.cli.output import metrics_text, print_json, print_table
from fedbus.cli.progress import waits_told
from fedbus.cli.roles import Place
from fedbus.errors import ConfigError
from fedbus.federation.evaluating import EvaluationMatrix, EvaluationResult

Model = Mapping[str, np.ndarray[Any, Any]] | str

NUMBERS_SHOWN = 12
"""Numbers of a sum that are shown to people; JSON has all."""


async def evaluate(
    place: Place, names: Sequence[str], metric: str | None, settings: Mapping[str, Any], *, json: bool
) -> None:
    """Evaluate models and print what was found."""
    models = {name: model_of(name) for name in names}
    results: dict[str, EvaluationResult] = {}
    async with federation_of(place) as federation, waits_told(federation, "evaluation-"):
        for name, model in models.items():
            results[name] = await federation.evaluate(model, **settings)
    matrix = EvaluationMatrix(results)
    if metric is not None and metric not in matrix.metrics:
        raise ConfigError(
            f"--metric: no {metric!r} among what clients report: {', '.join(matrix.metrics) or 'nothing'}"
        )
    if json:
        print_json([_json(name, result) for name, result in results.items()])
    elif len(results) == 1:
        _print_one(*next(iter(results.items())))
    else:
        _print_matrix(matrix, metric)


def _json(name: str, result: EvaluationResult) -> dict[str, object]:
    return {
        "model": name,
        "session": result.session,
        "answered": result.answered,
        "metrics": result.metrics,
        "clients": {
            client: {"weight": one.weight, "metrics": one.metrics} for client, one in sorted(result.clients.items())
        },
        "sums": {key: numbers.tolist() for key, numbers in result.sums.items()},
        "missing": result.missing,
    }


def _print_one(name: str, result: EvaluationResult) -> None:
    print(f"{name}: {metrics_text(result.metrics) or 'no metrics'}; {_clients(result.answered)}")
    if result.clients:
        print()
        rows = [
            (client, f"{one.weight:g}", metrics_text(one.metrics)) for client, one in sorted(result.clients.items())
        ]
        print_table(("client", "weight", "metrics"), rows, empty="")
    for key, numbers in result.sums.items():
        shape = "x".join(map(str, numbers.shape)) or "one number"
        few = np.array2string(numbers, threshold=NUMBERS_SHOWN, edgeitems=3) if numbers.size <= 100 else "..."
        print(f"\nsum {key} ({shape}):\n{few}")
    for client, reason in sorted(result.missing.items()):
        print(f"missing: {client}: {reason}")


def _print_matrix(matrix: EvaluationMatrix, metric: str | None) -> None:
    rows = [
        (version, metrics_text(result.metrics) or "-", result.answered) for version, result in matrix.results.items()
    ]
    print_table(("model", "metrics", "clients"), rows, empty="")
    for name in [metric] if metric else matrix.metrics:
        table = matrix.table(name)
        if not matrix.clients:
            break
        print(f"\n{name}, client by client:")
        cells = [
            (version, *("-" if (value := of[client]) is None else f"{value:.4g}" for client in matrix.clients))
            for version, of in table.items()
        ]
        print_table(("model", *matrix.clients), cells, empty="")


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"
