"""Who one is: signing in and out, by a token or a provider, and what one may do here."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from fedbus.access.actions import Action, actions_of
from fedbus.errors import Conflict, NotFound
from fedbus.gateway.auth import unknown
from fedbus.gateway.caller import CALLER, Caller, How
from fedbus.gateway.cookies import name_of, set_cookie
from fedbus.gateway.deeds import DONE_AS, LOGIN, LOGOUT, REFUSAL
from fedbus.gateway.oidc import BEGUN_S, SignInRefused, again_of
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.problems import Refused
from fedbus.gateway.views import View
from fedbus.gateway.vouched import person_of
from fedbus.messages.access import PersonRole

TOKEN_CHARS_MAX = 256
"""Of an API token: ours have some 65."""

log = logging.getLogger("fedbus.gateway")

NO_STORE = {"Cache-Control": "no-store"}


class LoginView(View):
    """How one signs in. ``open``: not at all, everybody may do everything. ``oidc``: name of a provider, '' without."""

    open: bool
    oidc: str = ""


class LoginWanted(View):
    """With what one signs in: an API token of one's own, or the one of a link that works once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": "fba_3f2a9c_..."}]})

    token: Annotated[str, Field(min_length=1, max_length=TOKEN_CHARS_MAX)]


class MeView(View):
    """Who one is here, and what one may. ``actions``: in the words of `GET /api/v1/roles`.

    ``csrf``: what a page sends as `X-Fedbus-CSRF` with whatever changes something; '' where that is not asked for.
    ``until``: when one has to sign in again, None: not by itself. ``how``: by a bearer ``token``, by the ``cookie`` of
    a sign-in, or not at all (``open``: whoever asks is an admin). Of a sign-in: ``idle_until``, when it ends unless
    something is done (`POST /api/v1/me/active`), and ``fresh_until``, from when on what lets others in, or shuts them
    out, asks again who one is.
    """

    name: str
    roles: tuple[PersonRole, ...]
    actions: tuple[str, ...]
    csrf: str = ""
    workspace: str
    how: How
    until: float | None = None
    idle_until: float | None = None
    fresh_until: float | None = None
    open: bool


class BeginAsked(BaseModel):
    """Which sign-in begins."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    again: bool = False
    """Whether who is signed in shall show anew who she is."""


class Answered(BaseModel):
    """What a provider sends back (RFC 6749, 4.1.2; RFC 9207); what else it says is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    code: Annotated[str, Field(max_length=2048)] | None = None
    """What the ID token is given for."""

    state: Annotated[str, Field(max_length=256)] | None = None
    """What it was sent with."""

    iss: Annotated[str, Field(max_length=1000)] | None = None
    """Who it is."""

    error: Annotated[str, Field(max_length=200)] | None = None
    """Why nobody is signed in."""

    error_description: Annotated[str, Field(max_length=2000)] | None = None
    """The same, for people."""


class LoggedOut(View):
    """One is signed out."""

    name: str


async def login_options(call: Call) -> Reply:
    """How one signs in here; asked by the page before anybody has."""
    oidc = call.gateway.oidc
    return LoginView(open=call.gateway.auth.is_open, oidc=oidc.settings.title if oidc is not None else ""), NO_STORE


async def log_in(call: Call) -> Reply:
    """Sign in with an API token: the answer sets a cookie, which holds for eight hours at most (`--sign-in-max`).

    It ends before where nothing is done for two hours (`--sign-in-idle`). A wrong token is answered with 401; whoever
    brings several waits (429). At an open gateway nobody signs in (409).
    """
    request = call.request
    if call.gateway.auth.is_open:
        raise Conflict("this gateway is open: nobody has to sign in", state="open")
    request[DONE_AS] = LOGIN
    caller, cookie = await call.gateway.sign_ins.by_token(request, call.given(LoginWanted).token.strip())
    request[CALLER] = caller
    return me(call, caller), {**NO_STORE, "Set-Cookie": cookie}


async def log_in_again(call: Call) -> Reply:
    """Show anew who one is, with a token of one's own that gives no less than this sign-in: the answer sets a cookie.

    That takes the place of the one before. What asks for it (`again` of a problem) can be repeated then.
    """
    call.request[DONE_AS] = LOGIN
    token = call.given(LoginWanted).token.strip()
    caller, cookie = await call.gateway.sign_ins.again_by_token(call.request, call.caller, token)
    return me(call, caller), {**NO_STORE, "Set-Cookie": cookie}


async def log_out(call: Call) -> Reply:
    """Sign out: the cookie is taken away, and good at no gateway any more. A bearer token stays good."""
    call.request[DONE_AS] = LOGOUT
    cookie = await call.gateway.sign_ins.leave(call.request, call.caller)
    return LoggedOut(name=call.caller.name), {**NO_STORE, "Set-Cookie": cookie, "Clear-Site-Data": '"cache"'}


async def get_me(call: Call) -> Reply:
    """Who one is here, what one may, and what a page sends along with changes."""
    return me(call, call.caller), NO_STORE


def me(call: Call, caller: Caller) -> MeView:
    """Return who somebody is and what she may, as REST shows it."""
    auth, proof = call.gateway.auth, caller.proof
    by_cookie = proof if caller.how == "cookie" else None
    return MeView(
        name=caller.name,
        roles=caller.roles,
        actions=tuple(action.value for action in actions_of(caller.roles)),
        csrf=caller.csrf,
        workspace=call.gateway.federation.subjects.workspace,
        how=caller.how,
        until=proof.until or None if proof is not None else None,
        idle_until=auth.standing.idle_until(by_cookie) if by_cookie is not None else None,
        fresh_until=auth.fresh_until(caller) if by_cookie is not None else None,
        open=caller.how == "open",
    )


async def begin_oidc(call: Call) -> Reply:
    """Sign in with the provider that this gateway trusts: sends the browser there, and back to the page.

    With `again`, of who is signed in: the provider asks her anew who she is.
    """
    auth, oidc = call.gateway.auth, call.gateway.oidc
    if oidc is None:
        raise NotFound("this gateway has no provider to sign in with; `--oidc-issuer` names one")
    auth.reached.check_line(call.request)
    again = ""
    if call.asked(BeginAsked).again:
        caller = await auth.caller(call.request)
        if caller is None or caller.how != "cookie":
            raise unknown("sign in: only who is signed in can show anew who she is")
        again = call.request.cookies[name_of("", secure=auth.reached.is_secure(call.request))]
    try:
        address, begun = await oidc.begin(_callback(call), again=again)
    except SignInRefused as error:
        return _refused(call, error, "shown" if again else "login")
    cookie = _begun_cookie(call, begun, BEGUN_S)
    return web.Response(status=303, headers={**NO_STORE, "Location": address, "Set-Cookie": cookie})


async def end_oidc(call: Call) -> Reply:
    """Where the provider sends a browser back to: signs in who the provider says it is, and shows the page.

    Where that cannot be, the page says why, in a word: `#/login?refused=` `cancelled`, `unknown` (known to the
    provider, not here), `suspended`, `expired` (it took too long), `factor` (without the second factor that is asked
    for), `failed`; the audit says more. Who has shown anew who she is gets `#/shown`.
    """
    oidc, request, sign_ins = call.gateway.oidc, call.request, call.gateway.sign_ins
    members = call.gateway.members
    if oidc is None or members is None:
        raise NotFound("this gateway has no provider to sign in with; `--oidc-issuer` names one")
    request[DONE_AS] = LOGIN
    begun = request.cookies.get(name_of("begun", secure=call.gateway.auth.reached.is_secure(request)), "")
    told = {name: value for name, value in call.asked(Answered).model_dump().items() if value is not None}
    again = again_of(begun)
    where = "shown" if again else "login"
    try:
        await members.caught_up()
        identity = await oidc.finish(told, begun, _callback(call))
        person = await person_of(members, identity)
        oidc.check_factor(identity, person.roles)
        if again:
            caller, cookie = await sign_ins.again_by_provider(request, again, person, factor=identity.factor)
        else:
            by, shown, factor = oidc.settings.title, identity.shown, identity.factor
            caller, cookie = await sign_ins.by_provider(request, person, by, shown=shown, factor=factor)
    except SignInRefused as error:
        return _refused(call, error, where)
    except Refused as error:
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
        return _refused(call, SignInRefused("another" if again else "unknown", str(error)), where)
    except Conflict as error:  # it ended meanwhile, or was shown anew in another window
        return _refused(call, SignInRefused("another" if again else "failed", str(error)), where)
    request[CALLER] = caller
    response = web.Response(status=303, headers={**NO_STORE, "Location": "/#/shown" if again else "/"})
    response.headers.add("Set-Cookie", cookie)
    response.headers.add("Set-Cookie", _begun_cookie(call, "", 0))
    return response


def _refused(call: Call, error: SignInRefused, where: str) -> web.Response:
    log.info("request %s: nobody is signed in: %s", call.id, error)
    call.request[DONE_AS] = LOGIN
    call.request[REFUSAL] = str(error)[:1000]
    headers = {**NO_STORE, "Location": f"/#/{where}?refused={error.word}", "Set-Cookie": _begun_cookie(call, "", 0)}
    return web.Response(status=303, headers=headers)


def _callback(call: Call) -> str:
    """Return where the provider is to send a browser back to; it has to know this address."""
    return str(call.gateway.auth.reached.url(call.request).with_path(f"{API}/login/oidc/callback"))


def _begun_cookie(call: Call, value: str, age_s: float) -> str:
    """Return the cookie of a sign-in that is on its way; `Lax`: the provider's page leads back to us."""
    secure = call.gateway.auth.reached.is_secure(call.request)
    return set_cookie(name_of("begun", secure=secure), value, secure=secure, age_s=age_s, same_site="Lax")


SETS = {"Set-Cookie": "The session's cookie."}
TO = {"Location": "Where the browser goes.", "Set-Cookie": "Of the session, or of the way to the provider."}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "getLogin", "GET", f"{API}/login", "How one signs in", login_options, answer=LoginView, needs=None,
    ),
    Operation(
        "logIn", "POST", f"{API}/login", "Sign in with an API token", log_in, body=LoginWanted, answer=MeView,
        problems=(401, 409), headers=SETS, needs=None,
    ),
    Operation(
        "logInAgain", "POST", f"{API}/login/again", "Show anew who one is", log_in_again, body=LoginWanted,
        answer=MeView, problems=(409,), headers=SETS, needs=Action.SELF_READ,
    ),
    Operation(
        "beginOidc", "GET", f"{API}/login/oidc", "Sign in with a provider", begin_oidc, query=BeginAsked, status=303,
        problems=(401, 403, 404), media="text/html", headers=TO, needs=None,
    ),
    Operation(
        "endOidc", "GET", f"{API}/login/oidc/callback", "Come back from a provider", end_oidc, query=Answered,
        status=303, problems=(401, 404), media="text/html", headers=TO, needs=None,
    ),
    Operation(
        "logOut", "POST", f"{API}/logout", "Sign out", log_out, answer=LoggedOut, headers=SETS,
        needs=Action.SELF_READ,
    ),
    Operation(
        "getMe", "GET", f"{API}/me", "Who one is, and what one may", get_me, answer=MeView, needs=Action.SELF_READ,
    ),
)  # fmt: skip
