"""The rounds of a session as times, taken from its journal: when each was opened, had its last update, was published.

The times are the coordinator's, taken when it wrote the entry. An update is accepted when the coordinator has written
so: after its last byte arrived at a combiner, by the way of one report.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fedbus.federation.service import SessionEvent
from fedbus.messages import records


@dataclass(slots=True)
class Round:
    """One round; moments in seconds since the epoch, 0 until they have come."""

    round: int
    opened_at: float
    accepted_at: float = 0.0
    accepted: int = 0
    closing_at: float = 0.0
    published_at: float = 0.0
    closed_at: float = 0.0
    counted: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def seconds(self) -> float:
        """From its opening to its closing."""
        return self.closed_at - self.opened_at

    @property
    def publish_s(self) -> float:
        """From the last update that was accepted to the new model; from the closing where that came later."""
        return self.published_at - (self.accepted_at or self.closing_at)

    @property
    def bytes_moved(self) -> int:
        """Updates sent and models fetched."""
        return self.bytes_up + self.bytes_down


class Rounds:
    """The closed rounds of a session."""

    def __init__(self) -> None:
        self.closed: list[Round] = []
        self.open: Round | None = None

    def take(self, event: SessionEvent) -> Round | None:
        """Take note of an event; returns the round that it closes, if it does."""
        record, at = event.data, event.at
        if isinstance(record, records.RoundOpened):
            self.open = Round(record.round, at)
        found = self.open
        if found is None:
            return None
        match record:
            case records.UpdatesRecorded() if record.accepted:
                found.accepted += len(record.accepted)
                if not found.closing_at:
                    found.accepted_at = at
            case records.RoundClosing():
                found.closing_at = at
            case records.ModelPublished():
                found.published_at = at
            case records.RoundClosed():
                found.closed_at, found.counted = at, record.counted
                found.bytes_up, found.bytes_down = record.bytes_up, record.bytes_down
                self.closed.append(found)
                self.open = None
                return found
            case _:
                pass
        return None

    @property
    def steady(self) -> list[Round]:
        """All but the first, which also pays for connections and for memory that is touched for the first time."""
        return self.closed[1:] or self.closed

    @property
    def per_s(self) -> float:
        """Closed rounds a second, what lies between two rounds included; of a single round, its own rate."""
        first, last = self.closed[0], self.closed[-1]
        if first is last:
            return 1 / max(first.seconds, 1e-9)
        return (len(self.closed) - 1) / max(last.closed_at - first.closed_at, 1e-9)

    @property
    def median_s(self) -> float:
        """The median round."""
        return statistics.median(found.seconds for found in self.steady)

    @property
    def publish_median_s(self) -> float:
        """The median from the last update to the model."""
        return statistics.median(found.publish_s for found in self.steady)
