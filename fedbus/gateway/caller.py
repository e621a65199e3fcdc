"""Who asks: the name under which a deed is written down, what it may do, and from where it came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from fedbus.access.actions import Action, may
from fedbus.messages.access import PersonRole

How = Literal["open", "nobody", "token", "cookie"]


@dataclass(frozen=True, slots=True)
class Proof:
    """By what somebody is known, without what her roles are now: that is looked up whenever it is asked.

    ``person``: the id of her name (`fedbus.access.names.id_of`), '' of a token that is nobody's. ``token``: the id of
    the token that it stands and falls with, '' of a sign-in by other means. ``roles``: to which it is confined; none:
    to all of the person's. ``id``: of a sign-in, whose cookie it is. ``at``, ``until``: from when to when it counts, in
    seconds since the epoch; ``until`` 0: without an end of its own. Of a sign-in: ``seen``, when she last did something
    on the page; ``shown``, when she last showed who she is, 0: nobody knows; ``factor``: with a second factor.
    """

    person: str
    token: str = ""
    roles: tuple[PersonRole, ...] = ()
    id: str = ""
    at: float = 0.0
    until: float = 0.0
    seen: float = 0.0
    shown: float = 0.0
    factor: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has said who she is, or, at a gateway without a login, whoever asks.

    ``name``: of the person, ``token/<id>`` of a token that is nobody's; empty at an ``open`` gateway, whose deeds are
    its own. ``origin``: the address that it was asked from. ``how``: nobody was asked (``open``), she did not say and
    need not (``nobody``), by a bearer ``token``, by the ``cookie`` of a session. ``csrf``: what a page sends along with
    what changes something, of a ``cookie``. ``proof``: by what she is known; `fedbus.gateway.auth` asks it again while
    a stream goes on.
    """

    name: str
    roles: tuple[PersonRole, ...]
    origin: str = ""
    how: How = "open"
    csrf: str = field(default="", repr=False)
    proof: Proof | None = None

    def may(self, action: Action) -> bool:
        """Whether it is permitted to do that."""
        return may(self.roles, action)


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
"""Who asks, of a request that was let in."""


def anybody(origin: str) -> Caller:
    """Return who asks an open gateway: a local admin, whoever it is."""
    return Caller(name="", roles=("admin",), origin=origin)
