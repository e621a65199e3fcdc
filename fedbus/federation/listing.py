"""Which sessions and events are meant: filters that REST, the command line and Python share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedbus.errors import ConfigError
from fedbus.federation.info import SessionEvent, SessionSummary, Status
from fedbus.messages.records import RECORDS

Order = Literal["newest", "oldest"]


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions; None, and none: whatever it is. ``text``: in name, reason, strategy, or who started it."""

    statuses: tuple[Status, ...] = ()
    strategy: str | None = None
    text: str | None = None

    def meets(self, info: SessionSummary, now: float) -> bool:
        """Whether a session is meant."""
        if self.strategy is not None and info.config.strategy != self.strategy:
            return False
        if self.statuses and info.status(now) not in self.statuses:
            return False
        if self.text is None:
            return True
        words = (info.session, info.reason, info.by, info.base, info.config.strategy)
        return any(self.text.casefold() in word.casefold() for word in words)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None, and none: whatever it is. ``since``, ``until``: seconds since the epoch, both inclusive.

    ``text``: in the session's name, or anywhere in the record as JSON, in whatever case.
    """

    session: str | None = None
    kinds: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in RECORDS]
        if unknown:
            raise ConfigError(f"kind: expected some of {', '.join(RECORDS)}, got {unknown[0][:64]!r}")

    def meets(self, event: SessionEvent) -> bool:
        """Whether an event is meant."""
        return (
            (self.session is None or event.session == self.session)
            and (not self.kinds or event.kind in self.kinds)
            and (self.since is None or event.at >= self.since)
            and (self.until is None or event.at <= self.until)
            and (self.text is None or says(event, self.text))
        )


def says(event: SessionEvent, text: str) -> bool:
    """Whether a text stands in the session's name, or anywhere in the record as JSON, in whatever case."""
    wanted = text.casefold()
    return wanted in event.session.casefold() or wanted in event.data.model_dump_json().casefold()


def in_order(infos: Iterable[SessionSummary], order: Order) -> list[SessionSummary]:
    """Return sessions by their start; those of the same moment by name."""
    return sorted(infos, key=lambda info: (info.started_at, info.session), reverse=order == "newest")
