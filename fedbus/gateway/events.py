"""Events as readers get them: a record of the journal with its place, as a view, and as bytes of an event stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from pydantic_core import to_json

from fedbus.errors import BadMessage, ConfigError
from fedbus.federation.info import SessionEvent
from fedbus.gateway.index import Position
from fedbus.gateway.views import EventView
from fedbus.messages.records import Record
from fedbus.store.journal import Journalled

_ID = re.compile(r"([0-9]{1,15})\.([0-9]{1,4})")

BEGINNING = Position(0, -1)
"""Before the first event."""


class Event:
    """One record of a journal; ``frame``: as it travels live, made when first asked for, the same for all readers."""

    def __init__(self, position: Position, session: str, record: Record, at: float, nbytes: int) -> None:
        self.position = position
        self.session = session
        self.record = record
        self.at = at
        self.nbytes = nbytes

    def view(self) -> EventView:
        """Return it as REST does."""
        return EventView(
            id=str(self.position),
            sequence=self.position.sequence,
            session=self.session,
            kind=self.record.kind,
            at=self.at,
            data=self.record.model_dump(mode="json"),
        )

    @cached_property
    def text(self) -> bytes:
        """It as JSON."""
        return to_json(self.view(), inf_nan_mode="null")

    @cached_property
    def frame(self) -> bytes:
        """It as server-sent event."""
        return frame(self.text, event=self.record.kind, id_=str(self.position))


def events_of(journalled: Journalled) -> Iterator[Event]:
    """Yield what an entry says; nothing where it is a mark, or nobody can read it."""
    try:
        found = journalled.entry.unpack()
    except BadMessage:
        return  # the fold has logged it
    nbytes = len(journalled.data)
    for number, record in enumerate(found):
        yield Event(
            Position(journalled.sequence, number), journalled.session, record, journalled.entry.at, nbytes // len(found)
        )


def plain(event: Event) -> SessionEvent:
    """Return it as Python's users get it."""
    sequence, index = event.position
    return SessionEvent(event.session, sequence, event.at, event.record.kind, event.record, index)


def frame(data: bytes, *, event: str, id_: str = "") -> bytes:
    """Return one server-sent event; ``data`` is JSON, which has no line breaks."""
    head = f"id: {id_}\n" if id_ else ""
    return f"{head}event: {event}\ndata: ".encode() + data + b"\n\n"


def position_of(text: str) -> Position:
    """Return the position that an event's id names; `ConfigError` where it is none."""
    match = _ID.fullmatch(text)
    if match is None:
        raise ConfigError(f"event id: expected <sequence>.<index> as an event has it, got {text[:40]!r}")
    return Position(int(match[1]), int(match[2]))
