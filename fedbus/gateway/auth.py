"""Who asks, and whether she may: before anything else of a request is looked at.

    Authorization: Bearer fba_<id>_<secret>     a program; the token says whose it is and which role it gives
    Cookie: __Host-fedbus=...                   a page, after `sign_in`; what changes something brings X-Fedbus-CSRF too
    neither                                     401, but for the few operations that are open to anybody

What a token or a cookie says is who somebody is. What she may is looked up each time, in what is known in memory of
tokens and people (`fedbus.access.members`), so that whoever is revoked, suspended or given another role is so from the
next request on; streams look again whenever something has changed there (`Auth.ended`). Whoever comes with a cookie is
asked anew who she is before what lets others in or shuts them out (`Operation.asks_again`). How cookies come about is
told in `fedbus.gateway.signins`.

A gateway without credentials of its own is *open*: nobody is asked, everybody is a local admin.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import cast

from aiohttp import web

from fedbus.access.actions import ABOUT, Action, may, permitted_to
from fedbus.access.boards import Board
from fedbus.access.members import Members
from fedbus.access.tokens import is_secret_of, read_api_token, why_not
from fedbus.clock import Clock
from fedbus.errors import BusUnavailable
from fedbus.gateway.caller import Caller, How, Proof, anybody
from fedbus.gateway.cookies import Cookies, name_of
from fedbus.gateway.guard import Guard
from fedbus.gateway.listening import Listening
from fedbus.gateway.operations import Operation
from fedbus.gateway.origins import origin_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.reached import Reached
from fedbus.gateway.standing import Over, Standing
from fedbus.messages.access import PersonRole, TokenState

CSRF = "X-Fedbus-CSRF"
"""Header of requests that change something, of whoever comes with a cookie."""

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

CLAIMED: web.RequestKey[str] = web.RequestKey("claimed", str)
"""Whose credentials came with a request, whether or not they are good: for the audit."""

KNOWN_S_MAX = 3.0
"""How long a request waits for a gateway that has just started to have read who is known."""

_NOBODY = TokenState(id="nobody", what="api", role="viewer", digest="0" * 64, at=0.0, by="")
"""What the secret of an unknown token is compared with, so that it takes as long as with a known one."""


class Auth:
    """Knows who asks a gateway. ``members`` None: it is open. ``secret``: of its gateways, of which cookies are made.

    ``listening``: how long a sign-in lasts, and where browsers find it. ``factor_roles``: who needs a second factor.
    ``reached``: under which address. ``standing``: who is let in now.
    """

    def __init__(
        self,
        members: Members | None,
        clock: Clock,
        workspace: str,
        secret: bytes = b"",
        listening: Listening | None = None,
        factor_roles: Iterable[PersonRole] = (),
    ) -> None:
        self.members = members
        self.listening = listening or Listening()
        self.guard = Guard(clock.now)
        self.reached = Reached(self.listening.public_url)
        self.clock = clock
        self._changed = asyncio.Event()
        if members is not None:
            self.cookies = Cookies(secret, workspace)
            self.standing = Standing(members, clock, self.listening, factor_roles)
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
        if operation.asks_again and self.fresh_until(caller) <= self.clock.now():
            raise Refused(
                403,
                "show again who you are: this lets others in or shuts them out, and you signed in a while ago "
                "(POST /api/v1/login/again, or GET /api/v1/login/oidc?again=true)",
                title="Who are you?",
                again=True,
            )
        return caller

    def fresh_until(self, caller: Caller) -> float:
        """Return until when somebody is not asked anew who she is; of who is known by no cookie, for ever."""
        if caller.how != "cookie" or caller.proof is None:
            return float("inf")
        return caller.proof.shown + self.listening.ask_again_s

    async def caller(self, request: web.Request) -> Caller | None:
        """Return who asks, None where she does not say; `Refused` with 401 or 429 where what she says is no good."""
        origin = origin_of(request)
        if "Authorization" in request.headers:
            await self.caught_up()
            scheme, _, text = request.headers["Authorization"].partition(" ")
            if scheme.lower() != "bearer":
                raise unknown("expected `Authorization: Bearer fba_...`: no other scheme is known here")
            state = self.checked(request, text.strip())
            if state.uses_max:
                raise unknown(
                    "this token is good for signing in once (POST /api/v1/login), not as a bearer", wrong=True
                )
            return self.known(proof_of(state), origin, "token")
        cookie = request.cookies.get(name_of("", secure=self.reached.is_secure(request)))
        if cookie is None:
            return None
        await self.caught_up()
        proof = self.cookies.read(cookie, self.clock.now())
        if proof is None:
            raise unknown("you are not signed in any more: sign in again", wrong=True)
        return self.known(proof, origin, "cookie")

    def checked(self, request: web.Request, text: str) -> TokenState:
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
        if why := why_not(state, self.clock.now()):
            self.guard.forget(id_)
            raise unknown(f"the token is no good any more: {why}", wrong=True)
        self.guard.succeeded(origin, id_)
        return state

    def known(self, proof: Proof, origin: str, how: How) -> Caller:
        """Return who somebody is now; `Refused` where she is let in no more."""
        try:
            name, roles = self.standing.of(proof)
        except Over as over:
            raise unknown(str(over), wrong=True) from over
        csrf = self.cookies.csrf(proof) if how == "cookie" else ""
        return Caller(name=name, roles=roles, origin=origin, how=how, csrf=csrf, proof=proof)

    async def caught_up(self) -> None:
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
            _, roles = self.standing.of(caller.proof)
        except Over:
            return False
        return may(roles, action)

    async def ended(self, caller: Caller, action: Action) -> None:
        """Return as soon as somebody is let in no more; at an open gateway never."""
        while self.still(caller, action):
            changed = self._changed
            until = self.standing.until(caller.proof) if caller.proof is not None else 0.0
            left_s = until - self.clock.now() if until else None
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await changed.wait()


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


def proof_of(state: TokenState) -> Proof:
    """Return what a token proves."""
    return Proof(person=state.name, token=state.id, roles=roles_of(state), at=state.at, until=state.expires_at)


def roles_of(state: TokenState) -> tuple[PersonRole, ...]:
    """Return the role that an API token gives; one that nobody knows permits nothing."""
    return (cast("PersonRole", state.role),)
