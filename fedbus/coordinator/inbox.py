"""What a coordinator was told and has not dealt with yet: bounded, and taken all at once.

A report that finds no room is dropped: its sender says it again until it is acknowledged. Commands are never dropped,
they stand in a stream of their own; that time has passed is said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from fedbus.coordinator.events import Event, Reported
from fedbus.messages import reports
from fedbus.messages.ids import Peer

log = logging.getLogger("fedbus.coordinator")

REPORTS_WEIGHT_MAX = 100_000
"""Most verdicts and other reports that wait: some 100 MB, the answers of as many clients."""

CLIENT_WEIGHT_MAX = 1000
"""Of those, of one client: it reports once a round of each of its sessions, and must not take the room of others."""


@dataclass(frozen=True, slots=True)
class Told:
    """Something that happened. ``session`` empty: to the roster. ``command``: the command's sequence, if it is one."""

    session: str = ""
    event: Event | None = None
    command: int = 0


class Inbox:
    """Filled by many, emptied by one."""

    def __init__(self) -> None:
        self.dropped = 0
        self._told: list[Told] = []
        self._reports = 0
        self._of = Counter[Peer]()
        self._ticked = False
        self._filled = asyncio.Event()

    def put(self, told: Told) -> None:
        """Add something, unless it is a report for which there is no room."""
        if isinstance(told.event, Reported):
            weight, sender = _weight(told.event), told.event.sender
            is_much = sender.role == "client" and self._of[sender] >= CLIENT_WEIGHT_MAX
            if is_much or (self._reports and self._reports + weight > REPORTS_WEIGHT_MAX):
                self._drop()
                return
            self._reports += weight
            self._of[sender] += weight
        self._told.append(told)
        self._filled.set()

    def _drop(self) -> None:
        if not self.dropped % 1000:
            log.warning("reports come faster than they are dealt with; %d were left to be said again", self.dropped + 1)
        self.dropped += 1

    def __len__(self) -> int:
        return len(self._told)

    def tick(self) -> None:
        """Say that time has passed, or that something else is to be looked at."""
        self._ticked = True
        self._filled.set()

    async def take(self) -> tuple[list[Told], bool]:
        """Wait until there is something; returns all of it, and whether time has passed."""
        await self._filled.wait()
        told, ticked = self._told, self._ticked
        self.clear()
        return told, ticked

    def clear(self) -> None:
        """Forget all of it."""
        self._told, self._reports, self._ticked = [], 0, False
        self._of.clear()
        self._filled.clear()


def _weight(event: Reported) -> int:
    return max(1, len(event.report.verdicts)) if isinstance(event.report, reports.UpdatesJudged) else 1
