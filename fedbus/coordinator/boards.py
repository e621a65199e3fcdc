"""What has to be put on the boards: tasks of the clients that a record concerns, orders that have changed.

Orders come before tasks, so that a combiner knows whom it may hear when the first of them speaks. A client that was
told in an earlier round how its update fared is not told again: its next task says so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedbus.coordinator.events import Effect, PostOrder, PostTask
from fedbus.coordinator.posts import card_of, orders_for, task_for
from fedbus.coordinator.state import SessionState
from fedbus.messages import records
from fedbus.messages.orders import Order
from fedbus.messages.records import Record


def asked_of(state: SessionState, record: Record) -> Mapping[str, object]:
    """Return the clients whose task a record changes; ``state`` is the one before it."""
    match record:
        case records.RoundOpened() | records.EvaluationOpened():
            return dict.fromkeys(record.clients)
        case records.ClientsMoved():
            # Who shares out what stands in everybody's task, also in that of a client that has nothing to send again.
            same = record.shards == state.open_round.shards
            return dict.fromkeys(record.moves if same else state.open_round.places)
        case records.RoundClosed() | records.RoundFailed():
            return dict.fromkeys(state.open_round.places)
        case records.RoundEvaluated():
            return state.evaluation.clients if state.evaluation else {}
        case records.SessionEnded():
            return state.asked
        case _:
            return {}


@dataclass(slots=True)
class Boards:
    """What was posted last as orders of a session, so that the same is not posted twice."""

    posted: dict[str, Order] = field(default_factory=dict)

    def tasks(self, state: SessionState, clients: Iterable[str]) -> list[Effect]:
        """Post the tasks of clients, each once."""
        card = card_of(state) if state.round is not None or state.evaluation is not None else None
        return [PostTask(client, task_for(state, client, card)) for client in clients]

    def orders(self, state: SessionState, combiners: Mapping[str, str]) -> list[Effect]:
        """Post the orders that differ from what was posted last, to the combiners that are there."""
        if not state.version:
            return []  # not begun, or refused: there is no model to give orders about
        here = dict(combiners)
        if state.round is not None:
            # An order is for the incarnation that the journal names: a reborn combiner gets its own after ClientsMoved.
            names = state.round.incarnations
            here = {name: inc for name, inc in here.items() if names.get(name, inc) == inc}
        effects: list[Effect] = []
        for name, order in orders_for(state, here).items():
            known = self.posted.get(name)
            if known is None or known != order.model_copy(update={"revision": known.revision}):
                self.posted[name] = order
                effects.append(PostOrder(name, order))
        return effects

    def tasked(self, state: SessionState, clients: Iterable[str]) -> list[str]:
        """Return those of some clients that have a task, or took part in the last closed round."""
        current, evaluation = state.round, state.evaluation
        return [
            client
            for client in clients
            if (current is not None and client in current.places)
            or (evaluation is not None and client in evaluation.clients)
            or (client in state.receipts and state.receipts[client].round == state.rounds_closed)
        ]

    def everything(self, state: SessionState, combiners: Mapping[str, str]) -> list[Effect]:
        """Post all orders, and the tasks of those who have one or took part in the last closed round."""
        self.posted.clear()
        clients: dict[str, object] = {
            c: None for c, told in state.receipts.items() if told.round == state.rounds_closed
        }
        if state.round is not None:
            clients |= state.round.places
        if state.evaluation is not None:
            clients |= state.evaluation.clients
        return [*self.orders(state, combiners), *self.tasks(state, clients)]

    def again(
        self, state: SessionState, combiners: Mapping[str, str], clients: Iterable[str], lost: Iterable[str]
    ) -> list[Effect]:
        """Post again what the bus did not take."""
        for name in lost:
            self.posted.pop(name, None)
        return [*self.orders(state, combiners), *self.tasks(state, sorted(clients))]
