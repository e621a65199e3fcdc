"""What a session waits for, as data: on whom, what these do, since when, until when, and what happens then."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice

from fedbus.coordinator.absent import doing_of
from fedbus.coordinator.known import Known
from fedbus.coordinator.selection import filter_text, matching
from fedbus.coordinator.state import Phase, SessionState
from fedbus.coordinator.willing import decliners_text, willing
from fedbus.messages.queries import KNOWN_MAX, Wait

NAMED_MAX = 1000
"""Most clients that one wait names: who asks has to read them."""

FAILED_CHARS_MAX = 300
"""Longest reason of a failed round that is repeated in a wait; the journal has all of it."""


def wait_of(state: SessionState, known: Known, now: float = 0.0) -> list[Wait]:
    """Return what a session waits for, in a list of one or none."""
    match state.phase:
        case phase if state.held and phase is not Phase.ENDED:
            return [_held(state, known)]
        case Phase.GATHERING:
            return [_without_model(state, known) if known.missing_since(state.blob) else gathering(state, known, now)]
        case Phase.TRAINING:
            return [_training(state, known)]
        case Phase.CLOSING:
            return [closing(state, known, len(_without(state, known)))]
        case Phase.EVALUATING:
            return [_evaluating(state, known)]
        case Phase.NEW | Phase.ENDED:
            return []


def _held(state: SessionState, known: Known) -> Wait:
    """Say that the journal is being written again."""
    what = "waiting for its journal to be written again: `fedbus restore DIR` has not come to its end"
    times = known.held_since, known.held_since + state.config.close_deadline_s
    return _wait(state, None, what, (), 0, times, "the session fails; repeat the restore, or stop the session")


def _without_model(state: SessionState, known: Known) -> Wait:
    """Say that the broker has lost the version to go on from."""
    since = known.missing_since(state.blob)
    what = f"waiting for version {state.version} to be restored: the broker came back without it; fedbus restore DIR"
    return _wait(state, None, what, (), 0, (since, since + state.config.close_deadline_s), "the session fails")


def gathering(state: SessionState, known: Known, now: float = 0.0) -> Wait:
    """Say what a round that cannot be opened waits for: clients, for which setting; a combiner; both."""
    config = state.config
    sending = known.may_send(config.residency) if config.rounds else known.clients
    match, there = matching(known, sending, config.client_filter), len(known.clients)
    declined = state.declined if config.rounds else state.declined_evaluation
    here = len(willing(known, match, declined, now))
    missing = max(0, state.clients_needed - here)
    parts = []
    if missing:
        parts.append(f"{missing} of {state.clients_needed} clients ({_needed_for(state)})")
    if config.rounds and not known.combiners:
        parts.append("a combiner")
    what = f"waiting for {' and for '.join(parts) or ('a combiner' if config.rounds else 'clients')}"
    if missing and there > len(sending):
        what += f"; {there - len(sending)} are there, but no combiner in their region (residency)"
    if missing and len(sending) > len(match):
        what += f"; {len(match)} of {len(sending)} clients match {filter_text(config.client_filter)}"
    if missing and len(match) > here:
        what += f"; {decliners_text(known, match, declined, now)}"
    if state.failures:
        failed = f"round {state.rounds_closed + 1} failed {state.failures} of {config.round_attempts_max} times"
        what += f"; {failed}, the last time: {state.reason[:FAILED_CHARS_MAX]}"
    until = state.since_at + config.gather_deadline_s
    # Anybody may come; of those who were asked before it can be said since when they are away.
    gone = (client for client in state.asked if client not in known.clients) if missing else ()
    wait = _wait(state, known, what, gone, missing, (state.since_at, until), "the session fails")
    return wait.model_copy(update={"doing": _doing(state, known, known.clients)}) if missing else wait


def _needed_for(state: SessionState) -> str:
    """Say which setting, or which rule of the strategy, asks for so many clients."""
    config, needed = state.config, state.clients_needed
    if needed == config.clients_min:
        return "clients_min"
    if not config.rounds:
        return "answers_min"
    if needed == state.plan.buffer:
        return "updates of a version"
    if needed == state.plan.updates_min and needed > config.quorum_effective:
        return f"{config.strategy}: {state.plan.updates_why}"
    return "quorum"


def _training(state: SessionState, known: Known) -> Wait:
    current = state.open_round
    times = current.opened_at, current.deadline_at
    without = _without(state, known)
    if without:
        what = f"waiting for a combiner that may take the updates of {len(without)} clients{_residency(state, known)}"
        return _wait(state, known, what, without, len(without), times, _then(state))
    count = current.missing_count
    what = f"waiting for updates of {count} of {len(current.places)} clients"
    if state.plan.buffer:
        more = max(0, current.target - len(current.accepted))
        what = f"waiting for {more} of the {current.target} updates of a version; {count} clients are at work"
    wait = _wait(state, known, what, current.missing, count, times, _then(state))
    if not known.missing_since(current.blob):
        return wait
    lost = f"; the broker has lost version {current.version}: fedbus restore DIR"
    return wait.model_copy(update={"what": wait.what[: 2000 - len(lost)] + lost})


def _then(state: SessionState) -> str:
    """Say what happens at a round's deadline, as things stand."""
    config, here = state.config, len(state.open_round.accepted)
    quorum = state.quorum
    if here >= quorum:
        return f"the round closes with the {here} updates that are there"
    again = "the session fails"
    if state.failures + 1 < config.round_attempts_max:
        again = f"it is opened again, for attempt {state.failures + 2} of {config.round_attempts_max}"
    few = f"{here} updates where {quorum} are the quorum"
    if is_too_few(state, here):
        few = too_few(state, here)
    return f"the round fails, with {few}, and {again}"


def is_too_few(state: SessionState, updates: int) -> bool:
    """Whether the strategy has a rule by which it cannot do with so few updates."""
    return updates < state.plan.updates_min > 1


def too_few(state: SessionState, updates: int) -> str:
    """Say that a strategy cannot do with so few updates, and by which rule."""
    plan = state.plan
    return f"{state.config.strategy}: {updates} updates are fewer than {plan.updates_min}: {plan.updates_why}"[:1000]


def _residency(state: SessionState, known: Known) -> str:
    return ": none is in their region (residency)" if state.config.residency == "require" and known.combiners else ""


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


def closing(state: SessionState, known: Known, without: int = 0) -> Wait:
    """Say what a round that is being closed waits for; ``without``: how many clients have lost their combiner."""
    current = state.open_round
    fixed = current.closing
    assert fixed is not None
    since = fixed.deadline_at - state.config.close_deadline_s
    then = "the set of updates is decided anew, or the round fails"
    missing = [client for client in fixed.counted if client not in current.accepted]
    if missing:
        what = f"waiting for {len(missing)} clients to send again what a lost combiner held"
        return _wait(state, known, what, missing, len(missing), (since, fixed.deadline_at), then)
    what, on = f"waiting for {fixed.root} to merge and store the model", [fixed.root]
    doing = doing_of(state.session, known.sight(fixed.root))
    if doing.startswith("waiting"):  # its own word: the broker's store is full
        what += f", which is {doing}"
    if without:
        why = _residency(state, known)
        what, on = f"waiting for a combiner that may take again the updates of {without} clients{why}", []
    return _wait(state, None, what, on, 0, (since, fixed.deadline_at), then)


def _evaluating(state: SessionState, known: Known) -> Wait:
    evaluation = state.evaluation
    assert evaluation is not None
    missing = (client for client in evaluation.clients if client not in known.answers)
    count = len(evaluation.clients) - len(known.answers)
    what = f"waiting for metrics of {count} of {len(evaluation.clients)} clients"
    times = (evaluation.opened_at, evaluation.deadline_at)
    then = "the round goes on without them" if state.config.rounds else "the session ends without them"
    if len(known.measured()) < state.config.answers_min:
        then = f"nothing is kept of the answers of fewer than {state.config.answers_min} clients (answers_min)"
    return _wait(state, known, what, missing, count, times, then)


def _wait(
    state: SessionState,
    known: Known | None,
    what: str,
    on: Iterable[str],
    missing: int,
    times: tuple[float, float],
    then: str,
) -> Wait:
    """Make a wait; ``known``: where ``on`` are clients, to tell who of them is there, and what they do."""
    names = tuple(on)
    here: tuple[str, ...] = names
    gone: tuple[str, ...] = ()
    if known is not None:
        here, gone = _parted(names, known)
        if gone and state.phase is not Phase.GATHERING:
            what += f"; {len(here) or 'none'} of them {'are' if len(here) > 1 else 'is'} connected"
    return Wait(
        session=state.session,
        round=state.rounds_closed + (state.phase is not Phase.EVALUATING and state.config.rounds > 0),
        what=what[:2000],
        on=tuple(islice(chain(gone, here), NAMED_MAX)),
        missing=missing,
        since_at=times[0],
        until_at=times[1],
        then=then,
        doing=_doing(state, known, here) if known else {},
        away={name: known.sight(name).seen_at for name in gone[:KNOWN_MAX]} if known else {},
        away_count=len(gone),
    )


def _doing(state: SessionState, known: Known, here: Iterable[str]) -> dict[str, str]:
    """Return what some of those who are there do for the session."""
    return {name: doing_of(state.session, known.sight(name)) for name in islice(here, KNOWN_MAX)}


def _parted(names: tuple[str, ...], known: Known) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return those who are there, and those who are not."""
    gone = tuple(name for name in names if name not in known.clients)
    return (tuple(name for name in names if name in known.clients), gone) if gone else (names, ())
