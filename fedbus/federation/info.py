"""A session as its journal tells it: `SessionSummary` in one line, `SessionInfo` with its rounds.

Both are folds over the records of one session in their order: `apply` is told of each. A session whose journal is
written again begins with a new one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, get_args

from fedbus.config.session import SessionConfig
from fedbus.federation.report import trace_of, why
from fedbus.messages import records
from fedbus.messages.records import AcceptedUpdate, Record, RefusedUpdate

Status = Literal["starting", "waiting", "running", "completed", "stopped", "failed", "refused"]
"""Where a session stands; ``waiting``: for clients, before a round; ``running``: training, merging, evaluating."""

ENDED: tuple[Status, ...] = ("completed", "stopped", "failed", "refused")

BETWEEN_S = 2.0
"""After a round the next one opens at once, or clients are waited for: after so long it is the latter."""

INTERVALS = 10
"""Rounds of which the median says how long the rest takes: the last ones, sessions grow slower and quicker."""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that became true in a session.

    ``kind``: name of the record; ``data``: the record; ``at``: seconds since the epoch. ``index``: the how manieth of
    the records of its entry of the journal, whose ``sequence`` they share, from 0 on.
    """

    session: str
    sequence: int
    at: float
    kind: str
    data: Record
    index: int = 0

    @property
    def id(self) -> str:
        """What names it for good, as long as its journal stands: ``<sequence>.<index>``."""
        return f"{self.sequence}.{self.index}"


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How a session ended: its newest model, and the metrics of its last evaluation.

    ``best_version``: the one with the best ``best_metric``, which was ``best_value``; none where the session has none.
    """

    session: str
    outcome: str
    reason: str
    model_version: str
    digest: str
    metrics: Mapping[str, float]
    rounds: int
    best_version: str = ""
    best_value: float | None = None


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """One round, closed unless its ``state`` says otherwise.

    ``seconds``: from opening to closing; ``metrics``: of the evaluation, empty if there was none; ``why``: in a
    sentence, why it closed when it did (`Session.report` says more). ``counted``: of one that is open, updates that
    were accepted so far; ``asked``, ``refused``: clients. ``closed_at``: 0 while it is open.
    """

    round: int
    version: str
    counted: int
    not_counted: Mapping[str, str]
    seconds: float
    bytes_up: int
    bytes_down: int
    train_metrics: Mapping[str, float]
    metrics: Mapping[str, float]
    why: str = ""
    state: Literal["training", "closing", "closed", "failed"] = "closed"
    asked: int = 0
    refused: int = 0
    opened_at: float = 0.0
    closed_at: float = 0.0
    trace_id: str = ""


@dataclass(slots=True)
class SessionSummary:
    """A session in one line: its size does not depend on its rounds.

    ``base``: the published version that it began with, '' where it brought its own arrays; ``first_version``: what
    that was called in this session. ``changed_at``: of the newest record. ``failures``: attempts at rounds that
    failed. ``closed_at``: when the last rounds were closed, oldest first.
    """

    session: str
    state: str = "starting"
    reason: str = ""
    by: str = ""
    base: str = ""
    first_version: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    changed_at: float = 0.0
    config: SessionConfig = field(default_factory=SessionConfig)
    version: str = ""
    digest: str = ""
    nbytes: int = 0
    round: int = 0
    rounds_closed: int = 0
    failures: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_version: str = ""
    best_value: float | None = None
    closed_at: tuple[float, ...] = ()
    _standing: Literal["starting", "waiting", "between", "running", "ended"] = "starting"

    def apply(self, record: Record, at: float) -> None:  # noqa: C901 - one case a record, nothing nested
        """Take note of a record."""
        self.changed_at = at
        match record:
            case records.SessionStarted():
                self.config, self.by, self.started_at, self.state = record.config, record.by, at, "waiting for clients"
                self.version, self.digest, self.nbytes = record.version, record.digest, record.nbytes
                self.base, self.first_version, self._standing = record.base, record.version, "waiting"
            case records.RoundOpened():
                self.round, self.state, self._standing = record.round, f"round {record.round}: training", "running"
                self.closed_at = self.closed_at or (at,)
            case records.RoundClosing():
                self.state = f"round {record.round}: merging"
            case records.RoundFailed():
                self.state, self.reason = f"round {record.round} failed", record.reason
                self.failures, self._standing = self.failures + 1, "between"
            case records.ModelPublished():
                self.version, self.digest, self.nbytes = record.version, record.digest, record.nbytes
            case records.RoundClosed():
                self.state, self._standing = f"round {record.round} closed", "between"
                self.rounds_closed, self.closed_at = record.round, (*self.closed_at[-INTERVALS:], at)
                self.bytes_up, self.bytes_down = self.bytes_up + record.bytes_up, self.bytes_down + record.bytes_down
            case records.EvaluationOpened():
                self.state = f"round {record.round}: evaluating" if self.config.rounds else "evaluating"
                self._standing = "running"
            case records.RoundEvaluated():
                self._measure(record)
            case records.SessionEnded():
                self.state, self.reason, self.ended_at, self._standing = record.outcome, record.reason, at, "ended"
            case records.UpdatesRecorded() | records.ClientsMoved():
                pass

    def _measure(self, record: records.RoundEvaluated) -> None:
        self.metrics, self.state, self._standing = dict(record.metrics), f"round {record.round} evaluated", "between"
        # The model that is evaluated is fetched for it, and is not fetched again for the round that follows.
        self.bytes_down += sum(measured.fetched for measured in record.clients)
        value = self.config.best_value(record.metrics)
        if value is not None and (self.best_value is None or self.config.is_better(value, self.best_value)):
            self.best_version, self.best_value = record.version, value

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.ended_at > 0

    def status(self, now: float) -> Status:
        """Return where it stands at a time (seconds since the epoch)."""
        match self._standing:
            case "ended":
                return next((outcome for outcome in get_args(Status) if outcome == self.state), "failed")
            case "between":
                return "waiting" if now - self.changed_at > BETWEEN_S else "running"
            case "starting" | "waiting" | "running":
                return self._standing

    def left_s(self, now: float) -> float | None:
        """Return about how many seconds its other rounds take, by the median of its last; None where nobody knows.

        That is before the first round is closed, and when it has ended. It ends sooner where a target is reached.
        """
        left = self.config.rounds - self.rounds_closed
        if self.ended or left < 0 or len(self.closed_at) < 2:
            return None
        times = self.closed_at
        median = statistics.median(later - earlier for earlier, later in pairwise(times))
        since_s = max(0.0, now - times[-1])
        # a round that takes longer may end at any moment, and those behind it take their time all the same
        return max(0.0, median * left - min(median, since_s))


@dataclass(slots=True)
class _Open:
    """The round under way, or the last one that failed."""

    round: int
    version: str
    asked: int
    opened_at: float
    trace_id: str
    state: Literal["training", "closing", "failed"] = "training"
    accepted: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    closing: records.RoundClosing | None = None
    failed_at: float = 0.0
    why: str = ""


@dataclass(slots=True)
class SessionInfo(SessionSummary):
    """A session with its rounds: everything but the tensors. ``rounds``: those that are closed.

    ``refused``: round, client and reason of every update that was. ``declined``: clients whose owners did not want it
    when they were asked last, and why.
    """

    rounds: list[RoundInfo] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)
    _open: _Open | None = None

    def apply(self, record: Record, at: float) -> None:
        """Take note of a record."""
        SessionSummary.apply(self, record, at)
        match record:
            case records.RoundOpened():
                asked, trace = len(record.clients), trace_of(record.traceparent)
                self._open = _Open(record.round, record.version, asked, at, trace)
            case records.UpdatesRecorded():
                refusals = (*record.refused, *record.withdrawn)
                self.refused += [(record.round, refused.client, refused.reason) for refused in refusals]
                self._note_declined(record.accepted, refusals)
                self._take(record)
            case records.ClientsMoved() if self._open:
                for client in record.moves:
                    self._open.accepted.pop(client, None)
            case records.RoundClosing() if self._open:
                # Sent again, or merged along another way: why it was closed at all stood in the first.
                reason = self._open.closing.reason if self._open.closing else record.reason
                self._open.closing, self._open.state = record.model_copy(update={"reason": reason}), "closing"
            case records.RoundFailed() if self._open:
                refused = self._open.refused
                self._open.state, self._open.failed_at = "failed", at
                self._open.why = why("failed", record.reason, record.missing, refused)
            case records.RoundClosed():
                self._close(record, at)
            case records.RoundEvaluated():
                self._note_declined((), record.declined)
                self._evaluate(record)
            case _:
                pass

    def _note_declined(self, accepted: Sequence[AcceptedUpdate], refused: Sequence[RefusedUpdate]) -> None:
        for update in accepted:
            self.declined.pop(update.client, None)
        self.declined |= {one.client: one.reason for one in refused if one.declined}

    def _take(self, record: records.UpdatesRecorded) -> None:
        if self._open is None:
            return
        for withdrawn in record.withdrawn:
            self._open.accepted.pop(withdrawn.client, None)
        refusals = (*record.refused, *record.withdrawn)
        self._open.refused |= {refused.client: refused.reason for refused in refusals}
        for accepted in record.accepted:
            self._open.refused.pop(accepted.client, None)
            self._open.accepted[accepted.client] = accepted.nbytes, accepted.fetched

    def _close(self, record: records.RoundClosed, at: float) -> None:
        found = self._open or _Open(record.round, "", 0, record.opened_at, "")
        self._open = None
        closing, refused = found.closing, found.refused
        self.rounds.append(
            RoundInfo(
                round=record.round,
                version=self.version,
                counted=record.counted,
                not_counted=record.not_counted,
                seconds=at - record.opened_at,
                bytes_up=record.bytes_up,
                bytes_down=record.bytes_down,
                train_metrics=record.metrics,
                metrics={},
                why=why("closed", closing.reason, closing.missing, refused) if closing else "",
                asked=found.asked,
                refused=len(refused),
                opened_at=record.opened_at,
                closed_at=at,
                trace_id=found.trace_id,
            )
        )

    def _evaluate(self, record: records.RoundEvaluated) -> None:
        if self.rounds and self.rounds[-1].round == record.round:
            fetched = sum(measured.fetched for measured in record.clients)
            last = self.rounds[-1]
            self.rounds[-1] = replace(last, metrics=record.metrics, bytes_down=last.bytes_down + fetched)

    @property
    def current(self) -> RoundInfo | None:
        """The round that is open, or the last attempt at it that failed; None between rounds.

        Its ``seconds`` are until it failed, or until the newest record.
        """
        found = self._open
        if found is None:
            return None
        until = found.failed_at or self.changed_at
        return RoundInfo(
            round=found.round,
            version="",
            counted=len(found.accepted),
            not_counted={},
            seconds=until - found.opened_at,
            bytes_up=sum(nbytes for nbytes, _ in found.accepted.values()),
            bytes_down=sum(fetched for _, fetched in found.accepted.values()),
            train_metrics={},
            metrics={},
            why=found.why,
            state=found.state,
            asked=found.asked,
            refused=len(found.refused),
            opened_at=found.opened_at,
            closed_at=found.failed_at,
            trace_id=found.trace_id,
        )
