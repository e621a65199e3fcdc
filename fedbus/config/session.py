"""What an engineer may choose for a session.

Every setting with its unit, bound, default and the reason for the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_STRATEGY = r"^[A-Za-z0-9_-]{1,64}(\+[A-Za-z0-9_-]{1,64}){0,7}$"
_PURPOSE = r"^[A-Za-z0-9 ._/:-]{0,200}$"
_CODEC = r"^[A-Za-z0-9_-]{1,64}$"
_BEST = re.compile(r"(?P<op>max|min)\s+(?P<name>[\w./-]{1,128})")
_TARGET = re.compile(rf"(?P<name>[\w./-]{{1,128}})\s*(?P<op>>=|<=)\s*(?P<value>{_NUMBER})")

OPTIONS_CHARS_MAX = 65_536
"""Most characters of ``train_config``: it travels to every client in every round, and stands in the journal."""

OPTIONS_DEPTH_MAX = 32
"""Deepest nesting of it: what packs and prints it goes some hundred deep."""


class SessionConfig(BaseModel):
    """How a session runs. Frozen; out-of-range values are refused with the name of the setting and its range."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    purpose: Annotated[str, Field(pattern=_PURPOSE)] = ""
    """What the model is for, in a few words that data owners' policies go by: ``research/readmission``."""

    description: Annotated[str, Field(max_length=1000)] = ""
    """What data owners are told besides, before they take part: who asks, what becomes of the model."""

    rounds: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Rounds to run; of an asynchronous strategy: versions to make. 0: no training, the model is evaluated once."""

    strategy: Annotated[str, Field(pattern=_STRATEGY)] = "fedavg"
    """Name of the aggregator (`fedbus.aggregators`), or several in a chain: ``norm_clipping+fedadam``."""

    strategy_options: dict[str, Any] = Field(default_factory=dict, max_length=1000)
    """The aggregator's options."""

    codec: Annotated[str, Field(pattern=_CODEC)] = "none"
    """How clients encode updates (`fedbus.codecs`): ``int8``, ``top_k`` and so on. ``none``: not at all, exact."""

    codec_options: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """The codec's options."""

    downlink: Annotated[str, Field(pattern=_CODEC)] = "none"
    """Codec of what a client fetches that holds the version before: their difference. ``none``: the new version, as are
    all of at most 32 KiB.
    """

    downlink_options: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """That codec's options."""

    lossless: bool = False
    """Pack each chunk of an update with zstd on top. Off: weights of networks hardly shrink, and it costs time. Updates
    of at most 32 KiB are not packed, and ``bytes_up`` counts what is packed as unpacked.
    """

    clients_min: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Clients that must be connected before a round opens. 1: a session with a single client is a useful first try;
    where the strategy needs more updates, as many clients."""

    client_filter: dict[str, str | tuple[str, ...]] = Field(default_factory=dict, max_length=100)
    """Only clients with these attributes take part: attribute to its value, or to a list of allowed ones."""

    selection: Annotated[str, Field(pattern=_CODEC)] = "random"
    """How ``clients_per_round`` are chosen among those that are there (`fedbus.selection`)."""

    selection_options: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """The selection's options."""

    clients_per_round: Annotated[int, Field(ge=1, le=50_000)] | None = None
    """Updates that a round asks for; None: all clients that are connected. Not with an asynchronous strategy."""

    oversample: Annotated[float, Field(ge=1.0, le=10.0)] = 1.0
    """Ask this times ``clients_per_round`` clients and count the first to arrive.

    1: reproducible; more: fewer stragglers.
    """

    quorum: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Updates with which a round may close at its deadline; None: ``clients_min``. Never fewer than the strategy needs.
    """

    round_deadline_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 600.0
    """Longest time from opening a round to closing it.

    10 min: longer than training of small models, shorter than a coffee break.
    """

    close_deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Longest time to merge and publish; then the set of updates is decided anew from those who still answer."""

    gather_deadline_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    """Longest wait for ``clients_min`` clients and a combiner.

    A day: people start clients by hand, across time zones.
    """

    round_attempts_max: Annotated[int, Field(ge=1, le=1000)] = 3
    """How often a round that misses its quorum is opened again before the session fails."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the selection and of every client's task."""

    train_config: dict[str, Any] = Field(default_factory=dict, max_length=1000)
    """Given to clients as ``task.config``: epochs, learning rate, whatever the app reads."""

    evaluate_every: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Evaluate on clients after every so many rounds, and after the last; 0: never."""

    evaluate_deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Longest time of an evaluation; clients that have not answered are named and left out."""

    target_metric: Annotated[str, Field(max_length=200)] | None = None
    """Stop when an evaluation reaches it: ``accuracy>=0.95`` or ``loss<=0.1``."""

    best_metric: Annotated[str, Field(max_length=200)] | None = None
    """What counts as better: ``max accuracy`` or ``min loss``. The result names the best version by it."""

    patience: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Stop after so many evaluations in a row without a better ``best_metric``. None: never."""

    queries: Annotated[tuple[dict[str, Any], ...], Field(max_length=256)] = ()
    """Questions about the clients' data instead of a model (`fedbus.federation.analytics`); with ``rounds=0``."""

    answers_min: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Clients that must have answered before an evaluation's numbers are kept: below it nothing is."""

    reveal: Literal["clients", "sums"] = "clients"
    """Whether an evaluation keeps each client's numbers, or their sums and means alone."""

    weight_max: Annotated[float, Field(ge=1.0, le=2.0**40)] = 2.0**20
    """Largest weight of one update. A million examples: a larger bound costs precision (docs: exactness)."""

    value_floor: Annotated[float, Field(ge=2.0**-64, le=2.0**64)] = 64.0
    """Values up to this may always be sent, larger ones where the model has such. Weights of networks lie below."""

    headroom: Annotated[float, Field(ge=1.0, le=2.0**64)] = 64.0
    """How far an array may grow in one round, as a multiple of its largest value. More than that has diverged."""

    sharding: Literal["clients", "chunks"] = "clients"
    """What combiners share out among themselves: ``clients`` (each folds all of some clients' updates; their sums are
    merged), or ``chunks`` (each folds a part of everybody's update; nothing is merged). The model is the same, bit for
    bit. ``chunks`` halves a combiner's memory with each doubling of combiners and has no second tier, but every client
    talks to every combiner; ``clients`` keeps updates within a region."""

    residency: Literal["prefer", "require"] = "prefer"
    """Whether a client's update may go to a combiner outside of its region (attribute ``region``) when none is there:
    ``require`` leaves the client out instead."""

    versions_kept: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """Of how many versions, the newest, the arrays are kept, and of the best by ``best_metric``; of others the
    catalogue's entry alone. None: of all.

    Every version takes its bytes of the broker's disk; what is not kept goes when the next version is made. At least 2:
    while one is trained on, a client that is behind may still be reading the one before.
    """

    late_updates: Literal["drop", "stale", "buffer"] = "drop"
    """What becomes of an update that comes too late for its round: ``drop`` forgets it; ``stale`` counts it in the next
    round, in place of a new one of its client; ``buffer`` in any later round up to ``staleness_max`` behind its own."""

    stale_weight: Annotated[float, Field(ge=2.0**-20, le=1)] = 0.5
    """Weight of a late update, times this for each round that it is old. Half: it was made from an older model."""

    staleness_max: Annotated[int, Field(ge=1, le=1000)] = 5
    """With ``late_updates=buffer``: of how many rounds ago an update may be. Older ones pull the model back."""

    @field_validator(
        "strategy_options", "train_config", "codec_options", "downlink_options", "selection_options", "queries"
    )
    @classmethod
    def _values(cls, value: dict[str, Any] | tuple[Any, ...]) -> dict[str, Any] | tuple[Any, ...]:
        if _weigh(value, 0) > OPTIONS_CHARS_MAX:
            raise ValueError(f"expected at most {OPTIONS_CHARS_MAX} characters as JSON")
        return value

    @field_validator("description")
    @classmethod
    def _readable(cls, value: str) -> str:
        if not all(char.isprintable() or char == "\n" for char in value):
            raise ValueError("expected text of printable characters and line ends: it is shown in terminals")
        return value

    @field_validator("target_metric")
    @classmethod
    def _target(cls, value: str | None) -> str | None:
        if value is not None and not _TARGET.fullmatch(value.strip()):
            raise ValueError("expected NAME>=VALUE or NAME<=VALUE, for example accuracy>=0.95")
        return value

    @field_validator("best_metric")
    @classmethod
    def _best(cls, value: str | None) -> str | None:
        if value is not None and not _BEST.fullmatch(value.strip()):
            raise ValueError("expected max NAME or min NAME, for example max accuracy")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> SessionConfig:
        if self.quorum is not None and self.clients_per_round is not None and self.quorum > self.clients_per_round:
            raise ValueError(f"quorum ({self.quorum}) must not exceed clients_per_round ({self.clients_per_round})")
        if self.patience is not None and self.best_metric is None:
            raise ValueError("patience needs best_metric: without it nothing is better than anything")
        if self.queries and self.rounds:
            raise ValueError(f"queries are asked without training: expected rounds=0, got {self.rounds}")
        if self.sharding == "chunks" and self.residency == "require":
            raise ValueError("sharding=chunks sends a part of every update to every combiner: residency cannot be kept")
        return self

    @property
    def clients_needed(self) -> int:
        """Clients that must be there before a round opens: with fewer than the quorum it could not close."""
        return max(self.clients_min, self.quorum_effective)

    @property
    def stale_max(self) -> int:
        """Of how many rounds ago an update may count."""
        return {"drop": 0, "stale": 1, "buffer": self.staleness_max}[self.late_updates]

    @property
    def quorum_effective(self) -> int:
        """Updates with which a round may close at its deadline."""
        if self.quorum is not None:
            return self.quorum
        return min(self.clients_min, self.clients_per_round or self.clients_min)

    @property
    def target_name(self) -> str:
        """The metric of ``target_metric``, empty where there is none."""
        match = _TARGET.fullmatch((self.target_metric or "").strip())
        return match["name"] if match else ""

    @property
    def best_name(self) -> str:
        """The metric of ``best_metric``, empty where there is none."""
        match = _BEST.fullmatch((self.best_metric or "").strip())
        return match["name"] if match else ""

    def best_value(self, metrics: Mapping[str, float]) -> float | None:
        """Return what an evaluation says of ``best_metric``; None where there is none, or it says nothing of it."""
        match = _BEST.fullmatch((self.best_metric or "").strip())
        return metrics.get(match["name"]) if match else None

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value of ``best_metric`` is better than another; an equal one is not."""
        return value > than if (self.best_metric or "").strip().startswith("max") else value < than

    def reached(self, metrics: dict[str, float]) -> bool:
        """Whether an evaluation reached ``target_metric``."""
        match = _TARGET.fullmatch((self.target_metric or "").strip())
        if match is None or match["name"] not in metrics:
            return False
        value, bound = metrics[match["name"]], float(match["value"])
        return value >= bound if match["op"] == ">=" else value <= bound


def _weigh(value: object, depth: int) -> int:
    """Return about how many characters a value has as JSON; ValueError where it is none, or nests too deep."""
    if depth > OPTIONS_DEPTH_MAX:
        raise ValueError(f"expected lists and maps at most {OPTIONS_DEPTH_MAX} deep")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("expected texts as names")
        return 2 + sum(len(key) + 4 + _weigh(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return 2 + sum(2 + _weigh(item, depth + 1) for item in value)
    if isinstance(value, str):
        value.encode()  # a lone surrogate has no UTF-8, and UnicodeEncodeError is a ValueError
        return len(value) + 2
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError(f"expected whole numbers of 64 bits, got one of {value.bit_length()}")
    if value is None or type(value) in (bool, int, float):
        return 8
    raise ValueError(f"expected JSON values (texts, numbers, lists, maps), got {type(value).__name__}")
