"""The state of one session: a fold over its journal, and over nothing else.

`apply` is the only way to change it; two coordinators that read the same journal hold the same state, whatever else
they have seen. A record that does not fit the state is a defect of ours and fails an assertion, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, cast

from fedbus.config.session import SessionConfig
from fedbus.coordinator.history import answered, asked_again, counted_in, remembers
from fedbus.messages import records
from fedbus.messages.plans import Plan, clients_needed, fold_weight, quorum, stale_max
from fedbus.messages.records import AcceptedUpdate, Record, RefusedUpdate, RoundClosing
from fedbus.messages.tasks import Receipt
from fedbus.selection import Candidate


class Phase(Enum):
    """Where a session stands (drawn in `fedbus.coordinator.machine`)."""

    NEW = "new"
    GATHERING = "gathering"
    TRAINING = "training"
    CLOSING = "closing"
    EVALUATING = "evaluating"
    ENDED = "ended"


@dataclass(slots=True)
class RoundState:
    """The round under way.

    ``attempts`` and ``places``: as what, and to which combiner, each client sends. ``shards``: where chunks are shared
    out, the combiners in the order of their parts; ``shared_out``: the attempt from which on it is so, or is not any
    more. ``withdrawn``: whose owners took updates back, which nobody may accept any more. ``counting``: the updates
    of ``closing.counted`` as they were when the set was fixed; they stay what the round is made of when a combiner that
    held some of them is lost later.
    """

    number: int
    attempt: int
    version: str
    blob: str
    places: dict[str, str]
    attempts: dict[str, int]
    incarnations: dict[str, str]
    target: int
    deadline_at: float
    opened_at: float
    traceparent: str
    digest: str = ""
    shards: tuple[str, ...] = ()
    shared_out: int = 0
    accepted: dict[str, AcceptedUpdate] = field(default_factory=dict)
    refused: dict[str, RefusedUpdate] = field(default_factory=dict)
    withdrawn: dict[str, None] = field(default_factory=dict)
    closing: RoundClosing | None = None
    counting: dict[str, AcceptedUpdate] = field(default_factory=dict)

    @property
    def missing(self) -> Iterable[str]:
        """The clients of which nothing is known yet, in the order in which they were named (by name)."""
        return (c for c in self.places if c not in self.accepted and c not in self.refused)

    @property
    def missing_count(self) -> int:
        """How many clients nothing is known of; no look at each of them."""
        return len(self.places) - len(self.accepted) - len(self.refused)

    def copied(self) -> RoundState:
        """Return another round that may go its own way."""
        return replace(
            self,
            places=dict(self.places),
            attempts=dict(self.attempts),
            incarnations=dict(self.incarnations),
            accepted=dict(self.accepted),
            refused=dict(self.refused),
            withdrawn=dict(self.withdrawn),
        )


@dataclass(frozen=True, slots=True)
class EvaluationState:
    """The evaluation under way; ``clients`` are those that are asked, by name."""

    round: int
    version: str
    blob: str
    clients: dict[str, None]
    deadline_at: float
    opened_at: float
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Best:
    """The version that an evaluation found to be better than all before it, by ``best_metric``."""

    round: int
    version: str
    blob: str
    value: float


@dataclass(slots=True)
class SessionState:
    """Everything that the journal of a session says.

    ``plan``: what its strategy asks of the rounds. ``model``: the newest version, as the catalogue has it. ``kept``:
    the versions that are kept, oldest first; ``expired``: those that need not be kept any longer. ``litter``:
    blobs of the last round that no version is made of. ``evaluated``: the last round whose version was, which gave
    ``metrics`` of so many ``answered`` clients, or why there are none (``lacking``); -1: the session has no rounds, and
    its model is still to be evaluated. ``without_better``: evaluations since the ``best``.
    ``asked``: everybody who was ever asked for anything. ``history``: what each did so far, where the selection goes by
    it. ``by``: who started it. ``declined``, ``declined_evaluation``: clients whose owners did not want to train, or to
    evaluate (`fedbus.coordinator.willing`). ``held``: its journal is being written again, and not whole.
    """

    session: str
    phase: Phase = Phase.NEW
    config: SessionConfig = field(default_factory=SessionConfig)
    plan: Plan = field(default_factory=Plan)
    version: str = ""
    blob: str = ""
    digest: str = ""
    nbytes: int = 0
    model: records.ModelPublished | None = None
    rounds_closed: int = 0
    round: RoundState | None = None
    evaluation: EvaluationState | None = None
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    answered: int = 0
    lacking: str = ""
    best: Best | None = None
    without_better: int = 0
    failures: int = 0
    attempt: int = 0
    kept: tuple[records.ModelPublished, ...] = ()
    expired: tuple[records.ModelPublished, ...] = ()
    litter: tuple[str, ...] = ()
    receipts: dict[str, Receipt] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)
    history: dict[str, Candidate] = field(default_factory=dict)
    by: str = ""
    declined: dict[str, RefusedUpdate] = field(default_factory=dict)
    declined_evaluation: dict[str, RefusedUpdate] = field(default_factory=dict)
    since_at: float = 0.0
    outcome: str = ""
    reason: str = ""
    sequence: int = 0
    held: bool = False

    @property
    def open_round(self) -> RoundState:
        """The round under way; asserts that there is one."""
        assert self.round is not None, f"{self.session}: no round is under way"
        return self.round

    @property
    def stale_max(self) -> int:
        """Of how many rounds ago an update may be that counts."""
        return stale_max(self.config, self.plan)

    @property
    def sharding(self) -> Literal["clients", "chunks"]:
        """What combiners share out: a strategy may need a part of every update, or all of them, at one place."""
        if self.plan.single:
            return "clients"
        return "chunks" if self.plan.whole else self.config.sharding

    @property
    def quorum(self) -> int:
        """Updates with which a round may close at its deadline."""
        return quorum(self.config, self.plan)

    @property
    def clients_needed(self) -> int:
        """Clients that must be there before a round opens.

        An asynchronous session that has begun goes on with as many as make a version.
        """
        return self.quorum if self.plan.buffer and self.rounds_closed else clients_needed(self.config, self.plan)

    def fold_weight(self, update: AcceptedUpdate) -> float:
        """Return the weight with which an update is folded; `BadUpdate` where it has none."""
        return fold_weight(self.plan, update.weight, update.metrics, update.stale)

    @property
    def counted(self) -> tuple[str, ...]:
        """The clients whose updates count in the round under way; none before that is decided."""
        closing = self.open_round.closing
        return closing.counted if closing else ()

    def copied(self) -> SessionState:
        """Return another state that may go its own way: what follows from records that are not journalled yet."""
        return replace(
            self,
            round=self.round.copied() if self.round else None,
            receipts=dict(self.receipts),
            asked=dict(self.asked),
            history=dict(self.history),
            declined=dict(self.declined),
            declined_evaluation=dict(self.declined_evaluation),
        )


def settled(state: SessionState, client: str) -> int:
    """Return up to which round a client's updates are settled: the last in which it was counted or refused."""
    receipt = state.receipts.get(client)
    if receipt is None:
        return 0
    return receipt.settled if receipt.late else receipt.round


def is_late(state: SessionState, current: RoundState, client: str) -> bool:
    """Whether the round, closed as it stands, leaves a client's update for a later one (`fedbus.coordinator.late`)."""
    if client in current.counting or client in current.refused or current.number >= state.config.rounds:
        return False
    update = current.accepted.get(client)
    return state.stale_max > (update.stale if update else 0)


def apply(state: SessionState, record: Record, at: float) -> None:
    """Change the state by one record that was journalled at ``at``."""
    _APPLY[type(record)](state, record, at)


def _started(state: SessionState, record: records.SessionStarted, at: float) -> None:
    assert state.phase is Phase.NEW
    state.phase, state.since_at = Phase.GATHERING, at
    state.config, state.plan, state.by = record.config, record.plan, record.by
    state.evaluated = 0 if record.config.rounds else -1
    _hold(state, record.model(state.session, at))


def _hold(state: SessionState, model: records.ModelPublished) -> None:
    """Go on from a version."""
    state.model = model
    state.version, state.blob, state.digest, state.nbytes = model.version, model.blob, model.digest, model.nbytes
    if state.config.versions_kept is not None:
        kept = (*state.kept, model)
        best = state.best.blob if state.best else ""
        older, newest = kept[: -state.config.versions_kept], kept[-state.config.versions_kept :]
        state.kept = (*(one for one in older if one.blob == best), *newest)
        state.expired = tuple(one for one in older if one.blob != best)


def _digest(state: SessionState, blob: str) -> str:
    """Return the digest of the version that is gone on from; '' of another, which no release of ours asks for."""
    return state.digest if state.blob == blob else ""


def _opened(state: SessionState, record: records.RoundOpened, at: float) -> None:
    assert state.phase is Phase.GATHERING and record.round == state.rounds_closed + 1
    assert record.attempt > state.attempt
    state.phase, state.attempt = Phase.TRAINING, record.attempt
    state.litter = state.litter if record.attempt > 1 else ()
    state.round = RoundState(
        number=record.round,
        attempt=record.attempt,
        version=record.version,
        blob=record.blob,
        places=dict(record.clients),
        attempts=dict.fromkeys(record.clients, record.attempt),
        incarnations=dict(record.incarnations),
        target=record.target,
        deadline_at=record.deadline_at,
        opened_at=at,
        traceparent=record.traceparent,
        digest=_digest(state, record.blob),
        shards=record.shards,
    )
    state.asked |= dict.fromkeys(record.clients)
    if remembers(state.config):
        state.history |= asked_again(state.history, record.clients)


def _updates(state: SessionState, record: records.UpdatesRecorded, at: float) -> None:
    current = state.open_round
    assert record.round == current.number
    for accepted in record.accepted:
        assert accepted.attempt == current.attempts[accepted.client], "an update of an attempt that was replaced"
        current.accepted[accepted.client] = accepted
        current.refused.pop(accepted.client, None)
        state.declined.pop(accepted.client, None)
    for refused in record.refused:
        if refused.client not in current.accepted:
            current.refused[refused.client] = refused
    for withdrawn in record.withdrawn:
        current.accepted.pop(withdrawn.client, None)
        current.refused[withdrawn.client] = withdrawn
        current.withdrawn[withdrawn.client] = None
    for declined in (*record.refused, *record.withdrawn):
        if declined.declined:
            state.declined[declined.client] = declined
    if remembers(state.config):
        state.history |= answered(state.history, record.accepted, at - current.opened_at)


def _moved(state: SessionState, record: records.ClientsMoved, at: float) -> None:
    current = state.open_round
    assert record.round == current.number and record.attempt > state.attempt
    state.attempt = current.attempt = record.attempt
    current.incarnations |= record.incarnations
    if current.shards or record.shards:
        current.shared_out = record.attempt
    current.shards = record.shards
    for client, combiner in record.moves.items():
        current.places[client] = combiner
        current.attempts[client] = record.attempt
        current.accepted.pop(client, None)


def _closing(state: SessionState, record: RoundClosing, at: float) -> None:
    assert state.phase in (Phase.TRAINING, Phase.CLOSING) and record.attempt > state.attempt
    state.phase, state.attempt = Phase.CLOSING, record.attempt
    current = state.open_round
    _litter(state)
    current.attempt, current.closing = record.attempt, record
    current.counting = {client: current.accepted[client] for client in record.counted}


def _litter(state: SessionState) -> None:
    """Note the blob of a closing that comes to nothing: a root may have stored some of it."""
    if state.round is not None and state.round.closing is not None:
        state.litter += (state.round.closing.publish,)


def _failed(state: SessionState, record: records.RoundFailed, at: float) -> None:
    assert state.phase in (Phase.TRAINING, Phase.CLOSING)
    state.phase, state.since_at, state.reason = Phase.GATHERING, at, record.reason
    state.failures += 1
    _litter(state)
    state.round = None


def _published(state: SessionState, record: records.ModelPublished, at: float) -> None:
    assert state.phase is Phase.CLOSING and record.round == state.rounds_closed + 1, "versions strictly increase"
    _hold(state, record)


def _closed(state: SessionState, record: records.RoundClosed, at: float) -> None:
    current = state.open_round
    assert state.phase is Phase.CLOSING and record.round == current.number
    counted = set(current.closing.counted) if current.closing else set()
    made: dict[tuple[bool, str, bool, int], Receipt] = {}  # most are the same: one value for all of them
    for client in current.places:
        late = is_late(state, current, client)
        what = client in counted, record.not_counted.get(client, ""), late, settled(state, client) if late else 0
        state.receipts[client] = made.get(what) or made.setdefault(
            what, Receipt(round=record.round, counted=what[0], reason=what[1], late=what[2], settled=what[3])
        )
    if remembers(state.config):
        state.history |= counted_in(state.history, counted, record.round)
    state.phase, state.since_at, state.round = Phase.GATHERING, at, None
    state.rounds_closed, state.failures, state.attempt = record.round, 0, 0


def _evaluation(state: SessionState, record: records.EvaluationOpened, at: float) -> None:
    assert state.phase is Phase.GATHERING
    state.phase = Phase.EVALUATING
    state.evaluation = EvaluationState(
        record.round, record.version, record.blob, dict.fromkeys(record.clients), record.deadline_at, opened_at=at,
        digest=_digest(state, record.blob),
    )  # fmt: skip
    state.asked |= state.evaluation.clients


def _evaluated(state: SessionState, record: records.RoundEvaluated, at: float) -> None:
    state.phase, state.since_at, state.evaluation = Phase.GATHERING, at, None
    state.evaluated, state.metrics = record.round, dict(record.metrics)
    state.answered, state.lacking = record.answered, record.reason
    state.declined_evaluation |= {declined.client: declined for declined in record.declined}
    value = state.config.best_value(record.metrics)
    if value is not None and (state.best is None or state.config.is_better(value, state.best.value)):
        state.best, state.without_better = Best(record.round, record.version, state.blob, value), 0
    else:
        state.without_better += 1


def _ended(state: SessionState, record: records.SessionEnded, at: float) -> None:
    state.phase, state.outcome, state.reason = Phase.ENDED, record.outcome, record.reason
    _litter(state)
    state.round = state.evaluation = None


_APPLY = cast(
    "dict[type[Record], Callable[[SessionState, Record, float], None]]",
    {
        records.SessionStarted: _started,
        records.RoundOpened: _opened,
        records.UpdatesRecorded: _updates,
        records.ClientsMoved: _moved,
        records.RoundClosing: _closing,
        records.RoundFailed: _failed,
        records.ModelPublished: _published,
        records.RoundClosed: _closed,
        records.EvaluationOpened: _evaluation,
        records.RoundEvaluated: _evaluated,
        records.SessionEnded: _ended,
    },
)
