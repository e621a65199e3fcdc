"""What becomes true in a session: functions of its state, of what was reported, and of the time, to records.

`decide` is asked with the state as it would be behind the records that were decided just before, until nothing more
becomes true; all of them are then one entry of the journal. So nothing here remembers anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from fedbus.coordinator.absent import all_left
from fedbus.coordinator.closing import Decision, close, fail, see_through
from fedbus.coordinator.evaluating import evaluating, evaluation_of, is_due, may_open, outcome_of
from fedbus.coordinator.known import Known
from fedbus.coordinator.layout import shards_of
from fedbus.coordinator.selection import matching, select
from fedbus.coordinator.state import Phase, RoundState, SessionState
from fedbus.coordinator.updates import lost_clients, move_lost, placed, take_updates
from fedbus.coordinator.waits import gathering, is_too_few, too_few
from fedbus.coordinator.willing import willing
from fedbus.errors import ConfigError
from fedbus.messages import records
from fedbus.messages.reasons import by_reason


def decide(state: SessionState, known: Known, now: float) -> Decision:
    """Return what becomes true now; nothing, mostly. Takes from ``known`` the verdicts that it turns into a record."""
    stopping = _stopping(state, known)
    if stopping:
        return stopping
    if state.held:
        return _half_restored(state, known, now)
    missing_since = known.missing_since(state.blob)
    if missing_since and state.phase is Phase.GATHERING:
        return _without_model(state, missing_since, now)
    return _DECIDE[state.phase](state, known, now)


def _stopping(state: SessionState, known: Known) -> Decision:
    if known.stop is None or state.phase in (Phase.NEW, Phase.ENDED):
        return ()
    return _ended(state, "stopped", known.stop.reason)


def _half_restored(state: SessionState, known: Known, now: float) -> Decision:
    """Wait until the journal is whole again, or give up: nobody may go on from the middle of it."""
    if state.phase is Phase.ENDED or now < known.held_since + state.config.close_deadline_s:
        return ()
    half = "its journal, which the broker came back without, was written again in part only"
    return _ended(state, "failed", f"{half}; the rest did not come within {state.config.close_deadline_s:g} s")


def _without_model(state: SessionState, missing_since: float, now: float) -> Decision:
    """Wait until the version to go on from is restored, or give up."""
    if now < missing_since + state.config.close_deadline_s:
        return ()
    lost = f"version {state.version} is not stored: it was never finished, or the broker came back without it"
    return _ended(state, "failed", f"{lost}; it was not restored within {state.config.close_deadline_s:g} s")


def _new(state: SessionState, known: Known, now: float) -> Decision:
    start = known.start
    if start is None:
        return ()
    if start.refusal:
        return _ended(state, "refused", start.refusal)
    return (
        records.SessionStarted(
            config=start.config,
            version=f"{state.session}-0",
            blob=start.blob,
            digest=start.digest,
            nbytes=start.nbytes,
            by=start.by,
            plan=start.plan,
            base=start.base,
        ),
    )


# --- gathering ---


def _gathering(state: SessionState, known: Known, now: float) -> Decision:  # noqa: PLR0911 - first reason, first out
    config = state.config
    due = is_due(state)
    if due and may_open(state, known, now):
        return (evaluation_of(state, known, now),)
    found = outcome_of(state)
    if found is not None:
        return _ended(state, *found)
    if state.rounds_closed >= config.rounds and not due:
        return _ended(state, "completed", f"{state.rounds_closed} rounds done")
    if state.failures >= config.round_attempts_max:
        attempts = f"round {state.rounds_closed + 1} failed {state.failures} times"
        return _ended(state, "failed", f"{attempts}; the last time: {state.reason}")
    here = matching(known, known.may_send(config.residency), config.client_filter)
    here = willing(known, here, state.declined, now)
    if len(here) >= state.clients_needed and known.combiners and not due:
        return _open_round(state, known, here, now)
    if now >= state.since_at + config.gather_deadline_s:
        wait = gathering(state, known, now)
        return _ended(state, "failed", f"{wait.what}: not within {config.gather_deadline_s:g} s")
    return ()


def _open_round(state: SessionState, known: Known, here: Iterable[str], now: float) -> Decision:
    config, number = state.config, state.rounds_closed + 1
    try:
        if state.plan.buffer:  # everybody: who is at work goes on, and what it makes counts in a later round
            chosen, target = select(here, None, 1.0, config.seed, number)
            target = min(target, state.plan.buffer)
        else:
            chosen, target = _selected(state, known, here, number)
    except ConfigError as error:
        return _ended(state, "failed", str(error))
    shards = shards_of(state.sharding, known.combiners)
    places = dict.fromkeys(chosen, shards[0]) if shards else placed(state, known, chosen, known.loads)
    return (
        records.RoundOpened(
            round=number,
            attempt=state.attempt + 1,
            version=state.version,
            blob=state.blob,
            clients=places,
            incarnations=dict(known.combiners),
            target=target,
            deadline_at=now + config.round_deadline_s,
            shards=shards,
        ),
    )


def _selected(state: SessionState, known: Known, here: Iterable[str], number: int) -> tuple[list[str], int]:
    config = state.config
    return select(
        here,
        config.clients_per_round,
        config.oversample,
        config.seed,
        number,
        selection=config.selection,
        options=config.selection_options,
        history=state.history,
        attributes=known.roster.client_attributes,
    )


# --- training ---


def _training(state: SessionState, known: Known, now: float) -> Decision:  # noqa: PLR0911 - first reason, first out
    current = state.open_round
    happened = take_updates(state, known) or move_lost(state, known, "its combiner was lost")
    if happened:
        return happened
    lost = set(lost_clients(state, known))
    sound: Collection[str] = current.accepted.keys() - lost if lost else current.accepted.keys()
    if len(sound) >= max(current.target, state.plan.updates_min):
        return close(state, known, now, sound, f"{len(sound)} of {current.target} updates arrived")
    most = len(current.places) - len(current.refused)
    if is_too_few(state, most):  # it need not go on to its deadline
        return fail(state, known, now, f"{too_few(state, most)}{_refusals(current)}")
    quorum = len(sound) >= state.quorum
    if current.missing_count == 0 and not lost:
        if quorum:
            return close(state, known, now, sound, "every client has answered")
        why = f"{_quorum_text(state, sound)}, and every client has answered{_refusals(current)}"
        return fail(state, known, now, why)
    if quorum and not lost and all_left(state, known, now):
        return close(state, known, now, sound, "every client has answered or left")
    if now < current.deadline_at:
        return ()
    if quorum:
        return close(state, known, now, sound, f"deadline with {len(sound)} of {current.target} updates")
    names = ", ".join(client for client, _ in zip(current.missing, range(10), strict=False))
    why = f"no combiner is there that may take the updates of {len(lost)}" if lost else f"missing: {names}"
    return fail(state, known, now, f"{_quorum_text(state, sound)} at the deadline; {why}")


def _quorum_text(state: SessionState, sound: Collection[str]) -> str:
    if is_too_few(state, len(sound)):
        return too_few(state, len(sound))
    return f"{len(sound)} updates where {state.quorum} are the quorum"


def _refusals(current: RoundState) -> str:
    """Say why some were refused, behind what follows from it."""
    reasons = by_reason({name: verdict.reason for name, verdict in current.refused.items()})
    return f": {reasons}" if reasons else ""


# --- ends ---


def _nothing(state: SessionState, known: Known, now: float) -> Decision:
    return ()


def _ended(state: SessionState, outcome: str, reason: str) -> Decision:
    fields = {"outcome": outcome, "reason": reason[:2000], "version": state.version, "digest": state.digest}
    return (records.SessionEnded.model_validate(fields),)


_DECIDE: dict[Phase, Callable[[SessionState, Known, float], Decision]] = {
    Phase.NEW: _new,
    Phase.GATHERING: _gathering,
    Phase.TRAINING: _training,
    Phase.CLOSING: see_through,
    Phase.EVALUATING: evaluating,
    Phase.ENDED: _nothing,
}
