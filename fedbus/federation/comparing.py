"""Sessions side by side: settings in which they differ, and their metrics as curves over the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from fedbus.errors import ConfigError
from fedbus.federation.info import RoundInfo, SessionInfo

SESSIONS_MAX = 10
"""Sessions that are compared at once: more lines than that cannot be told apart in a chart."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which sessions differ: a value for each of them, in their order."""

    setting: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one session. ``of``: reported while training, or by the evaluation of the round's version.

    ``at``: when each round was closed, seconds since the epoch; a value that is not finite is None.
    """

    session: str
    metric: str
    of: Literal["train", "evaluate"]
    rounds: tuple[int, ...]
    at: tuple[float, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several sessions, in the order in which they were asked for."""

    sessions: tuple[SessionInfo, ...]
    settings: tuple[Difference, ...]
    curves: tuple[Curve, ...]


def compared(infos: Sequence[SessionInfo]) -> Comparison:
    """Compare sessions, 2 to `SESSIONS_MAX` of them; `ConfigError` otherwise, or where one is named twice."""
    names = [info.session for info in infos]
    if not 2 <= len(infos) <= SESSIONS_MAX:
        raise ConfigError(f"sessions: expected 2 to {SESSIONS_MAX} of them to compare, got {len(infos)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"sessions: expected different ones, got {', '.join(names)}")
    curves = [curve for info in infos for curve in curves_of(info)]
    return Comparison(tuple(infos), tuple(differences(infos)), tuple(curves))


def differences(infos: Sequence[SessionInfo]) -> list[Difference]:
    """Return the settings in which sessions differ; those with names of their own inside, such as options, one by one.

    A setting that a session does not have is None.
    """
    flat = [dict(_flat(info.config.model_dump(mode="json"))) for info in infos]
    found = []
    for name in dict.fromkeys(name for one in flat for name in one):
        values = tuple(one.get(name) for one in flat)
        if any(value != values[0] for value in values):
            found.append(Difference(name, values))
    return found


def _flat(settings: dict[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        elif not isinstance(value, dict):
            yield f"{above}{name}", value


def curves_of(info: SessionInfo) -> list[Curve]:
    """Return all metrics of a session over its closed rounds: of training first, each kind by name."""
    return [*_curves(info, "train"), *_curves(info, "evaluate")]


def _curves(info: SessionInfo, of: Literal["train", "evaluate"]) -> Iterable[Curve]:
    points: dict[str, list[tuple[RoundInfo, float]]] = {}
    for found in info.rounds:
        for name, value in (found.train_metrics if of == "train" else found.metrics).items():
            points.setdefault(name, []).append((found, value))
    for name in sorted(points):
        yield Curve(
            info.session,
            name,
            of,
            tuple(found.round for found, _ in points[name]),
            tuple(found.closed_at for found, _ in points[name]),
            tuple(value if isfinite(value) else None for _, value in points[name]),
        )
