"""Evaluations: when one is due, who is asked, what is kept of the answers, and what follows for the session."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite

from fedbus.coordinator.absent import is_late_at_work
from fedbus.coordinator.closing import Decision, chars_each
from fedbus.coordinator.known import Known
from fedbus.coordinator.metrics import weighted_mean
from fedbus.coordinator.selection import matching
from fedbus.coordinator.state import SessionState
from fedbus.coordinator.willing import willing
from fedbus.messages import records, reports
from fedbus.messages.records import Measured


def is_due(state: SessionState) -> bool:
    """Whether the newest version is to be evaluated; a session without rounds has one to be evaluated, its first."""
    config, done = state.config, state.rounds_closed
    if done <= state.evaluated:
        return False
    every = config.evaluate_every
    return not config.rounds or (every > 0 and (done % every == 0 or done == config.rounds))


def may_open(state: SessionState, known: Known, now: float) -> bool:
    """Whether who is to answer is there: after a round whoever is, without rounds as many as have to answer."""
    return bool(state.config.rounds) or len(_here(state, known, now)) >= state.clients_needed


def evaluation_of(state: SessionState, known: Known, now: float) -> records.EvaluationOpened:
    """Ask all that are there, but those that go on training for a round that has closed."""
    here = _here(state, known, now)
    return records.EvaluationOpened(
        round=state.rounds_closed,
        version=state.version,
        blob=state.blob,
        clients=tuple(sorted(client for client in here if not is_late_at_work(state, known, client))),
        deadline_at=now + state.config.evaluate_deadline_s,
    )


def _here(state: SessionState, known: Known, now: float) -> list[str]:
    here = matching(known, known.clients, state.config.client_filter)
    return willing(known, here, state.declined_evaluation, now)


def evaluating(state: SessionState, known: Known, now: float) -> Decision:
    """Note what came, when everybody has answered that is there, or at the deadline."""
    evaluation = state.evaluation
    assert evaluation is not None
    if now < evaluation.deadline_at and any(
        name not in known.answers and name in known.clients for name in evaluation.clients
    ):
        return ()
    odd = known.totals.odd()
    measured = {name: one for name, one in known.measured().items() if name not in odd}
    record = records.RoundEvaluated(
        round=evaluation.round,
        version=evaluation.version,
        metrics={},
        missing=_missing(state, known, measured, odd),
        answered=len(measured),
        declined=tuple(known.declined[name] for name in sorted(known.declined) if name not in measured),
    )
    least = state.config.answers_min
    if len(measured) < least:
        why = f"{len(measured)} answers where {least} are the least (answers_min): nothing of them is kept"
        return (record.model_copy(update={"reason": why}),)
    found: dict[str, object] = {
        "metrics": _means(measured, least),
        "sums": known.totals.result(least),
        "clients": _each_measured(measured.values()) if state.config.reveal == "clients" else (),
    }
    return (record.model_copy(update=found),)


def _means(measured: Mapping[str, Measured], least: int) -> dict[str, float]:
    """Return the mean of each metric that enough clients have reported: of one it would be that one's number."""
    reported: dict[str, int] = {}
    for one in measured.values():
        for name, value in one.metrics.items():
            reported[name] = reported.get(name, 0) + isfinite(value)
    means = weighted_mean({name: (one.weight, one.metrics) for name, one in measured.items()})
    return {name: mean for name, mean in means.items() if reported[name] >= least}


def _missing(state: SessionState, known: Known, measured: Collection[str], odd: Mapping[str, str]) -> dict[str, str]:
    """Say of each that was asked and does not count why."""
    evaluation = state.evaluation
    assert evaluation is not None
    late = f"no answer within {state.config.evaluate_deadline_s:g} s"
    chars = chars_each(len(evaluation.clients) - len(measured))
    return {
        name: str(odd.get(name) or known.answers.get(name) or (late if name in known.clients else "left"))[:chars]
        for name in evaluation.clients
        if name not in measured
    }


def _each_measured(measured: Collection[Measured]) -> tuple[Measured, ...]:
    """Return each client's own metrics; without them where they are more than one message holds."""
    numbers = sum(len(one.metrics) + 1 for one in measured)
    if numbers > 2 * reports.NUMBERS_MAX:
        return tuple(one.model_copy(update={"metrics": {}}) for one in measured)
    return tuple(measured)


def outcome_of(state: SessionState) -> tuple[str, str] | None:
    """Return how the newest evaluation ends the session, and why; None where it does not."""
    config, done = state.config, state.rounds_closed
    if state.evaluated != done:
        return None
    if not config.rounds:
        return ("failed", state.lacking) if state.lacking else ("completed", f"evaluated by {state.answered} clients")
    if done and config.reached(state.metrics):
        return "completed", f"{config.target_metric} reached in round {done}"
    if config.patience is not None and state.without_better >= config.patience:
        name = (config.best_metric or "").split()[-1]
        best = state.best
        if best is None:
            return "completed", f"no {name} in {state.without_better} evaluations"
        since = f"no better {name} in {state.without_better} evaluations"
        return "completed", f"{since}; best {best.value:g} in round {best.round}"
    return None
