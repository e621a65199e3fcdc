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

A receipt may say *late*: the update did not count in its round, and may yet in a later one. Then it is kept, or made to
the end, through rests and evaluations (these wait for it), and sent for the next round whose task allows one so old, in
place of a new one. A receipt also tells what can never count any more, whatever was missed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from fedbus.client.events import (
    Effect,
    Event,
    Foreign,
    Halted,
    Measured,
    Release,
    Report,
    Settled,
    StartEvaluating,
    StartSending,
    StartTraining,
    StopSending,
    StopWork,
    TaskSeen,
    Trained,
    WorkFailed,
)
from fedbus.messages import reports
from fedbus.messages.tasks import Evaluate, Receipt, Task, Train


class Phase(Enum):
    """What the client is doing for a session."""

    IDLE = "idle"
    TRAINING = "training"
    SENDING = "sending"
    HOLDING = "holding"
    EVALUATING = "evaluating"


@dataclass(slots=True)
class Machine:
    """The decisions of one client for one session.

    ``making``, ``held``: for which round an update is being made, or was. ``late``: what is being made is for a round
    that is closed.
    """

    session: str
    phase: Phase = Phase.IDLE
    revision: int = -1
    asked: str = "rest"
    train: Train | None = None
    evaluate: Evaluate | None = None
    making: int | None = None
    held: int | None = None
    late: bool = False
    failed: tuple[int, int] | None = None
    measured: tuple[int, str] | None = None
    work: int = 0

    def handle(self, event: Event) -> list[Effect]:
        """Take note of an event; returns what is to be done."""
        return _TABLE[type(event)](self, event)

    def check(self) -> None:
        """Assert what must hold after every step."""
        assert self.making is None or self.held is None, "training while an update is held"
        assert (self.phase is Phase.TRAINING) == (self.making is not None), "training for no round"
        if self.phase in (Phase.SENDING, Phase.HOLDING):
            assert self.train is not None and self.held is not None, "sending what is not held"
            assert self.train.round >= self.held, "sending for a round that was over before"
        if self.phase is Phase.EVALUATING:
            assert self.evaluate is not None

    @property
    def _made(self) -> int | None:
        """For which round there is an update, or will be."""
        return self.making if self.held is None else self.held

    def _task_seen(self, event: TaskSeen) -> list[Effect]:
        task = event.task
        if task.revision < self.revision:
            return []
        self.revision = task.revision
        effects = self._receive(task)
        if task.state == "train" and task.train is not None:
            self.asked = "train"
            return effects + self._wanted(task.train)
        if task.state == "evaluate" and task.evaluate is not None:
            self.asked = "evaluate"
            return effects + self._measure(task.evaluate)
        self.asked = "rest"
        return effects if self.late else effects + self._stop()

    def _wanted(self, train: Train) -> list[Effect]:
        """Train, or send again, unless that is what we do."""
        known, self.train = self.train, train
        if self._will_do(train):
            if self.phase is Phase.TRAINING:
                return []  # where to send is read when it is made
            same_place = known is not None and (known.attempt, known.combiner) == (train.attempt, train.combiner)
            if known is not None and known.round == train.round and same_place:
                return []
            effects = self._stop()
            return [*effects, *self._send(train)]
        if self.failed == (train.round, train.attempt):
            return self._stop()
        return self._begin(train)

    def _will_do(self, train: Train) -> bool:
        """Whether the update that there is, or is being made, is one for this task."""
        made = self._made
        return made is not None and (made == train.round or 0 < train.round - made <= train.stale_max)

    def _begin(self, train: Train) -> list[Effect]:
        effects = self._stop()
        # The task came with the newest receipt: what that left held counts in none of the rounds that are closed.
        lost = self.held is not None and self.held < train.round
        effects += self._forget(counted=False, reason="a later round has begun", lost=lost)
        self.phase, self.making = Phase.TRAINING, train.round
        self.work += 1
        return [*effects, StartTraining(train, self.work)]

    def _send(self, train: Train) -> list[Effect]:
        self.phase = Phase.SENDING
        return [StartSending(train)]

    def _measure(self, evaluate: Evaluate) -> list[Effect]:
        known, self.evaluate = self.evaluate, evaluate
        if self.late or self.measured == (evaluate.round, evaluate.version):
            return []
        if self.phase is Phase.EVALUATING and known is not None and known.version == evaluate.version:
            return []
        effects = self._stop()
        self.phase = Phase.EVALUATING
        return [*effects, StartEvaluating(evaluate)]

    def _stop(self) -> list[Effect]:
        """Leave whatever is being done; what is held stays held."""
        phase, self.phase = self.phase, Phase.IDLE
        if phase is Phase.TRAINING:
            self.making, self.late = None, False
        if phase in (Phase.TRAINING, Phase.EVALUATING):
            return [StopWork()]
        return [StopSending()] if phase is Phase.SENDING else []

    def _receive(self, task: Task) -> list[Effect]:
        """Forget what a receipt covers, unless it may yet count."""
        receipt, made = task.receipt, self._made
        if made is None:
            return []
        ended = task.state == "ended"
        if not ended and (receipt is None or receipt.round < made):
            return []
        if not ended and receipt is not None and receipt.late and receipt.settled < made:
            return self._keep(receipt)
        sent = self.train.round if self.train is not None else made
        effects = self._stop()
        if receipt is not None and receipt.round == max(sent, made):
            return effects + self._forget(counted=receipt.counted, reason=receipt.reason, lost=not receipt.counted)
        reason = "the session has ended" if ended else "a later round is closed"
        return effects + self._forget(counted=False, reason=reason)

    def _keep(self, receipt: Receipt) -> list[Effect]:
        """It counts nowhere yet, and may: go on making it, or hold it; where it is sent for a later round, go on."""
        if self.phase is Phase.TRAINING:
            self.late = True
        if self.phase not in (Phase.SENDING, Phase.HOLDING) or self.train is None or self.train.round > receipt.round:
            return []
        return self._stop()

    def _forget(self, *, counted: bool, reason: str, lost: bool = False) -> list[Effect]:
        held, self.held = self.held, None
        return [] if held is None else [Release(held, counted, reason, lost)]

    def _trained(self, event: Trained) -> list[Effect]:
        # The round alone would not tell: given up and opened again, a second training of it may be under way.
        if self.phase is not Phase.TRAINING or (self.making, self.work) != (event.round, event.work):
            return [Release(event.round, counted=False, reason="it was made for a round that is over", lost=True)]
        self.held, self.making, self.late, self.phase = event.round, None, False, Phase.IDLE
        return self._go_on()

    def _go_on(self) -> list[Effect]:
        """Training has ended: do what is asked by now."""
        if self.asked == "evaluate" and self.evaluate is not None:
            return self._measure(self.evaluate)
        if self.asked != "train" or self.train is None:
            return []
        return self._begin(self.train) if self.held is None else self._send(self.train)

    def _work_failed(self, event: WorkFailed) -> list[Effect]:
        evaluating = self.phase is Phase.EVALUATING and event.stage == "evaluate"
        if evaluating and self.evaluate is not None and self.evaluate.round == event.round:
            self.measured, self.phase = (event.round, self.evaluate.version), Phase.IDLE
            return [self._failure(event, 0)]
        if self.phase is not Phase.TRAINING or event.work != self.work:
            return []
        made, self.making, self.late, self.phase = self.making, None, False, Phase.IDLE
        if self.asked != "train" or self.train is None or self.train.round != made:
            return self._go_on()  # its own round is closed: nobody waits for the reason
        self.failed = (self.train.round, self.train.attempt)
        return [self._failure(event, self.train.attempt)]

    def _foreign(self, event: Foreign) -> list[Effect]:
        if self.phase is not Phase.SENDING or self.train is None or self.held != event.round:
            return []
        self.phase = Phase.IDLE
        return [*self._forget(counted=False, reason=event.reason), *self._begin(self.train)]

    def _halted(self, event: Halted) -> list[Effect]:
        """Stop, whatever is being done; the same task, seen again, is then as good as new."""
        effects = self._stop()
        self.asked, self.train, self.evaluate, self.late = "rest", None, None, False
        if event.forget:
            effects += self._forget(counted=False, reason="its owner has left the session", lost=True)
        return effects

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
            sums=event.sums,
        )
        return [Report(body)]


_TABLE: dict[type[Event], Callable[..., list[Effect]]] = {
    TaskSeen: Machine._task_seen,
    Trained: Machine._trained,
    WorkFailed: Machine._work_failed,
    Settled: Machine._settled,
    Measured: Machine._measured,
    Foreign: Machine._foreign,
    Halted: Machine._halted,
}
