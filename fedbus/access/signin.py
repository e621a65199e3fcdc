"""Signing in at a gateway without a password: links that work once, and sign-ins that their owner sees and ends.

    link = await login_link(members, "http://127.0.0.1:8080", person="admin", by="local")
    # http://127.0.0.1:8080/#/login/fba_3f2a..._Yx...     what `fedbus up` prints

What stands behind ``#`` a browser sends to nobody: it is in no log of a proxy or a gateway. The page exchanges it for a
cookie at once; whoever finds the link later finds it spent.

Each sign-in stands on its person's board from its beginning to its end: what is not there is none (any more), but for
the moment that the board takes to reach the other gateways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fedbus.access.members import Members
from fedbus.access.names import id_of
from fedbus.access.tokens import why_not
from fedbus.errors import Conflict, NotFound
from fedbus.messages.access import SIGN_INS_MAX, Person, SignIn, TokenState

LINK_S = 15 * 60.0
"""How long a link may be used: somebody has to see it, and open a browser."""

ENDED_MAX = 256
"""Ended sign-ins that are kept of a person: they count only until every gateway has heard of their end."""


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


async def begin(members: Members, name: str, id_: str, sign_in: SignIn, *, instead: str = "") -> None:
    """Write down that a person has signed in; ``instead``: the id of the sign-in of hers that this one goes on for.

    One that goes on keeps its beginning and end. Of more than `SIGN_INS_MAX` the one that began first ends. Raises
    `Conflict` where the one to go on has ended.
    """

    def decide(known: Person) -> Person:
        before = known.signed_in.get(instead)
        if instead and before is None:
            raise Conflict("this sign-in has ended", state="ended")
        told = sign_in if before is None else sign_in.model_copy(update={"at": before.at, "until": before.until})
        kept = sorted(_others(known, instead).items(), key=lambda pair: pair[1].at)
        gone = {id_: one.until for id_, one in kept[: max(0, len(kept) - SIGN_INS_MAX + 1)]}
        gone |= {} if before is None else {instead: before.until}
        return _ended(known, gone, {id_: told})

    await _change(members, name, decide)


async def end(members: Members, name: str, id_: str) -> None:
    """Write down that a person has ended a sign-in of hers, so that its cookie is good nowhere any more."""

    def decide(known: Person) -> Person | None:
        found = known.signed_in.get(id_)
        return None if found is None else _ended(known, {id_: found.until})

    await _change(members, name, decide)


async def end_others(members: Members, name: str, but: str) -> int:
    """End all sign-ins of a person but one; returns how many."""
    ended: list[int] = []

    def decide(known: Person) -> Person | None:
        gone = {id_: one.until for id_, one in _others(known, but).items()}
        ended[:] = [len(gone)]
        return _ended(known, gone) if gone else None

    await _change(members, name, decide)
    return ended[0]


def _others(person: Person, id_: str) -> dict[str, SignIn]:
    return {one: told for one, told in person.signed_in.items() if one != id_}


Decide = Callable[[Person], Person | None]


async def _change(members: Members, name: str, what: Decide) -> None:
    now = members.boards.clock.now()

    def decide(known: Person | None) -> Person | None:
        if known is None or not known.roles:
            raise NotFound(f"{name}: there is nobody of this name")
        found = what(known)
        if found is None:
            return None
        going_on = {id_: one for id_, one in found.signed_in.items() if one.until > now}
        counts = [pair for pair in found.ended.items() if pair[1] > now]  # those that ended last stand last
        return found.model_copy(update={"signed_in": going_on, "ended": dict(counts[-ENDED_MAX:])})

    await members.boards.change(members.boards.subjects.access_person(id_of(name)), Person, decide)


def _ended(person: Person, gone: Mapping[str, float], new: Mapping[str, SignIn] | None = None) -> Person:
    """Return a person with some sign-ins ended, and perhaps a new one."""
    left = {id_: one for id_, one in person.signed_in.items() if id_ not in gone} | dict(new or {})
    return person.model_copy(update={"signed_in": left, "ended": person.ended | dict(gone)})
