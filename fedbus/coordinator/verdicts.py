"""From what combiners and clients report of updates to what the journal says of them.

Where combiners share out chunks, an update is accepted when all of them have accepted their part of it, and refused
when one has refused. A refusal then stands for the whole attempt: another combiner may hold a part of the update that
was refused, and two updates must not be made into one.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import hypot, isfinite

from fedbus.coordinator.late import refusal
from fedbus.coordinator.state import Phase, RoundState, SessionState
from fedbus.errors import BadUpdate
from fedbus.messages import records, reports
from fedbus.messages.ids import Spent
from fedbus.messages.records import AcceptedUpdate, RefusedUpdate

Verdicts = Iterable[tuple[str, reports.UpdatesJudged]]
"""Reports of combiners, each with its combiner's name."""

Failures = Iterable[tuple[str, reports.TaskFailed]]
"""Reports of clients, each with its client's name."""

Withdrawals = Iterable[tuple[str, reports.Withdrawn]]
"""What owners took back, each with its client's name."""

Parts = dict[str, tuple[int, dict[str, reports.Verdict]]]
"""Of updates that are not decided yet: client -> attempt, and the verdicts on its parts by combiner."""


def record_of(
    state: SessionState, verdicts: Verdicts, failures: Failures, parts: Parts, withdrawals: Withdrawals = ()
) -> tuple[records.UpdatesRecorded, ...]:
    """Return the record of what is new in some reports; none where nothing is. Verdicts on parts wait in ``parts``."""
    accepted: dict[str, AcceptedUpdate] = {}
    refused: dict[str, RefusedUpdate] = {}
    current = state.open_round
    for combiner, report in verdicts:
        for verdict in report.verdicts:
            if not _is_current(state, combiner, report, verdict):
                continue
            if not current.shards:
                _sort_verdict(combiner, verdict, accepted, refused)
            elif verdict.client not in accepted and verdict.client not in refused:
                _sort_part(state, combiner, verdict, parts, accepted, refused)
    _refuse_unfit(state, accepted, refused)
    for client, failure in failures:
        if _is_current_failure(state, client, failure) and client not in accepted:
            refused[client] = declined_by(client, failure)
            parts.pop(client, None)
    withdrawn = _withdrawn(current, withdrawals)
    for client in withdrawn:
        accepted.pop(client, None)
        refused.pop(client, None)
        parts.pop(client, None)
    if not accepted and not refused and not withdrawn:
        return ()
    return (
        records.UpdatesRecorded(
            round=current.number,
            accepted=tuple(accepted.values()),
            refused=tuple(refused.values()),
            withdrawn=tuple(withdrawn.values()),
        ),
    )


def _withdrawn(current: RoundState, withdrawals: Withdrawals) -> dict[str, RefusedUpdate]:
    """Return what was taken back of the round, and is not known to be yet."""
    return {
        client: declined_by(client, withdrawal)
        for client, withdrawal in withdrawals
        if withdrawal.round == current.number and client in current.places and client not in current.withdrawn
    }


def declined_by(client: str, report: reports.TaskFailed | reports.Withdrawn) -> RefusedUpdate:
    """Return what is noted of a client that says itself why its update cannot count."""
    known: dict[str, object] = {"client": client, "by": client, "reason": report.reason, "policy": report.policy}
    if isinstance(report, reports.TaskFailed):
        known |= {"stage": report.stage, "until_at": report.until_at}
    if isinstance(report, reports.Withdrawn) or report.policy:
        known |= {"stage": "policy"}
    return RefusedUpdate.model_validate(known)


def _refuse_unfit(state: SessionState, accepted: dict[str, AcceptedUpdate], refused: dict[str, RefusedUpdate]) -> None:
    """Refuse what is folded already and cannot count; the close takes it out.

    It is of a round of which nothing may count any more; or it has no weight of the fold, which no combiner of ours
    lets pass.
    """
    for client, update in list(accepted.items()):
        reason = refusal(state, client, update.stale) or _unweighable(state, update)
        if not reason:
            continue
        del accepted[client]
        if client not in state.open_round.refused:
            refused[client] = RefusedUpdate(client=client, by="coordinator", stage="update", reason=reason)


def _unweighable(state: SessionState, update: AcceptedUpdate) -> str:
    try:
        state.fold_weight(update)
    except BadUpdate as error:
        return str(error)
    return ""


def is_settled(state: SessionState, client: str, attempt: int) -> bool:
    """Whether nothing more is to be found out of an update: it is journalled, replaced, or does not count any more."""
    current = state.round
    return (
        current is None
        or current.attempts.get(client) != attempt
        or client in current.accepted
        or client in current.refused
        or (current.closing is not None and client not in current.counting)
    )


def _is_current(state: SessionState, combiner: str, report: reports.UpdatesJudged, verdict: reports.Verdict) -> bool:
    """Whether a verdict is of the open round, of the client's present attempt and place, and still unknown."""
    current = state.open_round
    client = verdict.client
    if current.shards:
        is_place = combiner in current.shards and client not in current.refused
    else:
        is_place = current.places.get(client) == combiner and not _is_left_behind(state, current, client)
    return (
        report.round == current.number
        and is_place
        and verdict.attempt >= current.shared_out  # before it, what was accepted was another part of an update
        and current.incarnations.get(combiner) == report.incarnation
        and current.attempts.get(client) == verdict.attempt
        and client not in current.accepted
        and client not in current.withdrawn
        and (_is_sound(verdict) if verdict.accepted else client not in current.refused)
        and (state.phase is not Phase.CLOSING or client in current.counting)
    )


def _is_left_behind(state: SessionState, current: RoundState, client: str) -> bool:
    """Whether a client was refused, the others were then moved without it, and all have to be at one combiner."""
    together = state.plan.single or state.plan.whole
    return together and client in current.refused and current.attempts[client] < current.attempt


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
            stale=verdict.stale,
            spent=verdict.spent,
        )
    else:
        reason = verdict.reason or "no reason given"
        refused[verdict.client] = RefusedUpdate(client=verdict.client, by=combiner, stage="update", reason=reason)


def _sort_part(
    state: SessionState,
    combiner: str,
    verdict: reports.Verdict,
    parts: Parts,
    accepted: dict[str, AcceptedUpdate],
    refused: dict[str, RefusedUpdate],
) -> None:
    """Put a verdict to those on the other parts; the last one, or a refusal, decides."""
    client, current = verdict.client, state.open_round
    attempt, found = parts.get(client, (verdict.attempt, {}))
    if attempt != verdict.attempt:
        found = {}
    found.setdefault(combiner, verdict)
    parts[client] = verdict.attempt, found
    if verdict.accepted and len(found) < len(current.shards):
        return
    del parts[client]
    if not verdict.accepted:
        _sort_verdict(combiner, verdict, accepted, refused)
        return
    of = [found[shard] for shard in current.shards]
    # Metrics too, where the weight of the fold is made of them: each combiner has folded with what it was told.
    if len({(one.weight, one.update, one.stale, *map(one.metrics.get, state.plan.metrics)) for one in of}) > 1:
        # A client that trained again, in a new life, has sent its new update to those who had nothing of the old one.
        weights = ", ".join(f"{one.weight:g}" for one in of)
        reason = f"its parts are of different updates: they came with the weights {weights}"
        refused[client] = RefusedUpdate(client=client, by=combiner, stage="update", reason=reason[:2000])
        return
    accepted[client] = AcceptedUpdate(
        client=client,
        attempt=verdict.attempt,
        weight=verdict.weight,
        nbytes=sum(one.nbytes for one in of),
        fetched=max(one.fetched for one in of),
        norm=hypot(*(one.norm for one in of)),
        digest="+".join(one.digest for one in of),
        metrics=of[0].metrics,
        stale=of[0].stale,
        spent=_longest([one.spent for one in of if one.spent]),
    )


def _longest(spent: list[Spent]) -> Spent | None:
    """Return what the slowest part of an update says; the client's own times are the same in all of them."""
    return max(spent, key=lambda one: one.upload_s, default=None)
