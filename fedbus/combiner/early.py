"""Announcements that came before the order, or the base model, that would let us answer them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fedbus.combiner.events import Begun
from fedbus.messages.ids import Peer
from fedbus.messages.uploads import UploadBegin

EARLY_MAX = 10_000
"""Senders that are remembered because they announced before our order came; the others ask again by themselves."""

EARLY_BYTES_MAX = 16 * 2**20
"""Bytes of updates that came with such an announcement; of more only the announcement is kept, and asked for again."""


@dataclass(slots=True)
class Early:
    """The last early announcement of each sender; ``nbytes`` came with them."""

    begun: dict[Peer, Begun] = field(default_factory=dict)
    nbytes: int = 0

    def __iter__(self) -> Iterator[Begun]:
        return iter(self.begun.values())

    def keep(self, event: Begun, now: float) -> None:
        """Remember an announcement, and since when; bare where there is no room for what came with it."""
        before = self.begun.get(event.sender)
        if before is None and len(self.begun) >= EARLY_MAX:
            return
        if event.since_at is None:
            is_repeat = before is not None and before.begin.digest == event.begin.digest
            event = replace(event, since_at=before.since_at if before is not None and is_repeat else now)
        self.nbytes -= len(before.begin.inline) if before is not None else 0
        if self.nbytes + len(event.begin.inline) > EARLY_BYTES_MAX:
            event = replace(event, begin=bare(event.begin), bare=True)
        self.nbytes += len(event.begin.inline)
        self.begun[event.sender] = event

    def take(self) -> list[Begun]:
        """Return all, and forget them."""
        begun, self.begun, self.nbytes = self.begun, {}, 0
        return list(begun.values())


def bare(begin: UploadBegin) -> UploadBegin:
    """Return an announcement without the update that came with it."""
    return begin.model_copy(update={"inline": b""}) if begin.inline else begin
