"""A session as a file: JSON with all of it, or CSV (RFC 4180) of its rounds, its clients' rounds, or its curves.

CSV is opened in spreadsheets, which run a cell that begins like a formula: a text that does is written behind an
apostrophe. Numbers are written as Python's shortest text that reads back as the same; what is not finite is left empty.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from fedbus.errors import ConfigError
from fedbus.federation.comparing import curves_of
from fedbus.federation.evaluating import EvaluationResult
from fedbus.federation.info import RoundInfo, SessionInfo, SessionSummary
from fedbus.federation.report import ClientReport, RoundReport
from fedbus.federation.rounds import Rounds
from fedbus.messages import records

if TYPE_CHECKING:
    from fedbus.federation.session import Session

Format = Literal["json", "csv"]
What = Literal["rounds", "clients", "curves"]

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that a spreadsheet would run (OWASP, CSV injection)."""

ROUND_COLUMNS = (
    "round", "state", "version", "asked", "counted", "refused", "not_counted", "opened_at", "closed_at", "seconds",
    "bytes_up", "bytes_down", "why",
)  # fmt: skip
CLIENT_COLUMNS = (
    "round", "client", "outcome", "seconds", "combiner", "weight", "stale", "moves", "nbytes", "fetched", "norm",
    "wait_s", "fetch_s", "train_s", "upload_s", "what", "by",
)  # fmt: skip
CURVE_COLUMNS = ("metric", "of", "round", "at", "value")


async def exported(session: Session, format_: Format, what: What) -> AsyncIterator[str]:
    """Yield a session as text, part by part; the clients' rounds are read round by round, however many there are.

    `NotFound` where there is no such session, before anything is yielded; `ConfigError` for a format that is none.
    """
    if format_ not in ("json", "csv") or what not in ("rounds", "clients", "curves"):
        raise ConfigError(f"export: expected json, or csv of rounds, clients or curves, got {format_!r} of {what!r}")
    info = await session.info()
    if format_ == "json":
        async for part in _json(session, info):
            yield part
    elif what == "rounds":
        yield _csv(_round_rows(info))
    elif what == "curves":
        yield _csv(_curve_rows(info))
    else:
        async for part in _clients_csv(session):
            yield part


async def reports(session: Session) -> AsyncIterator[RoundReport]:
    """Yield the report of each round, by its last attempt, in order; the last may be open, or have failed."""
    found = Rounds(session.name)
    async for event in session.recorded():
        record, before = event.data, found.attempt
        if isinstance(record, records.RoundOpened) and before is not None and before.opened.round != record.round:
            report = found.report()
            if report is not None:
                yield report
        found.take(record, event.at)
    report = found.report()
    if report is not None:
        yield report


# ---- JSON


async def _json(session: Session, info: SessionInfo) -> AsyncIterator[str]:
    """Yield one object; its ``rounds`` come one by one."""
    head = {"session": info.session, **summary_of(info), "config": info.config.model_dump(mode="json")}
    yield _text(head)[:-1] + ',"rounds":['
    by_round = {found.round: found for found in [*info.rounds, *([info.current] if info.current else [])]}
    first = True
    async for report in reports(session):
        found = by_round.get(report.round)
        whole = (round_of(found) if found else {"round": report.round}) | {"state": report.state}
        yield ("" if first else ",") + _text(whole | {"clients": [client_of(one) for one in report.clients]})
        first = False
    evaluations = [_evaluation(one) for one in await session.evaluations()]
    yield f'],"evaluations":{_text(evaluations)}}}\n'


def summary_of(info: SessionSummary) -> dict[str, Any]:
    """Return what there is to say of a session besides its name, settings and rounds."""
    names = (
        "state", "reason", "by", "base", "started_at", "ended_at", "version", "digest", "nbytes", "rounds_closed",
        "failures", "bytes_up", "bytes_down", "metrics", "best_version", "best_value",
    )  # fmt: skip
    return {name: getattr(info, name) for name in names}


def round_of(found: RoundInfo) -> dict[str, Any]:
    """Return all that there is to say of a round."""
    return {one.name: getattr(found, one.name) for one in fields(RoundInfo)}


def client_of(one: ClientReport) -> dict[str, Any]:
    """Return all that there is to say of a client's part in a round."""
    found = {field.name: getattr(one, field.name) for field in fields(ClientReport)}
    return found | {"spent": one.spent._asdict() if one.spent else None}


def _evaluation(found: EvaluationResult) -> dict[str, Any]:
    return {
        "round": found.round,
        "version": found.version,
        "answered": found.answered,
        "metrics": dict(found.metrics),
        "clients": {client: dict(one.metrics) for client, one in found.clients.items()},
        "missing": dict(found.missing),
        "reason": found.reason,
    }


def _text(value: object) -> str:
    return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    """Return what JSON can say: mappings as objects, null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


# ---- CSV


def _round_rows(info: SessionInfo) -> Iterator[Iterable[object]]:
    rounds = [*info.rounds, *([info.current] if info.current else [])]
    train = sorted({name for found in rounds for name in found.train_metrics})
    measured = sorted({name for found in rounds for name in found.metrics})
    yield [*ROUND_COLUMNS, *(f"train.{name}" for name in train), *(f"evaluate.{name}" for name in measured)]
    for found in rounds:
        values = round_of(found) | {"not_counted": len(found.not_counted), "closed_at": found.closed_at or None}
        yield [
            *(values[name] for name in ROUND_COLUMNS),
            *(found.train_metrics.get(name) for name in train),
            *(found.metrics.get(name) for name in measured),
        ]


def _curve_rows(info: SessionInfo) -> Iterator[Iterable[object]]:
    yield CURVE_COLUMNS
    for curve in curves_of(info):
        for round_, at, value in zip(curve.rounds, curve.at, curve.values, strict=True):
            yield curve.metric, curve.of, round_, at, value


async def _clients_csv(session: Session) -> AsyncIterator[str]:
    """Yield the rows round by round; the names of the metrics have to be known before, so it is read twice."""
    names: set[str] = set()
    async for event in session.recorded():
        if isinstance(event.data, records.UpdatesRecorded):
            names |= {name for one in event.data.accepted for name in one.metrics}
    metrics = sorted(names)
    yield _csv([[*CLIENT_COLUMNS, *(f"train.{name}" for name in metrics)]])
    async for report in reports(session):
        yield _csv(_client_row(report, one, metrics) for one in report.clients)


def _client_row(report: RoundReport, one: ClientReport, metrics: list[str]) -> list[object]:
    values = client_of(one) | {"round": report.round} | (one.spent._asdict() if one.spent else {})
    return [*(values.get(name) for name in CLIENT_COLUMNS), *(one.metrics.get(name) for name in metrics)]


def _csv(rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    """Return what is written of a value: nothing that a spreadsheet would run."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
