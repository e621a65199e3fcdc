"""What a data owner writes: a `ClientApp` with a function that trains, and perhaps one that evaluates.

Another one may give columns of the data, of which counts and sums can then be asked.

A third one, for research, makes a model's first version, so that a module is all that `fedbus simulate` needs.

The functions get a `Model` and a task, and return an `Update` or an `Evaluation`. Either may be sync (it runs in a
thread, the event loop stays free) or async. What they raise is reported as the reason why this client does not take
part in the round.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from fedbus.errors import BadUpdate, ConfigError
from fedbus.messages.ids import SUMS_MAX, SUMS_NUMBERS_MAX
from fedbus.messages.sums import key_of

Array = np.ndarray[Any, Any]

NOTHING: Mapping[str, Array] = MappingProxyType({})
"""What is kept at first."""


class Model(Mapping[str, Array]):
    """A model: names to read-only arrays, in order.

    ``version`` is its name in the federation (empty for one of your own).
    """

    __slots__ = ("_arrays", "digest", "version")

    def __init__(self, arrays: Mapping[str, Array], version: str = "", digest: str = "") -> None:
        self._arrays = dict(arrays)
        self.version = version
        self.digest = digest

    def __getitem__(self, name: str) -> Array:
        """Return the array of a name."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in order."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._arrays)

    def __repr__(self) -> str:
        """Say version and size."""
        return f"<Model {self.version or 'local'}: {len(self)} arrays, {sum(a.nbytes for a in self.values())} bytes>"

    def copy(self) -> dict[str, Array]:
        """Return the arrays as a dictionary of writable copies, to train on."""
        return {name: array.copy() for name, array in self._arrays.items()}


@dataclass(frozen=True, slots=True)
class TrainTask:
    """What is asked: ``config`` is the session's ``train_config``.

    ``seed`` is the same for (session seed, round, client). ``deadline_at``: until when the round waits, in seconds
    since the epoch by the coordinator's clock: for information, the clock of this machine may differ. ``client``: who
    is asked, so that one app can serve many clients and choose its data by their names. ``kept``: what the last update
    of this client in this session gave as ``keep``, read-only arrays; nothing at first.
    """

    session: str
    round: int
    config: Mapping[str, Any]
    seed: int
    deadline_at: float
    client: str = ""
    kept: Mapping[str, Array] = field(default_factory=lambda: NOTHING, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class EvaluateTask:
    """What is asked: measure this model; fields as in `TrainTask`."""

    session: str
    round: int
    config: Mapping[str, Any]
    seed: int
    deadline_at: float
    client: str = ""
    kept: Mapping[str, Array] = field(default_factory=lambda: NOTHING, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Update:
    """What training gives: the new arrays (names, shapes and dtypes of the model), their weight, and metrics to report.

    ``weight``: above 0; usually the number of examples. ``metrics``: names to numbers; they leave the machine.
    ``payload``: any bytes instead of arrays, for strategies that take them (``append``). ``keep``: arrays of any names,
    shapes and dtypes that this client is to have as ``task.kept`` from now on, in this session: they never leave the
    machine; None: what it has stays, and an empty mapping forgets it. With a state directory they are saved in one
    step with the update, and outlive the process. Where the update never counts, what was kept before is kept again.
    """

    arrays: Mapping[str, Array] = field(default_factory=dict)
    weight: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    payload: bytes | bytearray | memoryview | None = None
    keep: Mapping[str, Array] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluating gives: metrics, and the weight with which they enter the federation's mean.

    ``sums``: names to finite numbers, lists or arrays of them that are added up over clients, element by element; their
    shapes have to agree. For what has no mean: a confusion matrix, a histogram of scores (`fedbus.federation.scores`).
    """

    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataTask:
    """What is asked of the data themselves: counts and sums of ``columns``, which the library computes.

    ``config``: the session's ``train_config``; ``deadline_at``, ``client``: as in `TrainTask`.
    """

    session: str
    columns: tuple[str, ...]
    config: Mapping[str, Any]
    deadline_at: float
    client: str = ""


Train = Callable[[Model, TrainTask], Update | Awaitable[Update]]
Evaluate = Callable[[Model, EvaluateTask], Evaluation | Awaitable[Evaluation]]
Columns = Mapping[str, Any]
Data = Callable[[DataTask], Columns | Awaitable[Columns]]
Initial = Callable[[int], Mapping[str, Array]]
AnyConsent = Callable[..., Any]
AnyConsentFunction = TypeVar("AnyConsentFunction", bound=AnyConsent)
AnyTrain = TypeVar("AnyTrain", bound=Train)
AnyEvaluate = TypeVar("AnyEvaluate", bound=Evaluate)
AnyData = TypeVar("AnyData", bound=Data)
AnyInitial = TypeVar("AnyInitial", bound=Initial)


class ClientApp:
    """The owner's functions; the same object may serve several clients."""

    def __init__(self) -> None:
        self._train: Train | None = None
        self._evaluate: Evaluate | None = None
        self._data: Data | None = None
        self._initial: Initial | None = None
        self._consent: AnyConsent | None = None

    def train(self, function: AnyTrain) -> AnyTrain:
        """Register the function that trains; use it as a decorator."""
        self._train = _once("train", self._train, function)
        return function

    def evaluate(self, function: AnyEvaluate) -> AnyEvaluate:
        """Register the function that evaluates; use it as a decorator."""
        self._evaluate = _once("evaluate", self._evaluate, function)
        return function

    def data(self, function: AnyData) -> AnyData:
        """Register the function that gives columns of the data; use it as a decorator.

        Without it nobody can ask about the data. It gets a `DataTask` and returns names of columns and one-dimensional
        arrays (numbers; texts for categories); a column that it does not return cannot be asked about. Only counts
        and sums leave the machine (`Federation.analyze`). Raise something to refuse: it is told as the reason.
        """
        self._data = _once("data", self._data, function, "a task")
        return function

    def consent(self, function: AnyConsentFunction) -> AnyConsentFunction:
        """Register the function that is shown the `Card` of each session before it is joined; use it as a decorator.

        It returns True, False, or why not in words that others may read; sync (in a thread) or async. A round waits
        15 s for it and then goes on without this client, which is asked again when there is an answer.
        """
        self._consent = _once("consent", self._consent, function, "a card")
        return function

    @property
    def on_card(self) -> AnyConsent | None:
        """The function that is shown cards, if there is one."""
        return self._consent

    def initial(self, function: AnyInitial) -> AnyInitial:
        """Register the function of a seed that makes a model's first version; use it as a decorator.

        No client calls it: it is for `fedbus simulate`, which starts a session by itself.
        """
        if is_async(function):
            raise ConfigError("@app.initial: expected a plain function of a seed, got an async one")
        self._initial = _once("initial", self._initial, function, "a seed")
        return function

    def first_model(self, seed: int) -> dict[str, Array] | None:
        """Return a model's first version, names to arrays; None where the app has no ``@app.initial``.

        Raises `ConfigError` when the function gives something else; what it raises itself passes.
        """
        if self._initial is None:
            return None
        model: object = self._initial(seed)
        if not isinstance(model, Mapping) or not model:
            what = "an empty mapping" if isinstance(model, Mapping) else type(model).__name__
            raise ConfigError(f"@app.initial returned {what}; expected names and arrays")
        return {str(name): np.asarray(array) for name, array in model.items()}

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The functions that a client calls, by name."""
        found = {"train": self._train, "evaluate": self._evaluate, "data": self._data}
        return MappingProxyType({name: function for name, function in found.items() if function is not None})


Function = TypeVar("Function", bound=Callable[..., Any])


def _once(what: str, known: Function | None, function: Function, arguments: str = "a model and a task") -> Function:
    if known is not None:
        raise ConfigError(f"@app.{what}: this app has such a function already ({known.__qualname__})")
    if not callable(function):
        raise ConfigError(f"@app.{what}: expected a function of {arguments}, got {type(function).__name__}")
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives an awaitable."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - an object with an async __call__ counts too
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def check_update(update: object) -> Update:
    """Return what `train` gave if it is an update; `BadUpdate` says what was expected."""
    if not isinstance(update, Update):
        raise BadUpdate(
            f"train returned {type(update).__name__}; expected fedbus.Update(arrays, weight=..., metrics=...)"
        )
    weight = _number("weight", update.weight)
    if not weight > 0:
        raise BadUpdate(f"expected a weight above 0, got {update.weight}")
    arrays = {name: np.asarray(value) for name, value in update.arrays.items()}
    if update.keep is not None and not isinstance(update.keep, Mapping):
        raise BadUpdate(f"keep: expected names and arrays, got {type(update.keep).__name__}")
    return Update(arrays, weight, _metrics(update.metrics), _payload(update.payload), update.keep)


def _payload(payload: object) -> memoryview | None:
    """Return the bytes of a payload, whatever its items are."""
    if payload is None:
        return None
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise BadUpdate(f"payload: expected bytes, got {type(payload).__name__}")
    view = memoryview(payload)
    if not view.c_contiguous:
        raise BadUpdate("payload: expected bytes that lie side by side, got a view with gaps")
    return view.cast("B") if view.nbytes else memoryview(b"")


def check_evaluation(evaluation: object) -> Evaluation:
    """Return what `evaluate` gave if it is an evaluation; `BadUpdate` says what was expected."""
    if not isinstance(evaluation, Evaluation):
        raise BadUpdate(
            f"evaluate returned {type(evaluation).__name__}; expected fedbus.Evaluation(weight=..., metrics=...)"
        )
    weight = _number("weight", evaluation.weight)
    if not 0 < weight < float("inf"):
        raise BadUpdate(f"expected a finite weight above 0, got {evaluation.weight}")
    return Evaluation(weight, _metrics(evaluation.metrics), _sums(evaluation.sums))


def _sums(sums: object) -> dict[str, tuple[float, ...]]:
    """Return sums as they travel: names with shapes, and numbers in a row."""
    if not isinstance(sums, Mapping):
        raise BadUpdate(f"sums: expected names and numbers, lists or arrays, got {type(sums).__name__}")
    found, count = {}, 0
    for name, value in sums.items():
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise BadUpdate(f"sum {name!r}: expected numbers, got {type(value).__name__}") from error
        if not np.isfinite(array).all():
            raise BadUpdate(f"sum {name!r}: expected finite numbers, got NaN or an infinite one")
        found[key_of(str(name), array.shape)] = tuple(array.ravel().tolist())
        count += array.size
    if count > SUMS_NUMBERS_MAX or len(found) > SUMS_MAX:
        raise BadUpdate(
            f"sums: expected at most {SUMS_MAX} of {SUMS_NUMBERS_MAX} numbers in all, got {len(found)}, {count}"
        )
    return found


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    return {str(name): _number(f"metric {name!r}", value) for name, value in metrics.items()}


def _number(what: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # numpy's scalars and tensors of one element are numbers too
    except (TypeError, ValueError) as error:
        raise BadUpdate(f"{what}: expected a number, got {type(value).__name__}") from error
