"""Who is let in: decided of what stands on the boards, without acting.

The order of the questions is of weight. Until the secret was found to be right nothing is told that whoever asks does
not know already; a secret or a proof that is wrong counts as an attempt at breaking in (`Attempts`).

Asking again is always allowed, and leads to the same: whoever has used a token (its key stands in ``used_by``) is
answered how it stands now, also when the token has expired meanwhile, because a person may take longer to approve.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from fedbus.access.keys import verify
from fedbus.access.tokens import is_secret_of, is_used_up, why_not
from fedbus.messages.access import JoinAsked, Member, RenewAsked, TokenState, WorkspaceBounds
from fedbus.messages.ids import Peer

FAILURES_MAX = 10
"""Wrong secrets or proofs for one token within `WINDOW_S`: a person who mistypes needs fewer, chance needs 2^255."""

WINDOW_S = 300.0

WATCHED_MAX = 10_000
"""Tokens whose failures are counted at once; the longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands when somebody asks: ``member`` under the name that is asked for, ``holder``: whose key it is."""

    token: TokenState | None
    member: Member | None
    holder: Peer | None
    clients: int
    bounds: WorkspaceBounds
    now: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of it. ``is_attempt``: it looks like somebody who tries secrets."""

    state: Literal["active", "waiting", "refused"]
    reason: str = ""
    is_attempt: bool = False


def proof_of_join(workspace: str, asked: JoinAsked) -> bytes:
    """Return what a key signs that wants to join."""
    return f"join {workspace} {asked.token} {asked.name} {asked.key}".encode()


def proof_of_renewal(workspace: str, member: Peer, new_key: str) -> bytes:
    """Return what a new key signs that is to be a member's."""
    return f"renew {workspace} {member.role} {member.name} {new_key}".encode()


def judge(workspace: str, asked: JoinAsked, standing: Standing) -> Verdict:
    """Return what becomes of somebody who asks to be let in."""
    token = standing.token
    why = _why_nobody(workspace, asked, token)
    if why:
        return Verdict("refused", why, is_attempt=True)
    assert token is not None, "of none there is a reason above"
    why = _why_not_with_it(asked, token, standing.now) or _why_not_with_the_key(asked, standing)
    if why:
        return _refused(why)
    member = standing.member
    if member is not None and member.key == asked.key:
        return _again(member, is_known=asked.key in token.used_by)
    return _anew(asked, token, standing)


def _why_not_with_it(asked: JoinAsked, token: TokenState, now: float) -> str:
    """Return why a token is not for whoever asks; '' where it is."""
    if asked.role != token.role:
        return f"the token lets in a {token.role}, not a {asked.role}"
    if token.name and asked.name != token.name:
        return f"the token is for {token.name}, not for {asked.name}"
    return f"the token is no good: {why_not(token, now)}" if token.revoked_at else ""


def _why_not_with_the_key(asked: JoinAsked, standing: Standing) -> str:
    """Return why a key, or the name with it, cannot be taken; '' where it can."""
    if standing.holder is not None:
        return "the key is, or was, that of another member: make a new one"
    member = standing.member
    if member is None or member.key == asked.key:
        return ""
    if asked.key in member.revoked:
        return "the key was replaced by another: it does not come back"
    if member.state != "expelled":
        return f"the name {asked.name} is taken by another key ({member.state}): choose another name"
    return ""


def _why_nobody(workspace: str, asked: JoinAsked, token: TokenState | None) -> str:
    """Return why whoever asks is nobody; '' where secret and proof are right."""
    if token is None or token.what != "join":
        return f"workspace {workspace} knows no such token to join with"
    if not is_secret_of(token, asked.secret):
        return "the secret of the token is wrong"
    if not verify(asked.key, proof_of_join(workspace, asked), asked.proof):
        return "the proof of the key is wrong: whoever asks has not signed that it wants to join under this name"
    return ""


def _again(member: Member, *, is_known: bool) -> Verdict:
    """Answer a key that is known under this name."""
    told = f": {member.reason}" if member.reason else ""
    if member.state in ("suspended", "expelled"):
        return _refused(f"{member.role} {member.name} was {member.state}{told}")
    if not is_known:
        return _refused("this key has joined with another token: use that one")
    return Verdict(member.state)  # type: ignore[arg-type]  # waiting or active is left


def _anew(asked: JoinAsked, token: TokenState, standing: Standing) -> Verdict:
    """Answer a key that comes for the first time."""
    is_known = asked.key in token.used_by
    if not is_known:
        why = why_not(token, standing.now) or ("it is used up" if is_used_up(token) else "")
        if why:
            return _refused(f"the token is no good: {why}")
    most = standing.bounds.clients_max
    if asked.role == "client" and most and standing.clients >= most:
        return _refused(f"the workspace has {standing.clients} active clients, and its bound is {most}")
    return Verdict("waiting" if token.approval == "ask" else "active")


def judge_renewal(
    workspace: str, member: Peer, asked: RenewAsked, known: Member | None, holder: Peer | None
) -> Verdict:
    """Return what becomes of a member that asks for another JWT; ``holder``: whose the new key is."""
    if known is None:
        return _refused("it did not join with a token: whoever has the keys of the workspace makes it new credentials")
    if known.state != "active":
        return _refused(f"{member.role} {member.name} is {known.state}" + (f": {known.reason}" if known.reason else ""))
    new = asked.new_key
    if not new or new == known.key:
        return Verdict("active")
    if new in known.revoked or holder not in (None, member):
        return _refused("the new key is, or was, used before: make another")
    if not verify(new, proof_of_renewal(workspace, member, new), asked.proof):
        return Verdict("refused", "the proof of the new key is wrong", is_attempt=True)
    return Verdict("active")


def _refused(reason: str) -> Verdict:
    return Verdict("refused", reason)


class Attempts:
    """Failures by token; bounded, and forgotten after a while."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def are_too_many(self, token: str, now: float) -> bool:
        """Whether nobody is answered any more for a while."""
        count, since = self._failures.get(token, (0, now))
        return count >= FAILURES_MAX and now - since < WINDOW_S

    def failed(self, token: str, now: float) -> None:
        """Count a failure."""
        count, since = self._failures.pop(token, (0, now))
        self._failures[token] = (count + 1, since) if now - since < WINDOW_S else (1, now)
        while len(self._failures) > WATCHED_MAX:
            self._failures.popitem(last=False)
