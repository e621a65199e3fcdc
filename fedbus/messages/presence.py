"""Who is there. A role says `Hello` when it comes, at every heartbeat, and when asked; `Bye` when it leaves by itself.

An ``incarnation`` is new at every start of a process: what a role held in memory is gone when it changes.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Name, Number

Attributes = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=256)]],
    Field(max_length=64),
]
"""What a client declares of itself: texts that an engineer can filter by."""

HEARTBEAT_S_MAX = 3600.0
"""Longest pause between two words of a peer: who promises less often would be known as present for ever."""


MEMBERS_MAX = 100_000
"""Most clients that one crowd speaks for."""


class Hello(Body):
    """I am here, and shall say so again within ``heartbeat_s``.

    ``members``: of a crowd, for how many clients it speaks: ``<crowd>-0`` and so on. Each of them is there as long as
    the crowd is, with its incarnation and attributes.
    """

    incarnation: Name
    heartbeat_s: Annotated[float, Field(gt=0, le=HEARTBEAT_S_MAX)]
    attributes: Attributes = {}
    version: Annotated[str, Field(max_length=64)] = ""
    doing: Annotated[str, Field(max_length=200)] = ""
    members: Annotated[int, Field(ge=0, le=MEMBERS_MAX)] = 0


class Bye(Body):
    """I am leaving."""

    incarnation: Name


class WhoIsThere(Body):
    """Everybody, say `Hello` within ``spread_s`` (spread out, so that thousands do not speak at once)."""

    spread_s: Number = 0.2
