"""From the state of a session to what stands on the boards: the `Task` of a client, the `Order` of a combiner.

Pure functions: what is posted can be computed again at any time, by any coordinator, from the journal alone.
"""

from __future__ import annotations

from math import fsum

from fedbus.coordinator.selection import draw
from fedbus.coordinator.state import Phase, RoundState, SessionState
from fedbus.messages.orders import Merge, Order
from fedbus.messages.tasks import Evaluate, Task, Train


def task_for(state: SessionState, client: str) -> Task:
    """Return what a client is to do now."""
    receipt = state.receipts.get(client)
    train, evaluate, what = None, None, "rest"
    if state.phase is Phase.ENDED:
        what = "ended"
    elif state.round is not None and client in state.round.places:
        train, what = _train(state, state.round, client), "train"
    elif state.evaluation is not None and client in state.evaluation.clients:
        evaluate, what = _evaluate(state, client), "evaluate"
    return Task.model_validate(
        {
            "session": state.session,
            "revision": state.sequence,
            "state": what,
            "train": train,
            "evaluate": evaluate,
            "receipt": receipt,
        }
    )


def _train(state: SessionState, current: RoundState, client: str) -> Train:
    return Train(
        round=current.number,
        attempt=current.attempts[client],
        version=current.version,
        blob=current.blob,
        combiner=current.places[client],
        config=state.config.train_config,
        seed=draw(state.config.seed, "task", current.number, client),
        deadline_at=current.deadline_at,
        weight_max=state.config.weight_max,
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
    )


def orders_for(state: SessionState, combiners: dict[str, str]) -> dict[str, Order]:
    """Return what each combiner (name -> incarnation) is to do now."""
    common = {
        "session": state.session,
        "revision": state.sequence,
        "version": state.version,
        "blob": state.blob,
        "weight_max": state.config.weight_max,
        "value_floor": state.config.value_floor,
        "headroom": state.config.headroom,
        "strategy": state.config.strategy,
        "options": state.config.strategy_options,
    }
    current = state.round
    if current is None:
        what = "ended" if state.phase is Phase.ENDED else "rest"
        rest = common | {"state": what, "round": state.rounds_closed}
        return {name: Order.model_validate(rest | {"incarnation": inc}) for name, inc in combiners.items()}
    common |= {"round": current.number, "version": current.version, "blob": current.blob}
    uploads = _uploads(state, current)
    # While clients send again what a lost combiner held, nobody merges: the set is fixed anew when all of it is there.
    merging = current.closing is not None and current.closing.attempt == state.attempt
    merges = merges_for(current) if merging else {}
    orders = {}
    for name, incarnation in combiners.items():
        own: dict[str, object] = {"incarnation": incarnation, "uploads": uploads.get(name, {})}
        if merging:
            # Resting, it must not say that the round is closed: it may be given clients of a lost one yet.
            rest = {"state": "rest", "round": state.rounds_closed}
            own |= {"state": "merge", "merge": merges[name]} if name in merges else rest
        else:
            own |= {"state": "fold"}
        orders[name] = Order.model_validate(common | own)
    return orders


def _uploads(state: SessionState, current: RoundState) -> dict[str, dict[str, int]]:
    """Return whose updates each combiner may accept: of all participants, or only of those that count."""
    clients = current.closing.counted if current.closing else tuple(current.places)
    uploads: dict[str, dict[str, int]] = {}
    for client in clients:
        uploads.setdefault(current.places[client], {})[client] = current.attempts[client]
    return uploads


def merges_for(current: RoundState) -> dict[str, Merge]:
    """Return how each combiner that holds counted updates closes the round."""
    closing = current.closing
    assert closing is not None
    counted: dict[str, dict[str, int]] = {}
    for client in closing.counted:
        counted.setdefault(current.places[client], {})[client] = current.attempts[client]
    weight_sum = fsum(current.counting[client].weight for client in sorted(closing.counted))
    others = {name: closing.attempt for name in counted if name != closing.root}
    counted.setdefault(closing.root, {})
    return {
        name: Merge(
            root=closing.root,
            attempt=closing.attempt,
            counted=own,
            partials=others if name == closing.root else {},
            weight_sum=weight_sum,
            publish=closing.publish,
        )
        for name, own in counted.items()
    }
