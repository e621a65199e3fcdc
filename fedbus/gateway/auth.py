"""Who asks, and whether she may: before anything else of a request is looked at.

    Authorization: Bearer fba_<id>_<secret>     a program; the token says whose it is and which role it gives
    Cookie: __Host-fedbus=...                   a page, after `sign_in`; what changes something brings X-Fedbus-CSRF too
    neither                                     401, but for the few operations that are open to anybody

What a token or a cookie says is who somebody is. What she may is looked up each time, in what is known in memory of
tokens and people (`fedbus.access.members`), so that whoever is revoked, suspended or given another role is so from the
next request on; streams look again whenever something has changed there (`Auth.ended`).

A gateway without credentials of its own is *open*: nobody is asked, everybody is a local admin.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import cast

from aiohttp import web
from yarl import URL

from fedbus.access.actions import ABOUT, Action, may, permitted_to
from fedbus.access.boards import Board
from fedbus.access.members import Members
from fedbus.access.names import id_of
from fedbus.access.signin import end, spend
from fedbus.access.tokens import is_secret_of, read_api_token, why_not
from fedbus.clock import Clock
from fedbus.errors import BusUnavailable, ConfigError, Conflict
from fedbus.gateway.caller import Caller, How, Proof, anybody
from fedbus.gateway.cookies import LIFE_S, Cookies, name_of, set_cookie
from fedbus.gateway.guard import Guard
from fedbus.gateway.hosts import is_here
from fedbus.gateway.limits import Rate
from fedbus.gateway.operations import Operation
from fedbus.gateway.origins import origin_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.standing import Over, Standing
from fedbus.messages.access import Person, PersonRole, TokenState

CSRF = "X-Fedbus-CSRF"
"""Header of requests that change something, of whoever comes with a cookie."""

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

CLAIMED: web.RequestKey[str] = web.RequestKey("claimed", str)
"""Whose credentials came with a request, whether or not they are good: for the audit."""

OFTEN_PER_S, OFTEN_BURST = 0.2, 30
"""How often somebody signs in and out: each is a deed, and whoever only looks shall not fill the audit."""

KNOWN_S_MAX = 3.0
"""How long a request waits for a gateway that has just started to have read who is known."""

_NOBODY = TokenState(id="nobody", what="api", role="viewer", digest="0" * 64, at=0.0, by="")
"""What the secret of an unknown token is compared with, so that it takes as long as with a known one."""


class Auth:
    """Knows who asks a gateway. ``members`` None: it is open. ``secret``: of its gateways, of which cookies are made.

    ``public_url``: where browsers find it behind a proxy that ends their TLS; empty: where it listens itself.
    """

    def __init__(
        self, members: Members | None, clock: Clock, workspace: str, secret: bytes = b"", public_url: str = ""
    ) -> None:
        self.members = members
        self.guard = Guard(clock.now)
        self._often = Rate(OFTEN_PER_S, OFTEN_BURST, clock.now)
        self._clock = clock
        self._public = _checked_url(public_url) if public_url else None
        self._changed = asyncio.Event()
        if members is not None:
            self._cookies = Cookies(secret, workspace)
            self._standing = Standing(members, clock)
            members.listen(self._hear)

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked who she is."""
        return self.members is None

    def _hear(self, _: Board) -> None:
        """Wake those who look whether somebody is still let in."""
        self._changed.set()
        self._changed = asyncio.Event()

    # --- a request ---

    async def admit(self, request: web.Request, operation: Operation) -> Caller:
        """Return who asks, where she may do that; `Refused` with 401, 403 or 429 where not."""
        if self.members is None:
            return anybody(origin_of(request))
        if operation.needs is None:
            return Caller(name="", roles=(), origin=origin_of(request), how="nobody")
        caller = await self.caller(request)
        if caller is None:
            raise unknown("sign in: with `Authorization: Bearer fba_...`, or with a cookie of POST /api/v1/login")
        request[CLAIMED] = caller.name
        if caller.how == "cookie" and request.method not in SAFE:
            given = request.headers.get(CSRF, "")
            if not hmac.compare_digest(given.encode(errors="replace"), caller.csrf.encode()):
                raise Refused(403, f"{CSRF}: expected the value that GET /api/v1/me gives as `csrf`")
        if not caller.may(operation.needs):
            raise forbidden(caller, operation.needs)
        return caller

    async def caller(self, request: web.Request) -> Caller | None:
        """Return who asks, None where she does not say; `Refused` with 401 or 429 where what she says is no good."""
        origin = origin_of(request)
        if "Authorization" in request.headers:
            await self._caught_up()
            scheme, _, text = request.headers["Authorization"].partition(" ")
            if scheme.lower() != "bearer":
                raise unknown("expected `Authorization: Bearer fba_...`: no other scheme is known here")
            state = self._checked(request, text.strip())
            if state.uses_max:
                raise unknown(
                    "this token is good for signing in once (POST /api/v1/login), not as a bearer", wrong=True
                )
            return self._known(_proof_of(state), origin, "token")
        cookie = request.cookies.get(name_of("", secure=self.is_secure(request)))
        if cookie is None:
            return None
        await self._caught_up()
        proof = self._cookies.read(cookie, self._clock.now())
        if proof is None:
            raise unknown("you are not signed in any more: sign in again", wrong=True)
        return self._known(proof, origin, "cookie")

    def _checked(self, request: web.Request, text: str) -> TokenState:
        """Return the token that a text is of; `Refused` where there is none such, without saying what is wrong."""
        assert self.members is not None, "an open gateway looks at no token"
        origin = origin_of(request)
        id_, secret = read_api_token(text) or ("", "")
        wait_s = self.guard.wait_s(origin, id_)
        if wait_s:
            raise Refused(429, f"too many wrong tokens; try again in {wait_s} s", headers={"Retry-After": str(wait_s)})
        state = self.members.tokens.get(id_)
        if state is not None:
            request[CLAIMED] = f"token/{id_}"
        is_right = is_secret_of(state or _NOBODY, secret)
        if state is None or state.what != "api" or not is_right:
            self.guard.failed(origin, id_)
            raise unknown("the token is not valid", wrong=True)
        if why := why_not(state, self._clock.now()):
            self.guard.forget(id_)
            raise unknown(f"the token is no good any more: {why}", wrong=True)
        self.guard.succeeded(origin, id_)
        return state

    def _known(self, proof: Proof, origin: str, how: How) -> Caller:
        """Return who somebody is now; `Refused` where she is let in no more."""
        try:
            name, roles = self._standing.of(proof)
        except Over as over:
            raise unknown(str(over), wrong=True) from over
        csrf = self._cookies.csrf(proof) if how == "cookie" else ""
        return Caller(name=name, roles=roles, origin=origin, how=how, csrf=csrf, proof=proof)

    async def _caught_up(self) -> None:
        """Wait for what is known of people and tokens; `BusUnavailable` where it cannot be read."""
        assert self.members is not None, "an open gateway knows nobody"
        try:
            async with asyncio.timeout(KNOWN_S_MAX):
                await self.members.caught_up()
        except TimeoutError as error:
            raise BusUnavailable("who is known here has not been read yet: the broker is slow, or away") from error

    # --- while it goes on ---

    def still(self, caller: Caller, action: Action) -> bool:
        """Whether somebody who was let in a while ago would be let in now."""
        if caller.proof is None:
            return caller.how == "open"
        try:
            _, roles = self._standing.of(caller.proof)
        except Over:
            return False
        return may(roles, action)

    async def ended(self, caller: Caller, action: Action) -> None:
        """Return as soon as somebody is let in no more; at an open gateway never."""
        while self.still(caller, action):
            changed = self._changed
            left_s = caller.until - self._clock.now() if caller.until else None
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await changed.wait()

    # --- signing in and out ---

    def is_secure(self, request: web.Request) -> bool:
        """Whether a browser came over HTTPS, to us or to the proxy in front of us."""
        if request.secure:
            return True
        if self._public is None or self._public.scheme != "https":
            return False
        return _authority(request) == self._public.authority

    def url_of(self, request: web.Request) -> URL:
        """Return where a browser reaches this gateway; `Refused` with 421 where it asks by what leads nowhere."""
        try:
            return self._public or URL(f"{request.scheme}://{request.headers.get('Host', '')}")
        except ValueError as error:  # a port of 99999, half an address
            raise Refused(421, "Host: nothing can be reached by that") from error

    def check_line(self, request: web.Request) -> None:
        """Raise `Refused` where what is sent, and the cookie in the answer, could be read on the way."""
        if not self.is_secure(request) and not is_here(request.headers.get("Host")):
            raise Refused(
                403,
                "signing in over plain HTTP from another machine would show it to everybody on the way: use HTTPS "
                "(--tls-cert), or tell the gateway which https:// address leads to it (--public-url)",
            )

    async def sign_in(self, request: web.Request, text: str) -> tuple[Caller, str]:
        """Return who a token is of, and a cookie; `Refused` with 401, 403 or 429. A token for one sign-in is spent."""
        assert self.members is not None, "at an open gateway nobody signs in"
        self.check_line(request)
        await self._caught_up()
        state = self._checked(request, text)
        self._check_often(f"token/{state.id}")
        if not state.name:
            raise unknown(
                "the token is nobody's: it is a bearer for programs; people sign in with one of their own", wrong=True
            )
        caller = self._known(_proof_of(state), origin_of(request), "token")
        proof = self._begun(state.name, _roles(state))
        if state.uses_max:
            self.guard.forget(state.id)
            try:
                await spend(self.members, state.id, by=caller.name)
            except Conflict as error:
                raise unknown(f"the token is no good any more: {error}", wrong=True) from error
        else:
            until = min(proof.until, state.expires_at or proof.until)
            proof = replace(proof, token=state.id, until=until)
        return self._signed_in(request, proof)

    def _check_often(self, who: str) -> None:
        """Raise `Refused` with 429 where somebody signs in and out all the time; of others nobody waits for it."""
        wait_s = self._often.take(who)
        if wait_s:
            raise Refused(429, f"too often; try again in {wait_s} s", headers={"Retry-After": str(wait_s)})

    def sign_in_as(self, request: web.Request, person: Person) -> tuple[Caller, str]:
        """Return who somebody is whom a provider has vouched for, and a cookie; `Refused` where she is not let in."""
        return self._signed_in(request, self._begun(id_of(person.name), ()))

    def _begun(self, person: str, roles: tuple[PersonRole, ...]) -> Proof:
        now = self._clock.now()
        return Proof(person=person, roles=roles, id=secrets.token_hex(16), at=now, until=now + LIFE_S)

    def _signed_in(self, request: web.Request, proof: Proof) -> tuple[Caller, str]:
        caller = self._known(proof, origin_of(request), "cookie")
        secure = self.is_secure(request)
        age_s = proof.until - self._clock.now()
        return caller, set_cookie(name_of("", secure=secure), self._cookies.make(proof), secure=secure, age_s=age_s)

    async def sign_out(self, request: web.Request, caller: Caller) -> str:
        """End a session everywhere; returns the header that takes its cookie away."""
        self._check_often(caller.name)
        if caller.how == "cookie" and caller.proof is not None and self.members is not None:
            person = self.members.people.by_id(caller.proof.person)
            if person is not None:
                await end(self.members, person, caller.proof.id, caller.proof.until)
        secure = self.is_secure(request)
        return set_cookie(name_of("", secure=secure), "", secure=secure, age_s=0)


def unknown(detail: str, *, wrong: bool = False) -> Refused:
    """Return what is answered to somebody who has not said who she is, or (``wrong``) whose word is no good."""
    error = ', error="invalid_token"' if wrong else ""
    return Refused(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": f'Bearer realm="fedbus"{error}'})


def forbidden(caller: Caller, action: Action) -> Refused:
    """Return what is answered to somebody who may not do that: what is missing, and who has it."""
    roles = permitted_to(action)
    return Refused(
        HTTPStatus.FORBIDDEN,
        f"{caller.name} ({', '.join(caller.roles)}) lacks the permission {action.value}, to {ABOUT[action]}; "
        f"who has it: {', '.join(roles)}",
        permission=action.value,
        permitted_to=roles,
    )


def _proof_of(state: TokenState) -> Proof:
    return Proof(person=state.name, token=state.id, roles=_roles(state), at=state.at, until=state.expires_at)


def _roles(state: TokenState) -> tuple[PersonRole, ...]:
    """Return the role that an API token gives; one that nobody knows permits nothing."""
    return (cast("PersonRole", state.role),)


def _checked_url(text: str) -> URL:
    """Return an address of a gateway; `ConfigError` where it is none."""
    with suppress(ValueError):
        found = URL(text)
        if found.scheme in ("http", "https") and found.host and found.path == "/" and not found.query_string:
            return found
    raise ConfigError(f"--public-url: expected https://HOST or https://HOST:PORT, got {text[:200]!r}")


def _authority(request: web.Request) -> str:
    with suppress(ValueError):
        return URL(f"https://{request.headers.get('Host', '')}").authority
    return ""
