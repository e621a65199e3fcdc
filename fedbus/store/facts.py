"""What the journal of a session says of one version, for its record in a store: settings, participants, metrics."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage
from fedbus.messages import records
from fedbus.messages.records import ModelPublished, Record
from fedbus.store.journal import Journal


@dataclass(slots=True)
class Facts:
    """One version. ``known``: its session has a journal; ``ended``: nothing more will be said of it there."""

    version: str
    config: SessionConfig | None = None
    participants: int = 0
    train_metrics: dict[str, float] | None = None
    metrics: dict[str, float] | None = None
    known: bool = False
    ended: bool = False
    _newest: str = ""

    def take(self, record: Record) -> None:
        """Take note of a record of its session, in their order."""
        self.known = True
        match record:
            case records.SessionStarted():
                self.config, self._newest = record.config, record.version
            case records.ModelPublished():
                self._newest = record.version
            case records.RoundClosed() if self._newest == self.version:
                self.participants, self.train_metrics = record.counted, dict(record.metrics)
            case records.RoundEvaluated() if record.version == self.version:
                self.metrics = dict(record.metrics)
            case records.SessionEnded():
                self.ended = True
            case _:
                pass

    def as_json(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "strategy": self.config.strategy if self.config else "",
            "participants": self.participants,
            "train_metrics": self.train_metrics or {},
            "metrics": self.metrics or {},
            "config": self.config.model_dump(mode="json") if self.config else None,
        }


async def facts_of(journal: Journal, entry: ModelPublished) -> Facts:
    """Read the journal of a version's session."""
    facts = Facts(entry.version)
    async with aclosing(journal.entries(entry.session)) as entries:
        async for journalled in entries:
            try:
                found = journalled.entry.unpack()
            except BadMessage:
                continue  # of a newer release
            for record in found:
                facts.take(record)
    return facts
