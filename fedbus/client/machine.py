"""What a client does about one session: which work to start, what to hold, what to send where, what to forget.

            Task(train)                Trained                  Settled(accepted)
   IDLE ------------------> TRAINING -----------> SENDING ---------------------------> HOLDING
    ^ ^                        |                   ^  |  |                               |  |
    | | receipt, rest, ended   | raised: report    |  |  | Settled(refused)              |  | Task: higher attempt,
    | +---(from any phase)-----+                   |  |  +--------> IDLE (held)          |  | another combiner
    |                                              |  |                                  |  |
    |                                              +--+---- Task: another combiner ------+--+
    |       Task(evaluate)               Evaluated: report
    +------------------------ EVALUATING ----------------+

The update of a round is held from the end of training until a receipt covers its round, whatever a combiner says: a
combiner that loses it asks for it through the coordinator, as a higher attempt. A task is a state; the same one twice
changes nothing, an older one is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from fedbus.messages import reports
from fedbus.messages.tasks import Evaluate, Task, Train


class Phase(Enum):
    """What the client is doing for a session."""

    IDLE = "idle"
    TRAINING = "training"
    SENDING = "sending"
    HOLDING = "holding"
    EVALUATING = "evaluating"


# --- events ---


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """What the coordinator wants."""

    task: Task


@dataclass(frozen=True, slots=True)
class Trained:
    """The update of a round is made and held; ``work`` is that of the `StartTraining` that asked for it."""

    round: int
    work: int


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """The model could not be fetched, or the app raised, or what it returned is no update."""

    round: int
    stage: str
    reason: str
    work: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """The combiner's verdict."""

    round: int
    attempt: int
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Measured:
    """The app has evaluated."""

    round: int
    version: str
    weight: float
    metrics: dict[str, float]
    fetched: int


Event = TaskSeen | Trained | WorkFailed | Settled | Measured

# --- effects ---


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Fetch the model and train; then say `Trained` or `WorkFailed` with the same ``work``."""

    train: Train
    work: int


@dataclass(frozen=True, slots=True)
class StartEvaluating:
    """Fetch the model and evaluate; then say `Measured` or `WorkFailed`."""

    evaluate: Evaluate


@dataclass(frozen=True, slots=True)
class StopWork:
    """Give up training or evaluating."""


@dataclass(frozen=True, slots=True)
class StartSending:
    """Send the held update; then say `Settled`."""

    train: Train


@dataclass(frozen=True, slots=True)
class StopSending:
    """Give up sending; the update stays held."""


@dataclass(frozen=True, slots=True)
class Release:
    """Forget the held update: its round is closed. ``counted`` says whether it is part of the model."""

    round: int
    counted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the coordinator, until it has it."""

    body: reports.TaskFailed | reports.Evaluated


Effect = StartTraining | StartEvaluating | StopWork | StartSending | StopSending | Release | Report


@dataclass(slots=True)
class Machine:
    """The decisions of one client for one session."""

    session: str
    phase: Phase = Phase.IDLE
    revision: int = -1
    train: Train | None = None
    evaluate: Evaluate | None = None
    held: int | None = None
    failed: tuple[int, int] | None = None
    measured: tuple[int, str] | None = None
    work: int = 0

    def handle(self, event: Event) -> list[Effect]:
        """Take note of an event; returns what is to be done."""
        return _TABLE[type(event)](self, event)

    def check(self) -> None:
        """Assert what must hold after every step."""
        if self.phase in (Phase.SENDING, Phase.HOLDING):
            assert self.train is not None and self.held == self.train.round, "sending what is not held"
        if self.phase is Phase.TRAINING:
            assert self.train is not None and self.held != self.train.round, "training twice for one round"
        if self.phase is Phase.EVALUATING:
            assert self.evaluate is not None

    def _task_seen(self, event: TaskSeen) -> list[Effect]:
        task = event.task
        if task.revision < self.revision:
            return []
        self.revision = task.revision
        effects = self._receive(task)
        if task.state == "train" and task.train is not None:
            effects += self._wanted(task.train)
        elif task.state == "evaluate" and task.evaluate is not None:
            effects += self._measure(task.evaluate)
        else:
            effects += self._stop()
        return effects

    def _wanted(self, train: Train) -> list[Effect]:
        """Train, or send again, unless that is what we do."""
        known, self.train = self.train, train
        same_round = known is not None and known.round == train.round
        if self.phase is Phase.TRAINING and same_round:
            return []  # where to send is read when it is made
        if self.held == train.round:
            same_place = known is not None and (known.attempt, known.combiner) == (train.attempt, train.combiner)
            if same_round and same_place and self.phase in (Phase.SENDING, Phase.HOLDING, Phase.IDLE):
                return []
            effects = self._stop()
            self.train, self.phase = train, Phase.SENDING
            return [*effects, StartSending(train)]
        if self.failed == (train.round, train.attempt):
            return []
        effects = self._stop()
        effects += self._forget(counted=False, reason="a later round has begun")
        self.train, self.phase = train, Phase.TRAINING
        self.work += 1
        return [*effects, StartTraining(train, self.work)]

    def _measure(self, evaluate: Evaluate) -> list[Effect]:
        known, self.evaluate = self.evaluate, evaluate
        if self.measured == (evaluate.round, evaluate.version):
            return []
        if self.phase is Phase.EVALUATING and known is not None and known.version == evaluate.version:
            return []
        effects = self._stop()
        self.evaluate, self.phase = evaluate, Phase.EVALUATING
        return [*effects, StartEvaluating(evaluate)]

    def _stop(self) -> list[Effect]:
        """Leave whatever is being done; what is held stays held."""
        phase, self.phase = self.phase, Phase.IDLE
        if phase in (Phase.TRAINING, Phase.EVALUATING):
            return [StopWork()]
        return [StopSending()] if phase is Phase.SENDING else []

    def _receive(self, task: Task) -> list[Effect]:
        """Forget what a receipt covers."""
        receipt = task.receipt
        ended = task.state == "ended"
        if self.held is None or not (ended or (receipt is not None and receipt.round >= self.held)):
            return []
        stopped = self._stop()
        if receipt is not None and receipt.round == self.held:
            return stopped + self._forget(counted=receipt.counted, reason=receipt.reason)
        return stopped + self._forget(
            counted=False, reason="the session has ended" if ended else "a later round is closed"
        )

    def _forget(self, *, counted: bool, reason: str) -> list[Effect]:
        if self.held is None:
            return []
        held, self.held = self.held, None
        return [Release(held, counted, reason)]

    def _trained(self, event: Trained) -> list[Effect]:
        # The round alone would not tell: given up and opened again, a second training of it may be under way.
        made = self.train is not None and (self.train.round, self.work) == (event.round, event.work)
        if self.phase is not Phase.TRAINING or self.train is None or not made:
            return [Release(event.round, counted=False, reason="it was made for a round that is over")]
        self.held, self.phase = event.round, Phase.SENDING
        return [StartSending(self.train)]

    def _work_failed(self, event: WorkFailed) -> list[Effect]:
        evaluating = self.phase is Phase.EVALUATING and event.stage == "evaluate"
        if evaluating and self.evaluate is not None and self.evaluate.round == event.round:
            self.measured, self.phase = (event.round, self.evaluate.version), Phase.IDLE
            return [self._failure(event, 0)]
        if self.phase is Phase.TRAINING and self.train is not None and event.work == self.work:
            self.failed, self.phase = (event.round, self.train.attempt), Phase.IDLE
            return [self._failure(event, self.train.attempt)]
        return []

    def _failure(self, event: WorkFailed, attempt: int) -> Report:
        return Report(
            reports.TaskFailed(
                session=self.session, round=event.round, attempt=attempt, stage=event.stage, reason=event.reason[:2000]
            )
        )

    def _settled(self, event: Settled) -> list[Effect]:
        if self.phase is not Phase.SENDING or self.train is None:
            return []
        if (event.round, event.attempt) != (self.train.round, self.train.attempt):
            return []
        self.phase = Phase.HOLDING if event.accepted else Phase.IDLE
        return []

    def _measured(self, event: Measured) -> list[Effect]:
        if self.phase is not Phase.EVALUATING or self.evaluate is None or self.evaluate.version != event.version:
            return []
        self.measured, self.phase = (event.round, event.version), Phase.IDLE
        body = reports.Evaluated(
            session=self.session,
            round=event.round,
            version=event.version,
            weight=event.weight,
            metrics=event.metrics,
            fetched=event.fetched,
        )
        return [Report(body)]


_TABLE: dict[type[Event], Callable[..., list[Effect]]] = {
    TaskSeen: Machine._task_seen,
    Trained: Machine._trained,
    WorkFailed: Machine._work_failed,
    Settled: Machine._settled,
    Measured: Machine._measured,
}
