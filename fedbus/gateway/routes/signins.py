"""Where one is signed in: one's own sign-ins, seen and ended, and the word that one is still there."""

from __future__ import annotations

from fedbus.access.actions import Action
from fedbus.gateway.deeds import DONE_AS, LOGOUT
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.routes.login import NO_STORE, SETS, MeView, me
from fedbus.gateway.views import Page, View


class SignInView(View):
    """A sign-in of one's own. ``at``: when it began, ``until``: when it ends at the latest; before, where it is idle.

    ``origin``: from which address; ``by``: with what (``token <id>``, ``link``, the provider); ``agent``: what the
    browser calls itself. ``this``: it is the one that asks.
    """

    sign_in: str
    at: float
    until: float
    origin: str
    by: str
    agent: str
    this: bool


class SignInsEnded(View):
    """How many sign-ins were ended."""

    ended: int


async def stay(call: Call) -> Reply:
    """Say that one is still there: a page does so while somebody uses it, and her sign-in does not end as idle."""
    if call.gateway.auth.is_open:
        return me(call, call.caller), NO_STORE
    caller, cookie = call.gateway.sign_ins.stay(call.request, call.caller)
    return me(call, caller), {**NO_STORE, **({"Set-Cookie": cookie} if cookie else {})}


async def list_sign_ins(call: Call) -> Reply:
    """Where one is signed in: those that have not ended; nowhere at an open gateway, and with a token of nobody."""
    return _listed(call), NO_STORE


def _listed(call: Call) -> Page[SignInView]:
    found = {} if call.gateway.auth.is_open else call.gateway.sign_ins.of(call.caller)
    items = tuple(
        SignInView(sign_in=name, at=one.at, until=one.until, origin=one.origin, by=one.by, agent=one.agent, this=this)
        for name, (one, this) in found.items()
    )
    return Page[SignInView](items=items, next=None, total=len(items))


async def end_sign_in(call: Call) -> Reply:
    """End one of one's own sign-ins: its cookie is good nowhere any more. The answer is what is left."""
    call.request[DONE_AS] = LOGOUT
    await call.gateway.sign_ins.end(call.caller, call.path["sign_in"])
    return _listed(call), NO_STORE


async def end_others(call: Call) -> Reply:
    """End all of one's own sign-ins but the one that asks; a bearer's are all of them."""
    call.request[DONE_AS] = LOGOUT
    return SignInsEnded(ended=await call.gateway.sign_ins.end_others(call.caller)), NO_STORE


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "stay", "POST", f"{API}/me/active", "Say that one is still there", stay, answer=MeView, headers=SETS,
        needs=Action.SELF_READ,
    ),
    Operation(
        "listSignIns", "GET", f"{API}/me/sign-ins", "Where one is signed in", list_sign_ins, answer=Page[SignInView],
        needs=Action.SELF_READ,
    ),
    Operation(
        "endOtherSignIns", "DELETE", f"{API}/me/sign-ins", "Sign out everywhere else", end_others,
        answer=SignInsEnded, problems=(409,), needs=Action.SELF_READ, asks_again=True,
    ),
    Operation(
        "endSignIn", "DELETE", f"{API}/me/sign-ins/{{sign_in}}", "Sign out somewhere else", end_sign_in,
        answer=Page[SignInView], problems=(409,), needs=Action.SELF_READ, asks_again=True,
    ),
)  # fmt: skip
