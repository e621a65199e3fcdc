"""Questions that the coordinator answers from its memory: who is there, what waits on whom until when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, MaybeName, Name, Number, Reason
from fedbus.messages.presence import Archiving, Attributes


class Ask(Body):
    """A question; what is asked stands in the subject."""


class Seen(Body):
    """Somebody who is there.

    ``members``, ``first``: of a crowd, which clients it is (`presence.members_of`). ``crowd``: of one of these, shown
    by itself, which crowd speaks for it. ``archive``: as in `Hello`.
    """

    role: Name
    name: Name
    incarnation: Name
    attributes: Attributes = {}
    version: str = ""
    doing: str = ""
    since_at: Number
    seen_at: Number
    members: Count = 0
    first: Count = 0
    crowd: MaybeName = ""
    archive: Archiving | None = None


class Roster(Body):
    """Everybody who is there now. ``at``: as in `Waits`."""

    peers: Annotated[tuple[Seen, ...], Field(fail_fast=True)]
    at: Number = 0.0


KNOWN_MAX = 20
"""Of how many of those that are waited for a wait says what they do: a person reads it."""


class Wait(Body):
    """Something that waits: what for, on whom, since when, until when (then ``then`` happens).

    ``doing``: of some of ``on`` that are there, what they do by their own word, empty where that is nothing for this
    session; where clients are missing before a round, of some that are there. ``away``: of some that are not, since
    when, 0 where that is not known. ``away_count``: of all that are missing, how many are not there.
    """

    session: Name
    round: Count
    what: Reason
    on: Annotated[tuple[Name, ...], Field(max_length=1000, fail_fast=True)] = ()
    missing: Count = 0
    since_at: Number
    until_at: Number
    then: Reason
    doing: Annotated[dict[Name, Annotated[str, Field(max_length=200)]], Field(max_length=KNOWN_MAX)] = {}
    away: Annotated[dict[Name, Number], Field(max_length=KNOWN_MAX)] = {}
    away_count: Count = 0


class Waits(Body):
    """All waits of now.

    ``at``: what time it is for the coordinator, by which all its moments and deadlines are; 0 of one that does not say.
    """

    waits: Annotated[tuple[Wait, ...], Field(fail_fast=True)]
    at: Number = 0.0


_WAITS = (
    ("evaluation", "metrics of"),
    ("merge", "merge and store"),
    ("journal", "its journal"),
    ("model", "to be restored"),
    ("updates", "updates"),
    ("updates", "send again"),
    ("clients", "clients"),
    ("combiner", "a combiner"),
)


def kind_of(wait: Wait) -> str:
    """Return what it waits for in one word, of few: clients, combiner, updates, merge, evaluation, model, journal."""
    return next((kind for kind, words in _WAITS if words in wait.what), "other")


class Refused(Body):
    """The question cannot be answered."""

    reason: Reason
    status: Literal["unknown", "busy"] = "unknown"
