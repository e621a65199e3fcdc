"""How a round is closed: the set of updates that count is fixed, summed up along a tree, and becomes a version.

`close` fixes the set, `see_through` sees to it that it becomes a model, also when combiners are lost meanwhile: where
one held updates of the set, their clients send again; one that was only to hand on what others hold is replaced by
another tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

from fedbus.coordinator.absent import missing_of
from fedbus.coordinator.known import Known
from fedbus.coordinator.late import fate
from fedbus.coordinator.layout import tree
from fedbus.coordinator.metrics import weighted_mean
from fedbus.coordinator.posts import incarnations_here
from fedbus.coordinator.state import RoundState, SessionState, is_late
from fedbus.coordinator.updates import lost_clients, move_lost, take_updates
from fedbus.coordinator.waits import closing as closing_wait
from fedbus.messages import records, reports
from fedbus.messages.plans import WEIGHTS_MAX, fold_weight_max
from fedbus.messages.records import Record

Decision = tuple[Record, ...]

REASONS_CHARS_MAX = 2_000_000
"""Most characters of all reasons of one record; each stands whole in the record of when it was found."""


def close(state: SessionState, known: Known, now: float, clients: Iterable[str], reason: str) -> Decision:
    """Fix the set of updates that count, and the tree along which their sums meet."""
    current = state.open_round
    names = sorted(clients)
    weight_sum = fsum(state.fold_weight(current.accepted[client]) for client in names)
    largest_weight = fold_weight_max(state.config, state.plan, len(current.places))
    if weight_sum > WEIGHTS_MAX * largest_weight:
        largest = f"{WEIGHTS_MAX} x weight_max ({largest_weight:g})"
        what = f"the weights sum up to {weight_sum:g}, more than {largest}"
        return fail(state, known, now, f"{what}; start the session with a larger weight_max")
    root, parents = current.shards[0] if current.shards else "", {}
    if not current.shards:
        held: dict[str, int] = {}
        for client in names:
            held[current.places[client]] = held.get(current.places[client], 0) + 1
        regions = known.combiner_regions
        # Only those whose incarnation is in the journal: whoever takes over must see when one of them is lost.
        found = tree(held, {name: regions[name] for name in incarnations_here(current, known.combiners)})
        root, parents = found.root, found.parents
    attempt = state.attempt + 1
    return (
        records.RoundClosing(
            round=current.number,
            attempt=attempt,
            counted=tuple(names),
            root=root,
            publish=f"{state.session}-{current.number}-{attempt}",
            reason=reason,
            deadline_at=now + state.config.close_deadline_s,
            parents=parents,
            # An asynchronous session waits for none of those that are at work: thousands, in each version.
            missing=None if state.plan.buffer and len(names) >= current.target else missing_of(state, known, now),
        ),
    )


def see_through(state: SessionState, known: Known, now: float) -> Decision:
    """Make a version of the set that was fixed, or fix it anew, or give the round up."""
    fixed = state.open_round.closing
    assert fixed is not None
    happened = take_updates(state, known) or _without_withdrawn(state, known, now)
    if happened:
        return happened
    if known.stored is not None and is_of_root(state, fixed.root, known.stored):
        return _publish(state, known.stored, now)
    if known.merge_failed is not None and is_of_closing(state, known.merge_failed):
        why = f"the root combiner {fixed.root} could not make the model: {known.merge_failed.reason}"
        return fail(state, known, now, why)
    moved = move_lost(state, known, "its combiner was lost while closing")
    if moved:
        return moved
    lost = set(lost_clients(state, known))
    if now >= fixed.deadline_at:
        return _late(state, known, lost, now)
    return () if lost else _fixed_anew(state, known, now)


def _without_withdrawn(state: SessionState, known: Known, now: float) -> Decision:
    """Fix the set anew where somebody's owner has taken back what is in it: no version is made of it yet."""
    current = state.open_round
    if current.withdrawn.keys().isdisjoint(current.counting):
        return ()
    lost = set(lost_clients(state, known))
    left = [client for client in current.counting if client in current.accepted and client not in lost]
    names = ", ".join(client for client in current.counting if client in current.withdrawn)
    if len(left) >= state.quorum:
        return close(state, known, now, left, f"the owner of {names} took its update back"[:2000])
    few = f"{len(left)} updates where {state.quorum} are the quorum"
    return fail(state, known, now, f"{few}: the owner of {names} took its update back")


def _late(state: SessionState, known: Known, lost: set[str], now: float) -> Decision:
    """At the deadline: what could not be recovered is left out, if enough is left; else the round is given up."""
    current = state.open_round
    counted = [client for client in current.counting if client in current.accepted and client not in lost]
    if len(counted) < len(current.counting) and len(counted) >= state.quorum:
        reason = f"only {len(counted)} of {len(current.counting)} updates could be recovered"
        return close(state, known, now, counted, reason)
    late = f"not merged within {state.config.close_deadline_s:g} s"
    return fail(state, known, now, f"{late}: {closing_wait(state, known, len(lost)).what}")


def _fixed_anew(state: SessionState, known: Known, now: float) -> Decision:
    """Give the same set another tree: when all of it is there again, or when who was to merge is gone."""
    current = state.open_round
    fixed = current.closing
    assert fixed is not None
    if state.attempt > fixed.attempt:  # clients were moved since
        if all(client in current.accepted for client in fixed.counted):
            return close(state, known, now, fixed.counted, "the updates of a lost combiner were recovered")
        return ()
    inner = sorted({fixed.root, *fixed.parents.values()} - incarnations_here(current, known.combiners).keys())
    if inner:
        return close(state, known, now, fixed.counted, f"who was to merge was lost: {', '.join(inner)}"[:2000])
    return ()


def is_of_closing(state: SessionState, report: reports.ModelStored | reports.MergeFailed) -> bool:
    """Whether a report is of the closing that stands."""
    current = state.round
    closing = current.closing if current else None
    return (
        current is not None
        and closing is not None
        and (report.round, report.revision) == (current.number, closing.attempt)
    )


def is_of_root(state: SessionState, name: str, report: reports.ModelStored) -> bool:
    """Whether a report is the one that the round waits for; an older one must not take its place."""
    closing = state.round.closing if state.round else None
    return (
        closing is not None and is_of_closing(state, report) and (name, report.blob) == (closing.root, closing.publish)
    )


def _publish(state: SessionState, stored: reports.ModelStored, now: float) -> Decision:
    current = state.open_round
    closing = current.closing
    assert closing is not None
    counted = [current.counting[client] for client in sorted(closing.counted)]
    every = (current.counting | current.accepted).values()
    model = records.ModelPublished(
        round=current.number,
        version=f"{state.session}-{current.number}",
        parent=state.version,
        session=state.session,
        blob=stored.blob,
        digest=stored.digest,
        nbytes=stored.nbytes,
        at=now,
    )
    closed = records.RoundClosed(
        round=current.number,
        counted=len(counted),
        metrics=weighted_mean({update.client: (update.weight, update.metrics) for update in counted}),
        bytes_up=sum(update.nbytes for update in every),
        bytes_down=sum(update.fetched for update in every),
        opened_at=current.opened_at,
        not_counted=_not_counted(state),
    )
    return (model, closed)


def _not_counted(state: SessionState) -> dict[str, str]:
    current, reasons = state.open_round, {}
    chars = chars_each(len(current.refused))
    for client in current.places:
        if client in current.refused:
            refused = current.refused[client]
            reasons[client] = f"{refused.stage}: {refused.reason}"[:chars]
        elif client not in current.counting and not is_at_work(state, current, client):
            reasons[client] = fate(state, current, client)
    return reasons


def is_at_work(state: SessionState, current: RoundState, client: str) -> bool:
    """Whether a client of an asynchronous session is making an update that counts in a later version: nothing to tell.

    Nearly all are, in each version.
    """
    return state.plan.buffer > 0 and client not in current.accepted and is_late(state, current, client)


def chars_each(count: int) -> int:
    """Return how long each of so many reasons may be: one record has to hold all of them."""
    return min(2000, REASONS_CHARS_MAX // max(1, count))


def fail(state: SessionState, known: Known, now: float, reason: str) -> Decision:
    """Give up the round."""
    return (
        records.RoundFailed(
            round=state.open_round.number,
            attempt=state.attempt,
            reason=reason[:2000],
            missing=missing_of(state, known, now),
        ),
    )
