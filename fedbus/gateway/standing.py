"""Who somebody is now, and which roles she has now: what a token or a cookie proved once is looked up each time."""

from __future__ import annotations

from fedbus.access.members import Members
from fedbus.access.tokens import why_not
from fedbus.clock import Clock
from fedbus.gateway.caller import Proof
from fedbus.messages.access import Person, PersonRole

SKEW_S = 60.0
"""How far the clocks of those who write boards may be apart."""


class Over(Exception):
    """Somebody is let in no more; the text says why."""


class Standing:
    """Looks up who is known, in memory."""

    def __init__(self, members: Members, clock: Clock) -> None:
        self._members = members
        self._clock = clock

    def of(self, proof: Proof) -> tuple[str, tuple[PersonRole, ...]]:
        """Return name and roles of who a proof is of; `Over` where she is let in no more."""
        now = self._clock.now()
        if proof.until and now >= proof.until:
            raise Over("you have been signed in for as long as that lasts: sign in again")
        if proof.token:
            self._check_token(proof.token, now)
        if not proof.person:
            return f"token/{proof.token}", proof.roles
        person = self._members.people.by_id(proof.person)
        if person is None:
            raise Over("whoever this was is known here no more")
        return person.name, _roles_of(person, proof)

    def _check_token(self, id_: str, now: float) -> None:
        state = self._members.tokens.get(id_)
        why = why_not(state, now) if state is not None else "there is none such"
        if why:
            raise Over(f"the token is no good any more: {why}")


def _roles_of(person: Person, proof: Proof) -> tuple[PersonRole, ...]:
    if person.state != "active":
        raise Over(f"{person.name} is {person.state}")
    if proof.id in person.ended:
        raise Over("you have signed out: sign in again")
    if proof.at < person.since - SKEW_S:
        raise Over(f"this is from before {person.name} was added")
    roles = tuple(role for role in person.roles if not proof.roles or role in proof.roles)
    if not roles:
        raise Over(f"{person.name} is {' and '.join(proof.roles)} no more")
    return roles
