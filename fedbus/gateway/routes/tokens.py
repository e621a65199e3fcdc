"""Tokens: what was handed out so that machines can join and people can log in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedbus.access.actions import ROLES, Action
from fedbus.access.people import People
from fedbus.access.tokens import NewToken, Tokens, state_word
from fedbus.gateway.deeds import WHY
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged
from fedbus.gateway.problems import Refused
from fedbus.gateway.secured import author_of, has_text, members_of, newest
from fedbus.gateway.views import FieldProblem, Page
from fedbus.gateway.views_access import TokenMade, TokenStatus, TokenView, TokenWanted
from fedbus.messages.access import TokenState
from fedbus.messages.ids import Reason

NO_STORE = {"Cache-Control": "no-store"}
"""Of what holds a secret: no cache may keep it."""

STATUS: dict[str, TokenStatus] = {"good": "open", "used up": "used", "expired": "expired", "revoked": "revoked"}


class TokensAsked(Paged):
    """Which tokens."""

    what: Literal["join", "api"] | None = None
    """Only those that machines join by, or only those that people log in with."""

    status: TokenStatus | None = None
    """Only those that stand so."""

    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in their id, role or name, or in who made them."""


class Why(BaseModel):
    """Why it is revoked."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    reason: Reason = ""
    """What is written down about it."""


async def list_tokens(call: Call) -> Reply:
    """Tokens that were handed out, newest first; never their secrets, which nobody has kept."""
    query = call.asked(TokensAsked)
    members = await members_of(call)
    now = call.gateway.clock.now()
    views = (token_view(state, members.people, now) for state in members.tokens.all())
    wanted = (one for one in views if query.what in (None, one.what) and query.status in (None, one.status))
    found = (one for one in wanted if has_text(query.text, one.token, one.role, one.name, one.by, one.owner))
    return newest(found, query, lambda one: one.at, lambda one: one.token)


async def create_token(call: Call) -> Reply:
    """Make a token.

    Its text is in this answer and nowhere else: a repeat makes another one, whatever its `Idempotency-Key`. Revoke the
    one whose answer was lost.
    """
    wanted = call.given(TokenWanted)
    members = await members_of(call)
    made, text = await (_join if wanted.what == "join" else _api)(call, wanted, members.tokens, members.people)
    view = token_view(made.state, members.people, call.gateway.clock.now())
    command = f"fedbus join {text}" if wanted.what == "join" else ""
    told = TokenMade(**view.model_dump(), text=text, command=command)
    return told, {**NO_STORE, "Location": f"{API}/tokens/{view.token}"}


async def _join(call: Call, wanted: TokenWanted, tokens: Tokens, people: People) -> tuple[NewToken, str]:
    trust = call.gateway.trust
    if trust is None or not trust.urls:
        raise Refused(409, "this gateway does not know under which address machines reach the broker: `--join-url`")
    if wanted.owner:
        _check_person("owner", wanted.owner, people)
    made = await tokens.create_join(
        wanted.role,
        by=author_of(call),
        name=wanted.name,
        expires_s=wanted.expires_s,
        uses_max=wanted.uses_max,
        approval=wanted.approval,
        owner=wanted.owner,
    )
    return made, await tokens.join_text(made, trust.urls, trust.ca)


async def _api(call: Call, wanted: TokenWanted, tokens: Tokens, people: People) -> tuple[NewToken, str]:
    if wanted.name:
        _check_person("name", wanted.name, people)
    role = next((one for one in ROLES if one == wanted.role), None)
    if role is None:
        raise _wrong("role", f"expected a role of people: {', '.join(ROLES)}", wanted.role)
    if wanted.uses_max > 1:
        raise _wrong("uses_max", "expected 1 (it signs in once) or 0 (it is a bearer)", str(wanted.uses_max))
    made = await tokens.create_api(
        role,
        by=author_of(call),
        person=wanted.name,
        expires_s=wanted.expires_s,
        uses_max=1 if wanted.uses_max else 0,
    )
    return made, made.api_text


def _check_person(field: str, name: str, people: People) -> None:
    if people.get(name) is None:
        raise _wrong(field, "expected a person who is known; `POST /people` adds one", name)


def _wrong(field: str, problem: str, got: str) -> Refused:
    where = f"body.{field}"
    return Refused(422, f"{where}: {problem}", errors=[FieldProblem(where=where, problem=problem, got=got[:100])])


async def revoke_token(call: Call) -> Reply:
    """Let nobody in by a token any more; who is in stays. The answer is how it stands."""
    members = await members_of(call)
    call.request[WHY] = reason = call.asked(Why).reason
    state = await members.tokens.revoke(call.path["token"], by=author_of(call), reason=reason)
    return token_view(state, members.people, call.gateway.clock.now())


def token_view(state: TokenState, people: People, now: float) -> TokenView:
    """Return a token as REST shows it."""
    person = people.by_id(state.name) if state.what == "api" else None
    return TokenView(
        token=state.id,
        what=state.what,
        role=state.role,
        name=person.name if person is not None else state.name,
        status=STATUS[state_word(state, now)],
        at=state.at,
        by=state.by,
        expires_at=state.expires_at or None,
        uses=len(state.used_by),
        uses_max=state.uses_max,
        approval=state.approval,
        owner=state.owner,
        revoked_at=state.revoked_at or None,
        reason=state.reason,
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listTokens", "GET", f"{API}/tokens", "Tokens that were handed out", list_tokens, "fedbus token list --json",
        "fedbus.access.tokens.Tokens.all", query=TokensAsked, answer=Page[TokenView], problems=(409,),
        needs=Action.TOKEN_READ,
    ),
    Operation(
        "createToken", "POST", f"{API}/tokens", "Hand out a token", create_token, "fedbus token create --role ROLE",
        "fedbus.access.tokens.Tokens.create_join", body=TokenWanted, answer=TokenMade, status=201, problems=(409,),
        headers={"Location": "Where the token is.", "Cache-Control": "`no-store`: its text is a secret."},
        needs=Action.TOKEN_CREATE, asks_again=True,
    ),
    Operation(
        "revokeToken", "DELETE", f"{API}/tokens/{{token}}", "Let nobody in by a token any more", revoke_token,
        "fedbus token revoke TOKEN", "fedbus.access.tokens.Tokens.revoke", query=Why, answer=TokenView,
        problems=(404, 409), needs=Action.TOKEN_REVOKE,
    ),
)  # fmt: skip
