"""Points as runs of MLflow: one run a session, found again by its tags.

    mlflow:http://127.0.0.1:5000              a tracking server
    mlflow:sqlite:///mlflow.db                a file, with sqlalchemy and alembic beside it
    mlflow:http://127.0.0.1:5000#EXPERIMENT   another experiment than ``fedbus``

Settings become params, points metrics with step and time, the newest version a tag with its digest. MLflow may keep
what it is sent as often as it is sent, so what a run has is read first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from fedbus.errors import ConfigError
from fedbus.sinks.base import ClosedRound, Ended, Evaluated, SinkKind, SinkUnavailable, Tracked
from fedbus.sinks.steps import Point, Steps

try:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
except ImportError as missing:
    raise ConfigError("sink mlflow: it needs MLflow: pip install 'fedbus[mlflow]'") from missing

T = TypeVar("T")

EXPERIMENT = "fedbus"

PARAMS_MAX, METRICS_MAX = 100, 1000
"""Of one request: what MLflow takes."""

NAME_CHARS_MAX = 250
PARAM_CHARS_MAX = 6000

OURS_TO_CORRECT = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "UNAUTHENTICATED", "PERMISSION_DENIED"}
"""Codes of MLflow for what does not get better by itself."""

STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "refused": "FAILED"}

_FOREIGN = re.compile(r"[^\w\-./ ]")
"""What MLflow does not take in a name; it becomes an underscore."""


class MLflow:
    """Runs of one experiment at a tracking server."""

    def __init__(self, target: str) -> None:
        uri, _, experiment = target.partition("#")
        self._name = experiment or EXPERIMENT
        self._client = _asked(lambda: MlflowClient(tracking_uri=uri))
        self._experiment = ""
        self._runs: dict[tuple[str, float], tuple[str, Steps]] = {}

    def started(self, session: Tracked) -> None:
        """Find the run or make it, read what it has, log the params that are missing."""
        self._run(session)

    def round(self, session: Tracked, closed: ClosedRound) -> None:
        """Log a round's points, and its version as a tag."""
        self._points(session, closed.round, closed.at, closed.points)

    def evaluated(self, session: Tracked, found: Evaluated) -> None:
        """Log an evaluation's points."""
        self._points(session, found.round, found.at, found.points)

    def ended(self, session: Tracked, end: Ended) -> None:
        """Tag the run with the model that came of it, and end it."""
        id_, _ = self._run(session)
        tags = {
            "fedbus.outcome": end.outcome,
            "fedbus.reason": end.reason[:PARAM_CHARS_MAX],
            "fedbus.model_version": end.version,
            "fedbus.model_digest": end.digest,
        }
        entities = [RunTag(name, value) for name, value in tags.items()]
        _asked(lambda: self._client.log_batch(id_, tags=entities))
        _asked(lambda: self._client.set_terminated(id_, STATUS[end.outcome], end_time=_ms(end.at)))
        self._runs.pop((session.session, session.at), None)

    def flush(self) -> None:
        """Nothing waits: each call has an answer before it returns."""

    def close(self) -> None:
        """Nothing is held that is not given back by itself."""
        self._runs.clear()

    def _points(self, session: Tracked, step: int, at: float, points: Mapping[str, float]) -> None:
        id_, steps = self._run(session)
        new = steps.missing({_name(name): value for name, value in points.items()}, step)
        metrics = [Metric(name, value, _ms(at), step) for name, value in sorted(new.items())]
        for some in _batches(metrics, METRICS_MAX):
            _asked(lambda some=some: self._client.log_batch(id_, metrics=some))  # type: ignore[misc]
        steps.add(new, step)

    def _run(self, session: Tracked) -> tuple[str, Steps]:
        key = session.session, session.at
        if key not in self._runs:
            self._runs[key] = _asked(lambda: self._found(session) or self._made(session))
        return self._runs[key]

    def _found(self, session: Tracked) -> tuple[str, Steps] | None:
        told = " and ".join(f"tags.`{name}` = '{value}'" for name, value in _tags(session).items())
        runs = self._client.search_runs([self._place()], filter_string=told, max_results=1)
        if not runs:
            return None
        id_ = runs[0].info.run_id
        self._log_params(id_, session, runs[0].data.params)
        return id_, Steps(self._there(id_, runs[0].data.metrics))

    def _there(self, id_: str, names: Mapping[str, float]) -> Iterator[Point]:
        for name in names:
            for metric in self._client.get_metric_history(id_, name):
                yield name, metric.step

    def _made(self, session: Tracked) -> tuple[str, Steps]:
        tags = {**_tags(session), "fedbus.by": session.by, "fedbus.base": session.base}
        run = self._client.create_run(self._place(), start_time=_ms(session.at), tags=tags, run_name=session.session)
        self._log_params(run.info.run_id, session, {})
        return run.info.run_id, Steps()

    def _log_params(self, id_: str, session: Tracked, there: Mapping[str, str]) -> None:
        params = [
            Param(_name(name), value[:PARAM_CHARS_MAX])
            for name, value in session.params.items()
            if _name(name) not in there
        ]
        for some in _batches(params, PARAMS_MAX):
            self._client.log_batch(id_, params=some)

    def _place(self) -> str:
        """Return the experiment's id; whoever is first makes it."""
        if not self._experiment:
            found = self._client.get_experiment_by_name(self._name)
            self._experiment = found.experiment_id if found else self._client.create_experiment(self._name)
        return self._experiment


def _tags(session: Tracked) -> dict[str, str]:
    """Return what a session's run is found again by."""
    return {
        "fedbus.workspace": session.workspace,
        "fedbus.session": session.session,
        "fedbus.started_at": f"{session.at:.3f}",
    }


def _asked(call: Callable[[], T]) -> T:
    """Say what MLflow says in our words."""
    try:
        return call()
    except MlflowException as error:
        kind = ConfigError if error.error_code in OURS_TO_CORRECT else SinkUnavailable
        raise kind(f"sink mlflow: {str(error)[:500]}") from error


def _batches(items: Sequence[T], count: int) -> Iterator[list[T]]:
    for start in range(0, len(items), count):
        yield list(items[start : start + count])


def _name(name: str) -> str:
    """Return a name as MLflow takes it: also as a path, which must not lead elsewhere. A client may have chosen it."""
    parts = _FOREIGN.sub("_", name).split("/")
    clean = "/".join(part if part.strip(".") else "_" * max(1, len(part)) for part in parts)
    return clean[:NAME_CHARS_MAX].rstrip("/")


def _ms(at: float) -> int:
    return round(at * 1000)


MLFLOW = SinkKind("mlflow", MLflow)
