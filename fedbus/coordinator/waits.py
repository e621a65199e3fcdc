"""What a session waits for, as data: on whom, since when, until when, and what happens then."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedbus.coordinator.state import Phase, SessionState
from fedbus.messages.queries import Wait


def wait_of(state: SessionState, clients: Collection[str], answered: Collection[str]) -> list[Wait]:
    """Return what a session waits for, in a list of one or none.

    ``clients``: those that are there. ``answered``: those whose answer to the evaluation under way is here.
    """
    match state.phase:
        case Phase.GATHERING:
            return [gathering(state, clients)]
        case Phase.TRAINING:
            return [_training(state)]
        case Phase.CLOSING:
            return [closing(state)]
        case Phase.EVALUATING:
            return [_evaluating(state, answered)]
        case Phase.NEW | Phase.ENDED:
            return []


def gathering(state: SessionState, clients: Collection[str]) -> Wait:
    """Say what a round that cannot be opened waits for."""
    config = state.config
    missing = max(0, config.clients_needed - len(clients))
    what = f"waiting for {missing} of {config.clients_needed} clients" if missing else "waiting for a combiner"
    until = state.since_at + config.gather_deadline_s
    return _wait(state, what, (), missing, (state.since_at, until), "the session fails")


def _training(state: SessionState) -> Wait:
    current = state.open_round
    missing = current.missing
    what = f"waiting for updates of {len(missing)} of {len(current.places)} clients"
    then = f"the round closes with {state.config.quorum_effective} updates or more, else it fails"
    return _wait(state, what, missing, len(missing), (current.opened_at, current.deadline_at), then)


def closing(state: SessionState) -> Wait:
    """Say what a round that is being closed waits for."""
    current = state.open_round
    fixed = current.closing
    assert fixed is not None
    missing = [client for client in fixed.counted if client not in current.accepted]
    what, on = f"waiting for {fixed.root} to merge and store the model", [fixed.root]
    if missing:
        what, on = f"waiting for {len(missing)} clients to send again what a lost combiner held", missing
    since = fixed.deadline_at - state.config.close_deadline_s
    then = "the set of updates is decided anew, or the round fails"
    return _wait(state, what, on, len(missing), (since, fixed.deadline_at), then)


def _evaluating(state: SessionState, answered: Collection[str]) -> Wait:
    evaluation = state.evaluation
    assert evaluation is not None
    missing = [client for client in evaluation.clients if client not in answered]
    what = f"waiting for metrics of {len(missing)} of {len(evaluation.clients)} clients"
    times = (evaluation.opened_at, evaluation.deadline_at)
    return _wait(state, what, missing, len(missing), times, "the round goes on without them")


def _wait(
    state: SessionState, what: str, on: Iterable[str], missing: int, times: tuple[float, float], then: str
) -> Wait:
    return Wait(
        session=state.session,
        round=state.rounds_closed + (state.phase is not Phase.EVALUATING),
        what=what,
        on=tuple(on)[:1000],
        missing=missing,
        since_at=times[0],
        until_at=times[1],
        then=then,
    )
