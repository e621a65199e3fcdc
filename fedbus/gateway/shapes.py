"""What is known, in the shapes that REST answers with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedbus.federation.comparing import Curve
from fedbus.federation.contributions import Contribution, Tally, newest_first
from fedbus.federation.evaluating import EvaluationResult
from fedbus.federation.info import RoundInfo, SessionInfo, SessionSummary
from fedbus.federation.report import ClientReport, RoundReport
from fedbus.gateway.overview import waits_of
from fedbus.gateway.views import (
    ClientDetail,
    ClientRoundView,
    ClientView,
    ContributionView,
    CurveView,
    EvaluationView,
    RoundDetail,
    RoundView,
    SessionDetail,
    SessionView,
)
from fedbus.messages.queries import Seen, Wait


def session_view(info: SessionSummary, waits: Iterable[Wait], now: float) -> SessionView:
    """Return a session at a glance."""
    return SessionView(**_session(info, waits, now))


def session_detail(info: SessionInfo, waits: Iterable[Wait], now: float, sequence: int) -> SessionDetail:
    """Return a session with its settings."""
    return SessionDetail(
        **_session(info, waits, now),
        config=info.config,
        failures=info.failures,
        left_s=info.left_s(now),
        sequence=sequence,
    )


def _session(info: SessionSummary, waits: Iterable[Wait], now: float) -> dict[str, Any]:
    return {
        "session": info.session,
        "status": info.status(now),
        "state": info.state,
        "reason": info.reason,
        "by": info.by,
        "base": info.base,
        "strategy": info.config.strategy,
        "codec": info.config.codec,
        "rounds": info.config.rounds,
        "rounds_closed": info.rounds_closed,
        "clients_min": info.config.clients_min,
        "started_at": info.started_at or None,
        "ended_at": info.ended_at or None,
        "version": info.version,
        "digest": info.digest,
        "nbytes": info.nbytes,
        "metrics": info.metrics,
        "best_version": info.best_version,
        "best_value": info.best_value,
        "bytes_up": info.bytes_up,
        "bytes_down": info.bytes_down,
        "waits": () if info.ended else waits_of(wait for wait in waits if wait.session == info.session),
    }


def round_view(found: RoundInfo) -> RoundView:
    """Return a round."""
    return RoundView(**_round(found))


def _round(found: RoundInfo) -> dict[str, Any]:
    return {
        "round": found.round,
        "state": found.state,
        "version": found.version,
        "counted": found.counted,
        "asked": found.asked,
        "refused": found.refused,
        "opened_at": found.opened_at,
        "closed_at": found.closed_at or None,
        "seconds": found.seconds if found.closed_at else None,
        "bytes_up": found.bytes_up,
        "bytes_down": found.bytes_down,
        "train_metrics": dict(found.train_metrics),
        "metrics": dict(found.metrics),
        "why": found.why,
        "not_counted": dict(found.not_counted),
        "trace_id": found.trace_id or None,
    }


def round_detail(report: RoundReport, found: RoundInfo | None) -> RoundDetail:
    """Return a round with its clients; ``found``: what its session knows of it."""
    outcomes = report.outcomes
    of_report = {
        "round": report.round,
        "counted": sum(outcomes.get(one, 0) for one in ("counted", "stale", "accepted")),
        "refused": outcomes.get("refused", 0),
        "bytes_up": sum(one.nbytes for one in report.clients),
        "bytes_down": sum(one.fetched for one in report.clients),
    }
    return RoundDetail(
        **(
            (_round(found) if found is not None else of_report)
            | {
                "state": report.state,
                "why": report.why,
                "asked": report.asked,
                "opened_at": report.opened_at,
                "closed_at": report.ended_at or None,
                "seconds": report.ended_at - report.opened_at if report.ended_at else None,
                "trace_id": report.trace_id or None,
                "session": report.session,
                "deadline_at": report.deadline_at,
                "fixed_at": report.fixed_at or None,
                "target": report.target,
                "quorum": report.quorum,
                "earlier": report.earlier,
                "clients": tuple(client_round_view(one) for one in report.clients),
            }
        )
    )


def client_round_view(one: ClientReport) -> ClientRoundView:
    """Return one client's part in a round."""
    spent = one.spent._asdict() if one.spent else {}
    return ClientRoundView(
        client=one.client,
        outcome=one.outcome,
        seconds=one.seconds,
        combiner=one.combiner,
        what=one.what,
        by=one.by,
        weight=one.weight,
        stale=one.stale,
        moves=one.moves,
        nbytes=one.nbytes,
        fetched=one.fetched,
        norm=one.norm,
        metrics=dict(one.metrics),
        **spent,
    )


def evaluation_view(found: EvaluationResult, at: float) -> EvaluationView:
    """Return what clients found of a version."""
    return EvaluationView(
        round=found.round,
        version=found.version,
        at=at,
        metrics=dict(found.metrics),
        answered=found.answered,
        reason=found.reason,
        clients={client: dict(of.metrics) for client, of in found.clients.items()},
        missing=dict(found.missing),
    )


def curve_view(curve: Curve) -> CurveView:
    """Return one metric over the rounds of one session."""
    return CurveView(
        session=curve.session,
        metric=curve.metric,
        of=curve.of,
        rounds=curve.rounds,
        at=curve.at,
        values=curve.values,
    )


def client_view(client: str, seen: Seen | None, tally: Tally | None) -> ClientView:
    """Return a client that is there, or that a journal tells of, or both."""
    return ClientView(**_client(client, seen, tally))


def client_detail(client: str, seen: Seen | None, tally: Tally | None) -> ClientDetail:
    """Return a client with its newest contributions."""
    history = tuple(contribution_view(one) for one in newest_first(tally)) if tally else ()
    return ClientDetail(**_client(client, seen, tally), history=history)


def _client(client: str, seen: Seen | None, tally: Tally | None) -> dict[str, Any]:
    found: dict[str, Any] = {"client": client, "online": seen is not None}
    if seen is not None:
        found |= {
            "doing": seen.doing,
            "crowd": seen.crowd,
            "version": seen.version,
            "attributes": dict(seen.attributes),
            "since_at": seen.since_at,
            "last_at": seen.seen_at,
        }
    if tally is not None:
        found |= {
            "sessions": tally.sessions,
            "rounds_asked": tally.asked,
            "rounds_counted": tally.counted,
            "rounds_refused": tally.refused,
            "weight": tally.weight,
            "bytes_up": tally.bytes_up,
            "bytes_down": tally.bytes_down,
            "last_at": max(tally.last_at, seen.seen_at if seen else 0.0) or None,
        }
    return found


def contribution_view(one: Contribution) -> ContributionView:
    """Return what became of a client in one round."""
    return ContributionView(
        session=one.session,
        round=one.round,
        outcome=one.outcome,
        at=one.at,
        weight=one.weight,
        nbytes=one.nbytes,
        what=one.what,
        metrics=dict(one.metrics),
    )
