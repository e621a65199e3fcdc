"""Makes the report of a round of the records of its session's journal, shown in their order.

A round is told by its last attempt: one that failed, and was opened again, is named by its reason only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fedbus.config.session import SessionConfig
from fedbus.federation.report import ClientReport, Outcome, RoundReport, known, trace_of, why
from fedbus.messages import records
from fedbus.messages.plans import Plan, quorum, stale_max
from fedbus.messages.records import AcceptedUpdate, Missing, Record, RefusedUpdate


@dataclass(slots=True)
class Attempt:
    """A round from its opening to its end, or as far as it is; times in seconds since the epoch, 0: not yet."""

    opened: records.RoundOpened
    opened_at: float
    places: dict[str, str]
    fixed_at: float = 0.0
    ended_at: float = 0.0
    failed: str | None = None
    reason: str = ""
    missing: Missing | None = None
    accepted: dict[str, tuple[AcceptedUpdate, float]] = field(default_factory=dict)
    counting: dict[str, tuple[AcceptedUpdate, float]] = field(default_factory=dict)
    refused: dict[str, tuple[RefusedUpdate, float]] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)

    def take(self, record: Record, at: float) -> None:
        """Take note of a record."""
        match record:
            case records.UpdatesRecorded():
                for update in record.accepted:
                    self.accepted[update.client] = update, at
                    self.refused.pop(update.client, None)
                for withdrawn in record.withdrawn:
                    self.accepted.pop(withdrawn.client, None)
                    self.counting.pop(withdrawn.client, None)
                self.refused |= {refused.client: (refused, at) for refused in (*record.refused, *record.withdrawn)}
            case records.ClientsMoved():
                for client, combiner in record.moves.items():
                    self.places[client] = combiner
                    self.moves[client] = self.moves.get(client, 0) + 1
                    self.accepted.pop(client, None)
            case records.RoundClosing():
                # What a lost combiner held is sent again while closing: who had answered once has not answered later.
                known = self.accepted | self.counting
                self.counting = {one: known[one] for one in record.counted if one in known}
                self.fixed_at, self.reason = self.fixed_at or at, self.reason or record.reason
                self.missing = record.missing
            case records.RoundFailed():
                self.ended_at, self.failed, self.missing = at, record.reason, record.missing or self.missing
            case records.SessionEnded():
                self.ended_at, self.failed = at, record.reason
            case records.RoundClosed():
                self.ended_at = at
            case _:
                pass

    @property
    def state(self) -> Literal["training", "closing", "closed", "failed"]:
        """Where the round stands."""
        if self.failed is not None:
            return "failed"
        if self.ended_at:
            return "closed"
        return "closing" if self.fixed_at else "training"

    def why(self) -> str:
        """Say in a sentence why it ended as it did."""
        if not self.fixed_at and not self.ended_at:
            return "it is open"
        refused = {client: found.reason for client, (found, _) in self.refused.items()}
        return why(self.state, self.failed or self.reason, self.missing, refused)


@dataclass(slots=True)
class Rounds:
    """The round of a session that is ``wanted``, None: the newest; told of the session's records in order."""

    session: str
    wanted: int | None = None
    config: SessionConfig = field(default_factory=SessionConfig)
    plan: Plan = field(default_factory=Plan)
    attempt: Attempt | None = None
    earlier: list[str] = field(default_factory=list)

    def take(self, record: Record, at: float) -> None:
        """Take note of a record."""
        match record:
            case records.SessionStarted():
                self.config, self.plan = record.config, record.plan
            case records.RoundOpened() if self.wanted in (None, record.round):
                before = self.attempt
                again = before is not None and before.opened.round == record.round
                self.earlier = [*self.earlier, before.failed or ""] if again and before is not None else []
                self.attempt = Attempt(record, at, dict(record.clients))
            case _ if self.attempt is not None and not self.attempt.ended_at:
                self.attempt.take(record, at)
            case _:
                pass

    def report(self) -> RoundReport | None:
        """Return the report; None where there is no such round."""
        found = self.attempt
        if found is None:
            return None
        absent = known(found.missing)
        clients = [self._client(found, client, absent.get(client, "")) for client in found.places]
        return RoundReport(
            session=self.session,
            round=found.opened.round,
            state=found.state,
            why=found.why(),
            opened_at=found.opened_at,
            deadline_at=found.opened.deadline_at,
            fixed_at=found.fixed_at,
            ended_at=found.ended_at,
            asked=len(found.places),
            target=found.opened.target,
            quorum=quorum(self.config, self.plan),
            earlier=tuple(self.earlier),
            clients=tuple(sorted(clients, key=_slowest)),
            trace_id=trace_of(found.opened.traceparent),
        )

    def _client(self, found: Attempt, client: str, absent: str) -> ClientReport:
        where, moves = found.places[client], found.moves.get(client, 0)
        update, at = found.counting.get(client) or found.accepted.get(client) or (None, 0.0)
        if client in found.counting and update is not None:
            outcome: Outcome = "accepted" if found.failed is not None else "stale" if update.stale else "counted"
            return _of_update(update, outcome, at - found.opened_at, where, moves)
        if client in found.refused:
            refused, at = found.refused[client]
            text = f"{refused.stage}: {refused.reason}"
            return ClientReport(client, "refused", at - found.opened_at, where, text, refused.by, moves=moves)
        if update is not None:
            outcome = self._without(found, update.stale, "accepted", "lost")
            return _of_update(update, outcome, at - found.opened_at, where, moves)
        return ClientReport(client, self._without(found, 0, "waiting", "missed"), None, where, absent, moves=moves)

    def _without(self, found: Attempt, stale: int, while_open: Outcome, otherwise: Outcome) -> Outcome:
        """Return what becomes of a client whose update is not among those that count."""
        if found.failed is not None or not found.fixed_at:
            return while_open if found.failed is None or while_open == "accepted" else "missed"
        is_late = stale_max(self.config, self.plan) > stale and found.opened.round < self.config.rounds
        return "late" if is_late else otherwise


def _of_update(update: AcceptedUpdate, outcome: Outcome, seconds: float, where: str, moves: int) -> ClientReport:
    return ClientReport(
        update.client,
        outcome,
        seconds,
        where,
        weight=update.weight,
        stale=update.stale,
        moves=moves,
        nbytes=update.nbytes,
        fetched=update.fetched,
        norm=update.norm,
        metrics=update.metrics,
        spent=update.spent,
    )


def _slowest(one: ClientReport) -> tuple[bool, float, str]:
    return one.seconds is not None, -(one.seconds or 0.0), one.client
