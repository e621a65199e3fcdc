"""From what combiners and clients report of updates to what the journal says of them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from fedbus.coordinator.state import Phase, SessionState
from fedbus.messages import records, reports
from fedbus.messages.records import AcceptedUpdate, RefusedUpdate

Verdicts = Iterable[tuple[str, reports.UpdatesJudged]]
"""Reports of combiners, each with its combiner's name."""

Failures = Iterable[tuple[str, reports.TaskFailed]]
"""Reports of clients, each with its client's name."""


def record_of(state: SessionState, verdicts: Verdicts, failures: Failures) -> tuple[records.UpdatesRecorded, ...]:
    """Return the record of what is new in some reports; none where nothing is."""
    accepted: dict[str, AcceptedUpdate] = {}
    refused: dict[str, RefusedUpdate] = {}
    for combiner, report in verdicts:
        for verdict in report.verdicts:
            if _is_current(state, combiner, report, verdict):
                _sort_verdict(combiner, verdict, accepted, refused)
    for client, failure in failures:
        if _is_current_failure(state, client, failure) and client not in accepted:
            refused[client] = RefusedUpdate(client=client, by=client, stage=failure.stage, reason=failure.reason)
    if not accepted and not refused:
        return ()
    number = state.open_round.number
    return (records.UpdatesRecorded(round=number, accepted=tuple(accepted.values()), refused=tuple(refused.values())),)


def _is_current(state: SessionState, combiner: str, report: reports.UpdatesJudged, verdict: reports.Verdict) -> bool:
    """Whether a verdict is of the open round, of the client's present attempt and place, and still unknown."""
    current = state.open_round
    client = verdict.client
    return (
        report.round == current.number
        and current.incarnations.get(combiner) == report.incarnation
        and current.places.get(client) == combiner
        and current.attempts.get(client) == verdict.attempt
        and client not in current.accepted
        and (_is_sound(verdict) if verdict.accepted else client not in current.refused)
        and (state.phase is not Phase.CLOSING or client in state.counted)
    )


def _is_current_failure(state: SessionState, client: str, failure: reports.TaskFailed) -> bool:
    current = state.open_round
    known = client in current.accepted or client in current.refused
    # One of an earlier attempt, said again, must not refuse what the client trains or sends now.
    return failure.round == current.number and current.attempts.get(client) == failure.attempt and not known


def _is_sound(verdict: reports.Verdict) -> bool:
    """Whether an accepted update may be journalled: no combiner of ours accepts another weight."""
    return isfinite(verdict.weight) and verdict.weight > 0


def _sort_verdict(
    combiner: str, verdict: reports.Verdict, accepted: dict[str, AcceptedUpdate], refused: dict[str, RefusedUpdate]
) -> None:
    """Put a verdict among the accepted or the refused."""
    if verdict.accepted:
        accepted[verdict.client] = AcceptedUpdate(
            client=verdict.client,
            attempt=verdict.attempt,
            weight=verdict.weight,
            nbytes=verdict.nbytes,
            fetched=verdict.fetched,
            norm=verdict.norm,
            digest=verdict.digest,
            metrics=verdict.metrics,
        )
    else:
        reason = verdict.reason or "no reason given"
        refused[verdict.client] = RefusedUpdate(client=verdict.client, by=combiner, stage="update", reason=reason)
