"""From the state of a session to what stands on the boards: the `Task` of a client, the `Order` of a combiner.

Pure functions: what is posted can be computed again at any time, by any coordinator, from the journal alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum
from typing import Literal

from fedbus.coordinator.layout import Tree
from fedbus.coordinator.metrics import weighted_mean
from fedbus.coordinator.selection import draw
from fedbus.coordinator.state import Phase, RoundState, SessionState
from fedbus.messages.orders import Merge, Order
from fedbus.messages.plans import fold_weight_max, given_weight
from fedbus.messages.tasks import Evaluate, SessionCard, Task, Train


def card_of(state: SessionState) -> SessionCard:
    """Return what a session is, for those who decide whether to take part."""
    config, plan = state.config, state.plan
    named = [*plan.metrics, *filter(None, (config.target_name, config.best_name))]
    return SessionCard(
        purpose=config.purpose,
        description=config.description,
        by=state.by[:200],
        strategy=config.strategy,
        codec=config.codec,
        rounds=config.rounds,
        version=state.version,
        nbytes=state.nbytes,
        clients_min=state.clients_needed,
        updates_min=state.quorum,
        answers_min=config.answers_min,
        reveal=config.reveal,
        residency=config.residency,
        metrics=tuple(dict.fromkeys(named)),
        evaluates=not config.queries and (config.evaluate_every > 0 or not config.rounds),
        queries=len(config.queries),
    )


def task_for(state: SessionState, client: str, card: SessionCard | None = None) -> Task:
    """Return what a client is to do now; ``card``: that of the session, where it was made for others already."""
    receipt = state.receipts.get(client)
    train, evaluate = None, None
    what: Literal["train", "evaluate", "rest", "ended"] = "rest"
    if state.phase is Phase.ENDED:
        what = "ended"
    elif state.round is not None and client in state.round.places:
        train, what = _train(state, state.round, client), "train"
    elif state.evaluation is not None and client in state.evaluation.clients:
        evaluate, what = _evaluate(state, client), "evaluate"
    return Task(
        session=state.session,
        revision=state.sequence,
        state=what,
        train=train,
        evaluate=evaluate,
        receipt=receipt,
        card=(card or card_of(state)) if train or evaluate else None,
    )


def _train(state: SessionState, current: RoundState, client: str) -> Train:
    return Train(
        round=current.number,
        attempt=current.attempts[client],
        version=current.version,
        blob=current.blob,
        combiner=current.shards[0] if current.shards else current.places[client],
        config=state.config.train_config,
        seed=draw(state.config.seed, "task", current.number, client),
        deadline_at=current.deadline_at,
        weight_max=state.config.weight_max,
        shards=current.shards,
        stale_max=state.stale_max,
        stale_weight=1.0 if state.plan.stale else state.config.stale_weight,
        encoding=state.plan.encoding,
        digest=current.digest,
    )


def _evaluate(state: SessionState, client: str) -> Evaluate:
    evaluation = state.evaluation
    assert evaluation is not None
    return Evaluate(
        round=evaluation.round,
        version=evaluation.version,
        blob=evaluation.blob,
        config=state.config.train_config,
        seed=draw(state.config.seed, "evaluate", evaluation.round, client),
        deadline_at=evaluation.deadline_at,
        queries=state.config.queries,
        aside=not state.config.rounds,
        digest=evaluation.digest,
    )


def incarnations_here(current: RoundState, combiners: Mapping[str, str]) -> dict[str, str]:
    """Return the combiners that are there as the incarnation that the round knows."""
    return {name: inc for name, inc in combiners.items() if current.incarnations.get(name) == inc}


def orders_for(state: SessionState, combiners: Mapping[str, str]) -> dict[str, Order]:
    """Return what each combiner (name -> incarnation) is to do now."""
    common: dict[str, object] = {
        "session": state.session,
        "revision": state.sequence,
        "version": state.version,
        "blob": state.blob,
        "weight_max": fold_weight_max(state.config, state.plan, len(state.round.places) if state.round else 0),
        "value_floor": state.config.value_floor,
        "headroom": state.config.headroom,
        "strategy": state.config.strategy,
        "options": state.config.strategy_options,
        "stale_max": state.stale_max,
        "plan": state.plan,
    }
    current = state.round
    if current is None:
        what = "ended" if state.phase is Phase.ENDED else "rest"
        rest = common | {"state": what, "round": state.rounds_closed}
        return {name: Order.model_validate(rest | {"incarnation": inc}) for name, inc in combiners.items()}
    common |= {"round": current.number, "version": current.version, "blob": current.blob}
    uploads = _by_combiner(current, current.counting if current.closing else current.places)
    # While clients send again what a lost combiner held, nobody merges: the set is fixed anew when all of it is there.
    merging = current.closing is not None and current.closing.attempt == state.attempt
    merges = merges_for(state) if merging else {}
    orders = {}
    for name, incarnation in combiners.items():
        own: dict[str, object] = {"incarnation": incarnation, "uploads": uploads.get(name, {})}
        if name in current.shards:
            own |= {"part": current.shards.index(name), "parts": len(current.shards)}
        if merging:
            # Resting, it must not say that the round is closed: it may be given clients of a lost one yet.
            rest = {"state": "rest", "round": state.rounds_closed}
            own |= {"state": "merge", "merge": merges[name]} if name in merges else rest
        else:
            own |= {"state": "fold"}
        orders[name] = Order.model_validate(common | own)
    return orders


def _by_combiner(current: RoundState, clients: Mapping[str, object]) -> dict[str, dict[str, int]]:
    """Return whose updates each combiner may accept, as which attempt."""
    if current.shards:
        everybody = {client: current.attempts[client] for client in clients}
        return dict.fromkeys(current.shards, everybody)
    uploads: dict[str, dict[str, int]] = {}
    for client in clients:
        uploads.setdefault(current.places[client], {})[client] = current.attempts[client]
    return uploads


def merges_for(state: SessionState) -> dict[str, Merge]:
    """Return how each combiner that has a part in it closes the round."""
    current, plan = state.open_round, state.plan
    closing = current.closing
    assert closing is not None
    counted = _by_combiner(current, current.counting)
    updates = [current.counting[client] for client in sorted(closing.counted)]
    given = {update.client: given_weight(plan, update.weight) for update in updates}
    named = {update.client: {name: update.metrics[name] for name in plan.metrics} for update in updates}
    common: dict[str, object] = {
        "root": closing.root,
        "attempt": closing.attempt,
        "publish": closing.publish,
        "weight_sum": fsum(state.fold_weight(update) for update in updates),
        "given_sum": fsum(given.values()),
        "updates": len(updates),
        "population": len(state.asked),
        "means": weighted_mean({client: (given[client], metrics) for client, metrics in named.items()}),
    }
    tree = Tree(closing.root, closing.parents)
    # Who holds nothing that counts, and only hands on what others hold, sends a partial too.
    nodes = set() if current.shards else counted.keys() | closing.parents.keys() | set(closing.parents.values())
    partials: dict[str, dict[str, int]] = {}
    for name in sorted(nodes - {closing.root}):
        partials.setdefault(tree.parent(name), {})[name] = closing.attempt
    return {
        name: Merge.model_validate(
            common
            | {
                "parent": closing.parents.get(name, ""),
                "counted": counted.get(name, {}),
                "partials": partials.get(name, {}),
            }
        )
        for name in sorted(counted.keys() | partials.keys() | {closing.root})
    }
