"""How a combiner closes its part of a round, once all that counts is folded, and what it reports of that.

    alone, or root of a tree      Store      the model is made and stored; then `Stored`
    root of shards                Store      its part is made and stored, the others' are awaited; then `Stored`
    another shard                 StorePart  its part is made and stored; the root sees it there
    anybody else in a tree        SendPartial  its sums go to its parent, or to the root; then `PartialSent`

What is under way beside the fold is stopped when the order changes (`StopClosing`).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedbus.combiner.events import (
    Effect,
    PartialSent,
    Report,
    SendPartial,
    StopClosing,
    Store,
    Stored,
    StoreFailed,
    StorePart,
)
from fedbus.messages import reports
from fedbus.messages.orders import Order


@dataclass(slots=True)
class Closing:
    """The end of a round in one combiner."""

    session: str
    name: str
    under_way: bool = False

    def begin(self, order: Order) -> list[Effect]:
        """Everything that counts is folded and nothing else."""
        assert order.merge is not None
        self.under_way = True
        if order.merge.root == self.name:
            return [Store(order)]
        return [StorePart(order) if order.parts > 1 else SendPartial(order)]

    def stop(self) -> list[Effect]:
        """Give up what is under way."""
        stopped, self.under_way = self.under_way, False
        return [StopClosing()] if stopped else []

    def partial_sent(self, event: PartialSent, order: Order | None) -> list[Effect]:
        """The parent has our partial, or refused it."""
        if not self._is_of(event.attempt, order) or event.accepted:
            return []
        assert order is not None and order.merge is not None
        parent = order.merge.parent or order.merge.root
        return [self.failed(order, f"{parent} refused the partial of {self.name}: {event.reason}")]

    def stored(self, event: Stored, order: Order | None) -> list[Effect]:
        """The new model is there."""
        if not self._is_of(event.attempt, order):
            return []
        assert order is not None and order.merge is not None
        stored = reports.ModelStored(
            session=self.session,
            round=order.round,
            revision=event.attempt,
            blob=order.merge.publish,
            digest=event.digest,
            nbytes=event.nbytes,
        )
        return [Report(stored)]

    def store_failed(self, event: StoreFailed, order: Order | None) -> list[Effect]:
        """The new model, or our part of it, could not be stored."""
        if not self._is_of(event.attempt, order):
            return []
        assert order is not None
        return [self.failed(order, event.reason)]

    def _is_of(self, attempt: int, order: Order | None) -> bool:
        """Whether a result is of what is under way now; says that it is not any more."""
        if order is None or order.merge is None or order.merge.attempt != attempt or not self.under_way:
            return False
        self.under_way = False
        return True

    def failed(self, order: Order, reason: str) -> Report:
        """Say that the round cannot be closed like this."""
        attempt = order.merge.attempt if order.merge else 0
        failed = reports.MergeFailed(session=self.session, round=order.round, revision=attempt, reason=reason[:2000])
        return Report(failed)
