"""How people sign in, show anew who they are, stay, see where they are signed in, and leave.

    by a token, or the link of one        -> a cookie; a link is spent
    by a provider (`fedbus.gateway.oidc`) -> a cookie
    either of them again                  -> another cookie in place of the one before, which has shown who she is *now*
    doing something on the page           -> the same, seen now
    signing out, ending others            -> nothing more of them is let in, at any gateway

No gateway remembers a sign-in: the cookie says all of it (`fedbus.gateway.cookies`). That it has begun and not ended
stands on the person's board, where every gateway and the person herself see it (`fedbus.access.signin`).
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from aiohttp import web
from blake3 import blake3

from fedbus.access.actions import actions_of
from fedbus.access.members import Members
from fedbus.access.names import id_of
from fedbus.access.signin import begin, end, end_others, spend
from fedbus.errors import Conflict, NotFound
from fedbus.gateway.auth import Auth, proof_of, roles_of, unknown
from fedbus.gateway.caller import Caller, Proof
from fedbus.gateway.cookies import name_of, set_cookie
from fedbus.gateway.limits import Rate
from fedbus.gateway.origins import origin_of
from fedbus.gateway.problems import Refused
from fedbus.messages.access import Person, PersonRole, SignIn, TokenState

OFTEN_PER_S, OFTEN_BURST = 0.2, 30
"""How often somebody signs in and out: each is a deed, and whoever only looks shall not fill the audit."""

AGENT_CHARS_MAX = 200
"""How much is kept of what a browser calls itself."""


class SignIns:
    """The sign-ins of a secured gateway's people."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._often = Rate(OFTEN_PER_S, OFTEN_BURST, auth.clock.now)

    async def by_token(self, request: web.Request, text: str) -> tuple[Caller, str]:
        """Return who a token is of, and a cookie; `Refused` with 401, 403 or 429. A token for one sign-in is spent."""
        state = await self._token(request, text)
        if not state.name:
            raise unknown(
                "the token is nobody's: it is a bearer for programs; people sign in with one of their own", wrong=True
            )
        name = self._auth.known(proof_of(state), origin_of(request), "token").name
        now = self._auth.clock.now()
        proof = self._new(state.name, roles_of(state), shown=now)
        if state.uses_max:
            await self._spend(state, name)
            return await self._begun(request, name, proof, "link")
        until = min(proof.until, state.expires_at or proof.until)
        return await self._begun(request, name, replace(proof, token=state.id, until=until), f"token {state.id}")

    async def by_provider(
        self, request: web.Request, person: Person, by: str, *, shown: float, factor: bool
    ) -> tuple[Caller, str]:
        """Return who somebody is whom a provider has vouched for, and a cookie; `Refused` where she is not let in.

        ``shown``: when she showed the provider who she is, 0 where it does not say; ``factor``: with a second factor.
        """
        self._check_often(person.name)
        proof = self._new(id_of(person.name), (), shown=min(shown, self._auth.clock.now()), factor=factor)
        return await self._begun(request, person.name, proof, by)

    async def again_by_token(self, request: web.Request, caller: Caller, text: str) -> tuple[Caller, str]:
        """Return the cookie of who has shown anew who she is; `Refused` with 403 for a token of another, or of less."""
        if caller.how != "cookie" or caller.proof is None:
            self._check_often(caller.name)
            raise Conflict("whoever comes with a bearer is not asked again", state=caller.how)
        state = await self._token(request, text)
        given = self._auth.known(proof_of(state), caller.origin, "token")
        if state.name != caller.proof.person:
            raise Refused(403, f"this token is not one of {caller.name}'s")
        if not set(actions_of(caller.roles)) <= set(actions_of(given.roles)):
            raise Refused(403, f"expected a token of {caller.name}'s as {' and '.join(caller.roles)}, got a lesser one")
        if state.uses_max:
            await self._spend(state, caller.name)
        return await self._again(request, caller, caller.proof)

    async def again_by_provider(
        self, request: web.Request, cookie: str, person: Person, *, factor: bool
    ) -> tuple[Caller, str]:
        """Return the cookie of who has shown a provider anew who she is; ``cookie``: the one before."""
        proof = self._auth.cookies.read(cookie, self._auth.clock.now())
        if proof is None or proof.person != id_of(person.name):
            raise unknown(f"the provider says that you are {person.name}, and you were not before", wrong=True)
        caller = self._auth.known(proof, origin_of(request), "cookie")
        self._check_often(caller.name)
        return await self._again(request, caller, replace(proof, factor=factor or proof.factor))

    def stay(self, request: web.Request, caller: Caller) -> tuple[Caller, str]:
        """Return a cookie that says that something was done just now; '' of whoever came without one."""
        if caller.how != "cookie" or caller.proof is None:
            return caller, ""
        return self._told(request, replace(caller.proof, seen=self._auth.clock.now()))

    async def leave(self, request: web.Request, caller: Caller) -> str:
        """End a sign-in everywhere; returns the header that takes its cookie away."""
        self._check_often(caller.name)
        if caller.how == "cookie" and caller.proof is not None:
            await end(self._members, caller.name, caller.proof.id)
        secure = self._auth.reached.is_secure(request)
        return set_cookie(name_of("", secure=secure), "", secure=secure, age_s=0)

    # --- where one is signed in ---

    def of(self, caller: Caller) -> dict[str, tuple[SignIn, bool]]:
        """Return the sign-ins of whoever asks, by what they are called, newest first, with whether it is this one."""
        own = caller.proof.id if caller.proof is not None else ""
        newest = sorted(self._signed_in(caller).items(), key=lambda pair: -pair[1].at)
        now = self._auth.clock.now()
        return {called(id_): (one, id_ == own) for id_, one in newest if one.until > now}

    async def end(self, caller: Caller, name: str) -> None:
        """End one of one's own sign-ins; `NotFound` where there is none of that name."""
        self._check_often(caller.name)
        id_ = next((one for one in self._signed_in(caller) if called(one) == name), None)
        if id_ is None:
            raise NotFound(f"{name}: you have no such sign-in (any more)")
        await end(self._members, caller.name, id_)

    async def end_others(self, caller: Caller) -> int:
        """End all sign-ins of whoever asks but this one; returns how many."""
        self._check_often(caller.name)
        own = caller.proof.id if caller.proof is not None else ""
        return await end_others(self._members, caller.name, own) if self._person(caller) is not None else 0

    def _signed_in(self, caller: Caller) -> dict[str, SignIn]:
        person = self._person(caller)
        return person.signed_in if person is not None else {}

    def _person(self, caller: Caller) -> Person | None:
        """Return who asks; None of a token that is nobody's."""
        known = caller.proof is not None and caller.proof.person
        return self._members.people.by_id(known) if known else None

    # --- what they have in common ---

    @property
    def _members(self) -> Members:
        members = self._auth.members
        assert members is not None, "at an open gateway nobody signs in"
        return members

    async def _token(self, request: web.Request, text: str) -> TokenState:
        self._auth.reached.check_line(request)
        await self._auth.caught_up()
        state = self._auth.checked(request, text)
        self._check_often(f"token/{state.id}")
        return state

    async def _spend(self, state: TokenState, name: str) -> None:
        self._auth.guard.forget(state.id)
        try:
            await spend(self._members, state.id, by=name)
        except Conflict as error:
            raise unknown(f"the token is no good any more: {error}", wrong=True) from error

    def _check_often(self, who: str) -> None:
        """Raise `Refused` with 429 where somebody signs in and out all the time; of others nobody waits for it."""
        wait_s = self._often.take(who)
        if wait_s:
            raise Refused(429, f"too often; try again in {wait_s} s", headers={"Retry-After": str(wait_s)})

    def _new(self, person: str, roles: tuple[PersonRole, ...], *, shown: float, factor: bool = False) -> Proof:
        now = self._auth.clock.now()
        return Proof(
            person=person,
            roles=roles,
            id=secrets.token_hex(16),
            at=now,
            until=now + self._auth.listening.sign_in_s,
            seen=now,
            shown=shown,
            factor=factor,
        )

    async def _begun(
        self, request: web.Request, name: str, proof: Proof, by: str, *, instead: str = ""
    ) -> tuple[Caller, str]:
        agent = request.headers.get("User-Agent", "")[:AGENT_CHARS_MAX]
        told = SignIn(at=proof.at, until=proof.until, origin=origin_of(request), by=by[:200], agent=agent)
        await begin(self._members, name, proof.id, told, instead=instead)
        return self._told(request, proof)

    async def _again(self, request: web.Request, caller: Caller, proof: Proof) -> tuple[Caller, str]:
        """Put another sign-in in the place of the one before, which is over then; it ends when that would have."""
        now = self._auth.clock.now()
        new = replace(proof, id=secrets.token_hex(16), at=now, seen=now, shown=now)
        before = self._signed_in(caller).get(proof.id)
        by = before.by if before is not None else ""
        return await self._begun(request, caller.name, new, by, instead=proof.id)

    def _told(self, request: web.Request, proof: Proof) -> tuple[Caller, str]:
        caller = self._auth.known(proof, origin_of(request), "cookie")
        secure = self._auth.reached.is_secure(request)
        age_s = self._auth.standing.until(proof) - self._auth.clock.now()
        return caller, set_cookie(
            name_of("", secure=secure), self._auth.cookies.make(proof), secure=secure, age_s=age_s
        )


def called(id_: str) -> str:
    """Return what a sign-in is called where people see it: who knows that cannot be taken for it."""
    return blake3(id_.encode()).hexdigest()[:16]
