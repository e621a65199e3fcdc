"""What a session waits for, as data: on whom, since when, until when, and what happens then."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from fedbus.coordinator.known import Known
from fedbus.coordinator.state import Phase, SessionState
from fedbus.messages.queries import Wait

NAMED_MAX = 1000
"""Most clients that one wait names: who asks has to read them."""


def wait_of(state: SessionState, known: Known) -> list[Wait]:
    """Return what a session waits for, in a list of one or none."""
    match state.phase:
        case Phase.GATHERING:
            return [gathering(state, known.may_send(state.config.residency), len(known.clients))]
        case Phase.TRAINING:
            return [_training(state, known)]
        case Phase.CLOSING:
            return [closing(state, len(_without(state, known)))]
        case Phase.EVALUATING:
            return [_evaluating(state, known.answers)]
        case Phase.NEW | Phase.ENDED:
            return []


def gathering(state: SessionState, here: Collection[str], there: int) -> Wait:
    """Say what a round that cannot be opened waits for.

    ``here``: the clients that may be asked, of ``there`` that are there.
    """
    config = state.config
    missing = max(0, config.clients_needed - len(here))
    what = f"waiting for {missing} of {config.clients_needed} clients" if missing else "waiting for a combiner"
    if missing and there > len(here):
        what += f"; {there - len(here)} are there, but no combiner in their region (residency)"
    until = state.since_at + config.gather_deadline_s
    return _wait(state, what, (), missing, (state.since_at, until), "the session fails")


def _training(state: SessionState, known: Known) -> Wait:
    current = state.open_round
    count = current.missing_count
    what, on = f"waiting for updates of {count} of {len(current.places)} clients", current.missing
    without = _without(state, known)
    if without:
        what = f"waiting for a combiner that may take the updates of {len(without)} clients"
        on, count = without, len(without)
    then = f"the round closes with {state.config.quorum_effective} updates or more, else it fails"
    return _wait(state, what, on, count, (current.opened_at, current.deadline_at), then)


def _without(state: SessionState, known: Known) -> list[str]:
    """Return the clients whose combiner is gone, and who cannot be given to another."""
    current = state.open_round
    gone = current.incarnations.keys() - known.combiners.keys()
    if not gone:
        return []
    clients = current.counting if current.closing else current.places
    if current.shards:
        return [] if known.combiners else list(clients)
    return [client for client in clients if current.places[client] in gone and client not in current.refused]


def closing(state: SessionState, without: int = 0) -> Wait:
    """Say what a round that is being closed waits for; ``without``: how many clients have lost their combiner."""
    current = state.open_round
    fixed = current.closing
    assert fixed is not None
    missing = [client for client in fixed.counted if client not in current.accepted]
    what, on = f"waiting for {fixed.root} to merge and store the model", [fixed.root]
    if missing:
        what, on = f"waiting for {len(missing)} clients to send again what a lost combiner held", missing
    elif without:
        what, on = f"waiting for a combiner that may take again the updates of {without} clients", []
    since = fixed.deadline_at - state.config.close_deadline_s
    then = "the set of updates is decided anew, or the round fails"
    return _wait(state, what, on, len(missing), (since, fixed.deadline_at), then)


def _evaluating(state: SessionState, answered: Collection[str]) -> Wait:
    evaluation = state.evaluation
    assert evaluation is not None
    missing = (client for client in evaluation.clients if client not in answered)
    count = len(evaluation.clients) - len(answered)
    what = f"waiting for metrics of {count} of {len(evaluation.clients)} clients"
    times = (evaluation.opened_at, evaluation.deadline_at)
    return _wait(state, what, missing, count, times, "the round goes on without them")


def _wait(
    state: SessionState, what: str, on: Iterable[str], missing: int, times: tuple[float, float], then: str
) -> Wait:
    return Wait(
        session=state.session,
        round=state.rounds_closed + (state.phase is not Phase.EVALUATING),
        what=what,
        on=tuple(islice(on, NAMED_MAX)),
        missing=missing,
        since_at=times[0],
        until_at=times[1],
        then=then,
    )
