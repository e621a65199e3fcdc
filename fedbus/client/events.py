"""What a client's machine may be told, and what it may ask for: frozen values, nothing else crosses its border."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedbus.messages import reports
from fedbus.messages.tasks import Evaluate, Task, Train

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
    sums: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Foreign:
    """The held update is not of this session: a former process made it, of another model."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Halted:
    """Its owner does not want it: nothing is done until a task is seen again. ``forget``: nor is anything kept."""

    forget: bool = False


Event = TaskSeen | Trained | WorkFailed | Settled | Measured | Foreign | Halted

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
    """Send the held update, for the round of ``train``; then say `Settled`, or `Foreign` instead."""

    train: Train


@dataclass(frozen=True, slots=True)
class StopSending:
    """Give up sending; the update stays held."""


@dataclass(frozen=True, slots=True)
class Release:
    """Forget the update that was made for a round. ``counted`` says whether it is part of the model.

    ``lost``: it is known that it is not, and never will be. Who has missed the receipt knows neither.
    """

    round: int
    counted: bool
    reason: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the coordinator, until it has it."""

    body: reports.TaskFailed | reports.Evaluated | reports.Withdrawn


Effect = StartTraining | StartEvaluating | StopWork | StartSending | StopSending | Release | Report
