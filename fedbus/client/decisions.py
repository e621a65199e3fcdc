"""What a data owner has decided, as it stands in the state directory: for a client that is started again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from fedbus.client.cards import Card
from fedbus.config.policy import Spent
from fedbus.errors import ConfigError

log = logging.getLogger("fedbus.client")

FILE = "owner.json"


@dataclass(slots=True)
class Shown:
    """A card that was shown, and what became of it; ``answer``: ``yes``, or why not, empty before there is one."""

    card: Card
    answer: str = ""
    decision: str = ""
    reason: str = ""
    at: float = 0.0
    asked_at: float = 0.0


@dataclass(slots=True)
class Decisions:
    """All of it; ``spent``: of a day's limits, None before anything was.

    ``withdrawn``: of sessions that are left, the newest round of which an update was taken back: the coordinator may
    not have heard of it yet.
    """

    paused: bool = False
    left: dict[str, float] = field(default_factory=dict)
    withdrawn: dict[str, int] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    spent: Spent | None = None

    def save(self, directory: Path) -> None:
        """Write it whole or not at all, 0600. Where that fails it holds for this process, and the log says so."""
        told: dict[str, Any] = {"paused": self.paused, "left": self.left, "withdrawn": self.withdrawn}
        told["shown"] = {name: asdict(one) for name, one in self.shown.items()}
        if self.spent is not None:
            spent = {"bytes_up": self.spent.bytes_up, "bytes_down": self.spent.bytes_down}
            rounds = sorted(map(list, self.spent.rounds))
            told["spent"] = spent | {"day": self.spent.day.isoformat(), "rounds": rounds}
        path, part = directory / FILE, directory / f"{FILE}.part"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "w") as opened:
                json.dump(told, opened)
            part.replace(path)
        except OSError as error:
            why = error.strerror or error
            log.log(logging.ERROR, "%s: what its owner decided holds here, and is not kept: %s", path, why)

    @classmethod
    def read(cls, directory: Path) -> Decisions:
        """Read it; `ConfigError` where that is impossible: nobody guesses what an owner has decided."""
        path = directory / FILE
        try:
            told = json.loads(path.read_bytes())
            shown = {name: _shown(one) for name, one in told["shown"].items()}
            left = {str(name): float(at) for name, at in told["left"].items()}
            withdrawn = {str(name): int(number) for name, number in told.get("withdrawn", {}).items()}
            return cls(bool(told["paused"]), left, withdrawn, shown, _spent(told.get("spent")))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"{path}: what its owner decided cannot be read ({why}); put it right, or remove it"
            ) from error


def _shown(told: Mapping[str, Any]) -> Shown:
    card = Card(**told["card"] | {"metrics": tuple(told["card"]["metrics"])})
    return Shown(**dict(told) | {"card": card})


def _spent(told: Mapping[str, Any] | None) -> Spent | None:
    if told is None:
        return None
    rounds = {(str(session), int(number)) for session, number in told["rounds"]}
    return Spent(date.fromisoformat(told["day"]), int(told["bytes_up"]), int(told["bytes_down"]), rounds)


def decided(directory: Path) -> dict[str, Any]:
    """Return what stands in a state directory, for people and programs, with each card's text; `ConfigError`."""
    found = Decisions.read(directory)
    return {
        "paused": found.paused,
        "left": sorted(found.left),
        "cards": [
            asdict(one.card) | {"decision": one.decision, "reason": one.reason, "at": one.at, "text": one.card.text()}
            for one in found.shown.values()
        ],
    }
