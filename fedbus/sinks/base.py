"""The contract of a sink: where the points of a session go that people compare elsewhere.

A sink is told everything that has become true in a session, in order, from its beginning, as often as somebody begins
to track it: after a crash, from another machine, twice at once by mistake. So each call may be a repetition of one that
came before, also of one that was cut short in the middle: a sink looks at what it has, by metric and step, and writes
what is missing. That way nothing but the sink's own data has to be remembered.

Its methods are plain functions, for the libraries behind them block; they are called one after the other, all in one
thread that does nothing else. What they raise ends the tracking: `SinkUnavailable` says that the same call may be
repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedbus.errors import FedbusError


class SinkUnavailable(FedbusError):
    """The sink does not answer, or has no room: nothing is known about the outcome; the same call may be repeated."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A session that begins. ``at``: seconds since the epoch; ``config``: its settings, as JSON says them.

    ``version``, ``digest``: of its first model; ``base``: the published version that this is, '' where it is none.
    """

    workspace: str
    session: str
    at: float
    by: str
    config: Mapping[str, Any]
    version: str
    digest: str
    base: str = ""

    @property
    def params(self) -> dict[str, str]:
        """The settings as names and texts, nested ones joined by dots: ``strategy_options.learning_rate``."""
        return {name: _text(value) for name, value in _flat(self.config)}


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """A round that is closed: ``metrics`` while training, weighted over the ``counted`` updates.

    ``seconds``: from its opening; ``bytes_up``, ``bytes_down``: what clients have sent and fetched.
    """

    round: int
    at: float
    version: str
    digest: str
    counted: int
    refused: int
    seconds: float
    bytes_up: int
    bytes_down: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def points(self) -> dict[str, float]:
        """What is drawn over rounds: ``train/<metric>``, and ``round/...`` for the round itself."""
        return {
            **{f"train/{name}": float(value) for name, value in self.metrics.items()},
            "round/counted": float(self.counted),
            "round/refused": float(self.refused),
            "round/seconds": self.seconds,
            "round/bytes_up": float(self.bytes_up),
            "round/bytes_down": float(self.bytes_down),
        }


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What clients found of a version: ``metrics`` over the ``answered`` of them."""

    round: int
    at: float
    version: str
    answered: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def points(self) -> dict[str, float]:
        """What is drawn over rounds: ``evaluate/<metric>``."""
        return {f"evaluate/{name}": float(value) for name, value in self.metrics.items()}


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a session: ``outcome`` completed, stopped, failed or refused, and why; its newest version."""

    at: float
    outcome: str
    reason: str
    version: str
    digest: str


class Sink(Protocol):
    """Where the points of sessions go; one object takes several sessions, each by its name."""

    def started(self, session: Tracked) -> None:
        """Begin a session, or find again what there is of it: a step is whatever it names and has been written."""
        ...

    def round(self, session: Tracked, closed: ClosedRound) -> None:
        """Take the points of a round; its number is their step."""
        ...

    def evaluated(self, session: Tracked, found: Evaluated) -> None:
        """Take the points of an evaluation; the round of its version is their step."""
        ...

    def ended(self, session: Tracked, end: Ended) -> None:
        """Take note of the end of a session."""
        ...

    def flush(self) -> None:
        """Let what was taken last, whatever becomes of this process."""
        ...

    def close(self) -> None:
        """Give back what is held; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class SinkKind:
    """What an entry point under ``fedbus.sinks`` names: ``open`` takes what stands behind the colon of ``name:TARGET``.

    It raises `ConfigError` for a target that cannot be, or where a library is missing.
    """

    name: str
    open: Callable[[str], Sink]


def _flat(config: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", value))
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)
