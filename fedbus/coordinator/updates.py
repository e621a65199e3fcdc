"""What becomes of the updates of a round: verdicts become records, and who has lost its combiner is given another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedbus.coordinator.known import Known
from fedbus.coordinator.layout import place, shards_of
from fedbus.coordinator.posts import incarnations_here
from fedbus.coordinator.state import SessionState
from fedbus.coordinator.verdicts import record_of
from fedbus.messages import records, reports


def take_updates(state: SessionState, known: Known) -> tuple[records.Record, ...]:
    """Turn what was reported of updates into one record."""
    while known.verdicts or known.failures or known.withdrawn:
        sizes = [sum(len(verdict.metrics) for verdict in report.verdicts) for _, report in known.verdicts]
        size = reports.fitting(sizes)
        taken, known.verdicts = known.verdicts[:size], known.verdicts[size:]
        failures = known.failures[: reports.VERDICTS_MAX]
        known.failures = known.failures[reports.VERDICTS_MAX :]
        withdrawn = known.withdrawn[: reports.VERDICTS_MAX]
        known.withdrawn = known.withdrawn[reports.VERDICTS_MAX :]
        recorded = record_of(state, taken, failures, known.parts, withdrawn)
        if recorded:
            return recorded
    return ()


def lost_clients(state: SessionState, known: Known) -> list[str]:
    """Return the clients whose combiner is gone, or is another incarnation, and took their update with it.

    Those that were refused have nothing to send again. Where chunks are shared out, each combiner that is lost takes a
    part of every update with it.
    """
    current = state.open_round
    here = incarnations_here(current, known.combiners)
    gone = [name for name in current.incarnations if name not in here]
    if not gone:
        return []
    clients: Iterable[str] = current.counting if current.closing else current.places
    if current.shards:
        return [c for c in clients if c not in current.refused] if set(gone) & set(current.shards) else []
    return [c for c in clients if current.places[c] in gone and c not in current.refused]


def move_lost(state: SessionState, known: Known, reason: str) -> tuple[records.Record, ...]:
    """Give the clients of lost combiners to those that are there, as far as these may take them."""
    lost = lost_clients(state, known) if known.combiners else []
    if not lost:
        return ()
    current = state.open_round
    shards = shards_of(state.sharding, known.combiners)
    moves = dict.fromkeys(sorted(lost), shards[0]) if shards else _moves(state, known, lost)
    if not moves:
        return ()
    used = {*shards, *moves.values(), *(current.places[client] for client in current.places if client not in moves)}
    gone = {*current.shards} if current.shards else {current.places[client] for client in moves}
    names = ", ".join(sorted(gone - incarnations_here(current, known.combiners).keys()))
    return (
        records.ClientsMoved(
            round=current.number,
            attempt=state.attempt + 1,
            moves=moves,
            incarnations={name: inc for name, inc in known.combiners.items() if name in used},
            reason=f"{reason}: {names}"[:2000],
            shards=shards,
        ),
    )


def _moves(state: SessionState, known: Known, lost: list[str]) -> dict[str, str]:
    """Return where each client goes whose combiner was lost, as far as there is one for it."""
    loads = _loads_with(state, known, set(lost))
    if state.config.residency == "prefer":
        return placed(state, known, lost, loads)
    # Of one that is away nobody knows where it is; back in its former place it is not further away than it was.
    places = state.open_round.places
    here = [client for client in lost if client in known.clients]
    back = {c: places[c] for c in lost if c not in known.clients and places[c] in known.combiners}
    moves = placed(state, known, here, loads) | back
    return {client: moves[client] for client in sorted(moves)}


def _loads_with(state: SessionState, known: Known, without: set[str]) -> dict[str, int]:
    """Return what combiners expect of all sessions, but for some clients of this one."""
    loads = dict(known.loads)
    for client, combiner in state.open_round.places.items():
        if client not in without:
            loads[combiner] = loads.get(combiner, 0) + max(state.nbytes, 1)
    return loads


def placed(state: SessionState, known: Known, clients: Iterable[str], loads: Mapping[str, int]) -> dict[str, str]:
    """Return where clients send: shared out over the combiners that are there, or all to one that has to have all."""
    if state.plan.single:
        least = min(known.combiners, key=lambda name: (loads.get(name, 0), name))
        return dict.fromkeys(sorted(clients), least)
    homes = {client: known.region(client) for client in clients}
    return place(homes, known.combiner_regions, loads, state.nbytes, state.config.residency)
