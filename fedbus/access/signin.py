"""Signing in at a gateway without a password: links that work once, and sessions that their owner has ended.

    link = await login_link(members, "http://127.0.0.1:8080", person="admin", by="local")
    # http://127.0.0.1:8080/#/login/fba_3f2a..._Yx...     what `fedbus up` prints

What stands behind ``#`` a browser sends to nobody: it is in no log of a proxy or a gateway. The page exchanges it for a
cookie at once; whoever finds the link later finds it spent.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedbus.access.members import Members
from fedbus.access.names import id_of
from fedbus.access.tokens import why_not
from fedbus.errors import Conflict, NotFound
from fedbus.messages.access import Person, TokenState

LINK_S = 15 * 60.0
"""How long a link may be used: somebody has to see it, and open a browser."""

ENDED_MAX = 256
"""Ended sign-ins that are kept of a person; each for at most a day's work."""


async def login_link(
    members: Members, url: str, *, person: str = "admin", by: str, roles: Iterable[str] = ("admin",)
) -> str:
    """Return an address that signs a person in, once, within a quarter of an hour, at the gateway of ``url``.

    Somebody who is not known yet is added with ``roles``; of somebody who is, the link gives the first role that she
    has. Raises `Conflict` where she is suspended, and what writing a board raises.
    """
    known = await _person(members, person, by, tuple(roles))
    new = await members.tokens.create_api(known.roles[0], by=by, person=person, expires_s=LINK_S, uses_max=1)
    return f"{url.rstrip('/')}/#/login/{new.api_text}"


async def _person(members: Members, name: str, by: str, roles: tuple[str, ...]) -> Person:
    subject = members.boards.subjects.access_person(id_of(name))
    known = await members.boards.read(subject, Person)
    if known is None or not known.roles:
        return await members.people.add(name, roles, by=by)
    if known.state == "suspended":
        raise Conflict(f"{name} is suspended", state="suspended")
    return known


async def spend(members: Members, id_: str, *, by: str) -> TokenState:
    """Use a token that is good for signing in once; of two who do so at the same moment one gets `Conflict`."""
    now = members.boards.clock.now()

    def decide(known: TokenState | None) -> TokenState:
        if known is None:
            raise NotFound(f"token {id_}: there is none of this id")
        if why := why_not(known, now):
            raise Conflict(f"the token is no good: {why}", state="revoked")
        return known.model_copy(update={"revoked_at": now, "reason": f"{by} has signed in with it"})

    return await members.boards.change(members.boards.subjects.access_token(id_), TokenState, decide)


async def end(members: Members, person: Person, id_: str, until: float) -> None:
    """Write down that a person has ended a sign-in, so that its cookie is good nowhere any more."""
    now = members.boards.clock.now()
    from_name = id_of(person.name)

    def decide(known: Person | None) -> Person | None:
        if known is None:
            raise NotFound(f"{person.name}: there is nobody of this name")
        if id_ in known.ended:
            return None
        left = {**{one: at for one, at in known.ended.items() if at > now}, id_: until}
        kept = sorted(left.items(), key=lambda pair: pair[1])[-ENDED_MAX:]
        return known.model_copy(update={"ended": dict(kept)})

    await members.boards.change(members.boards.subjects.access_person(from_name), Person, decide)
