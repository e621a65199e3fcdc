"""Who somebody is now, and which roles she has now: what a token or a cookie proved once is looked up each time."""

from __future__ import annotations

from collections.abc import Iterable

from fedbus.access.members import Members
from fedbus.access.tokens import why_not
from fedbus.clock import Clock
from fedbus.gateway.caller import Proof
from fedbus.gateway.listening import Listening
from fedbus.messages.access import Person, PersonRole

SKEW_S = 60.0
"""How far the clocks of those who write boards may be apart."""

HEARD_S = 30.0
"""How long a sign-in may be unknown here: the gateway that it began at writes it down before it tells anybody, and the
board takes some milliseconds to get here; where a browser's next request is faster it is not turned away."""


class Over(Exception):
    """Somebody is let in no more; the text says why."""


class Standing:
    """Looks up who is known, in memory. ``factor_roles``: for whom only sign-ins with a second factor count."""

    def __init__(
        self, members: Members, clock: Clock, listening: Listening, factor_roles: Iterable[PersonRole] = ()
    ) -> None:
        self._members = members
        self._clock = clock
        self._listening = listening
        self._factor_roles = frozenset(factor_roles)

    def until(self, proof: Proof) -> float:
        """Return when a proof ends by itself, in seconds since the epoch; 0: it does not."""
        if not proof.id:
            return proof.until
        return min(proof.until, proof.at + self._listening.sign_in_s, self.idle_until(proof))

    def idle_until(self, proof: Proof) -> float:
        """Return when a sign-in ends unless something is done."""
        return proof.seen + self._listening.idle_s

    def of(self, proof: Proof) -> tuple[str, tuple[PersonRole, ...]]:
        """Return name and roles of who a proof is of; `Over` where she is let in no more."""
        now = self._clock.now()
        if proof.id and now >= self.idle_until(proof):
            raise Over(f"nothing was done here for {self._listening.idle_s / 60:g} minutes: sign in again")
        until = self.until(proof)
        if until and now >= until:
            raise Over("you have been signed in for as long as that lasts: sign in again")
        if proof.token:
            self._check_token(proof.token, now)
        if not proof.person:
            return f"token/{proof.token}", proof.roles
        person = self._members.people.by_id(proof.person)
        if person is None:
            raise Over("whoever this was is known here no more")
        return person.name, self._roles_of(person, proof, now)

    def _check_token(self, id_: str, now: float) -> None:
        state = self._members.tokens.get(id_)
        why = why_not(state, now) if state is not None else "there is none such"
        if why:
            raise Over(f"the token is no good any more: {why}")

    def _roles_of(self, person: Person, proof: Proof, now: float) -> tuple[PersonRole, ...]:
        if person.state != "active":
            raise Over(f"{person.name} is {person.state}")
        if proof.at < person.since - SKEW_S:
            raise Over(f"this is from before {person.name} was added")
        if proof.id and _has_ended(person, proof, now):
            raise Over("you have signed out: sign in again")
        roles = tuple(role for role in person.roles if not proof.roles or role in proof.roles)
        if not roles:
            raise Over(f"{person.name} is {' and '.join(proof.roles)} no more")
        strict = self._factor_roles.intersection(roles)
        if strict and not proof.factor:
            raise Over(
                f"{' and '.join(sorted(strict))}: a second factor is needed: sign in with the provider, on the page; "
                "programs have tokens that are nobody's"
            )
        return roles


def _has_ended(person: Person, proof: Proof, now: float) -> bool:
    """Whether a sign-in is none any more: it was ended, or is not among those of its person."""
    if proof.id in person.signed_in:
        return False
    return proof.id in person.ended or abs(now - proof.at) > HEARD_S
