"""What the journals say of published versions beyond the catalogue's entry: who took part, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedbus.messages import records
from fedbus.messages.records import Record

VERSIONS_MAX = 200_000
"""Versions that are known; the oldest are forgotten first. Some 0.5 KB each."""


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One version. ``participants``: updates that it was made of; ``metrics``: of its evaluation, else of training."""

    session: str
    round: int
    strategy: str
    participants: int = 0
    metrics: Mapping[str, float] | None = None


class Versions:
    """What is known of versions; told of all sessions' records in order."""

    def __init__(self, *, versions_max: int = VERSIONS_MAX) -> None:
        self._found: dict[str, VersionFacts] = {}
        self._newest: dict[str, str] = {}
        self._strategies: dict[str, str] = {}
        self._versions_max = versions_max

    def take(self, session: str, record: Record) -> None:
        """Take note of a record."""
        match record:
            case records.SessionStarted():
                self._strategies[session] = record.config.strategy
                self._add(record.version, VersionFacts(session, 0, record.config.strategy))
            case records.ModelPublished():
                self._newest[session] = record.version
                self._add(record.version, VersionFacts(session, record.round, self._strategies.get(session, "")))
            case records.RoundClosed():
                version = self._newest.get(session, "")
                if version in self._found:
                    facts = replace(self._found[version], participants=record.counted, metrics=record.metrics)
                    self._found[version] = facts
            case records.RoundEvaluated() if record.version in self._found and record.metrics:
                self._found[record.version] = replace(self._found[record.version], metrics=record.metrics)
            case records.SessionEnded():
                self._newest.pop(session, None)
                self._strategies.pop(session, None)
            case _:
                pass

    def get(self, version: str) -> VersionFacts | None:
        """Return what is known of a version; None where no journal tells of it."""
        return self._found.get(version)

    def _add(self, version: str, facts: VersionFacts) -> None:
        self._found[version] = facts
        if len(self._found) > self._versions_max:
            del self._found[next(iter(self._found))]
