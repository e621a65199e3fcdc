"""Who is there. A role says `Hello` when it comes, at every heartbeat, and when asked; `Bye` when it leaves by itself.

An ``incarnation`` is new at every start of a process: what a role held in memory is gone when it changes.

A crowd is one process with many clients. Several crowds may hold the clients of one series between them, so that their
names do not tell where they run: ``sim`` with 500 members is ``sim-0 .. sim-499``, and ``sim-500`` with ``first`` 500
continues it with ``sim-500 ..``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, MaybeName, Name, Number, PolicyDigest, Said, is_name

Attributes = Annotated[
    dict[Annotated[str, Said, Field(min_length=1, max_length=64)], Annotated[str, Said, Field(max_length=256)]],
    Field(max_length=64),
]
"""What a client declares of itself: texts that an engineer can filter by."""

HEARTBEAT_S_MAX = 3600.0
"""Longest pause between two words of a peer: who promises less often would be known as present for ever."""


MEMBERS_MAX = 100_000
"""Most clients that one crowd speaks for."""

FIRST_MAX = 10**9
"""Largest number at which a crowd begins: ten digits of a name at most, and a bound on what a stranger may say."""


def crowd_name(series: str, first: int) -> str:
    """Return what the crowd is called that holds a part of a series, from number ``first`` on."""
    return f"{series}-{first}" if first else series


def members_of(crowd: str, first: int, members: int) -> list[str]:
    """Return the clients of a crowd; none where these would not be names.

    `crowd_name` reversed: a crowd that begins at ``first`` > 0 ends in it.
    """
    series = crowd.removesuffix(f"-{first}") if first else crowd
    names = [f"{series}-{number}" for number in range(first, first + members)]
    return names if names and is_name(names[-1]) else []


TOLD_MAX = 5
"""Versions that cannot be archived, with the reason, of which a `Hello` tells: a log and REST tell of more."""

Told = Annotated[str, Said, Field(max_length=200)]


class Archiving(Body):
    """How far a gateway is with copying what is published to a store (`fedbus.store.archivist.ArchivistState`)."""

    store: Told
    archived: Count = 0
    waiting: Count = 0
    waiting_bytes: Count = 0
    since_at: Number = 0.0
    error: Told = ""
    error_at: Number = 0.0
    refused: Annotated[dict[Name, Told], Field(max_length=TOLD_MAX)] = {}


class Hello(Body):
    """I am here, and shall say so again within ``heartbeat_s``.

    ``members``, ``first``: of a crowd, for how many clients it speaks, and from which number on (`members_of`). Each of
    them is there as long as the crowd is, with its incarnation and attributes. ``archive``: of a gateway with a store.
    ``policy``: of a client, a digest of what its owner has decided; who declined under one is asked anew under another.
    """

    incarnation: Name
    heartbeat_s: Annotated[float, Field(gt=0, le=HEARTBEAT_S_MAX)]
    attributes: Attributes = {}
    version: Annotated[str, Said, Field(max_length=64)] = ""
    doing: Annotated[str, Said, Field(max_length=200)] = ""
    members: Annotated[int, Field(ge=0, le=MEMBERS_MAX)] = 0
    first: Annotated[int, Field(ge=0, le=FIRST_MAX)] = 0
    archive: Archiving | None = None
    policy: PolicyDigest = ""


class Bye(Body):
    """I am leaving."""

    incarnation: Name


class NameIsTaken(Body):
    """Told to the later one of two processes that live under one name: it is to end. ``incarnation``: who is meant."""

    incarnation: Name
    since_at: Number
    """Since when the other one is known."""


class Lease(Body):
    """Who leads the coordinators of a workspace, until ``ttl_s`` after this was last renewed.

    It stands on the board and is renewed with the sequence of the one before as what is expected, so that one of two
    who take it fails. ``term`` grows with each taking; ``holder`` empty: given back, anybody may take it at once.
    ``at``: the holder's time in seconds since the epoch, which whoever takes over goes on with.
    """

    holder: MaybeName
    incarnation: Name
    term: Count
    ttl_s: Annotated[float, Field(gt=0, le=3600)]
    at: Number


class WhoIsThere(Body):
    """Everybody, say `Hello` within ``spread_s`` (spread out, so that thousands do not speak at once)."""

    spread_s: Number = 0.2
