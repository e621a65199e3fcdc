"""Who asks: the name under which a deed is written down, what it may do, and from where it came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedbus.access.actions import Action, may
from fedbus.messages.access import PersonRole

How = Literal["open", "token", "cookie"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has said who she is, or, at a gateway without a login, whoever asks.

    ``name``: of the person; empty at an ``open`` gateway, where deeds are the gateway's own. ``origin``: the address
    that it was asked from. ``how``: nobody was asked (``open``), by a bearer ``token``, by the ``cookie`` of a session.
    ``until``: when that ends, in seconds since the epoch; 0: it does not by itself. ``csrf``: what a page sends along
    with what changes something, of a ``cookie``. ``proof``: by what she is known still; `fedbus.gateway.auth` asks it.
    """

    name: str
    roles: tuple[PersonRole, ...]
    origin: str = ""
    how: How = "open"
    until: float = 0.0
    csrf: str = ""
    proof: str = ""

    def may(self, action: Action) -> bool:
        """Whether it is permitted to do that."""
        return may(self.roles, action)

    def has_any(self, roles: Iterable[str]) -> bool:
        """Whether it has one of these roles."""
        return not set(roles).isdisjoint(self.roles)


def anybody(origin: str) -> Caller:
    """Return who asks an open gateway: a local admin, whoever it is."""
    return Caller(name="", roles=("admin",), origin=origin)
