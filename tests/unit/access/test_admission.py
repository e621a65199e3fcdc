"""Who is let in: every reason for a refusal, and the order in which they are asked."""

from __future__ import annotations

import pytest

from fedbus.access.admission import (
    FAILURES_MAX,
    WATCHED_MAX,
    WINDOW_S,
    Attempts,
    Standing,
    judge,
    judge_renewal,
    proof_of_join,
    proof_of_renewal,
)
from fedbus.access.keys import Key
from fedbus.access.sealed import seal, unseal
from fedbus.access.tokens import digest_of
from fedbus.errors import BadMessage
from fedbus.messages.access import JoinAsked, Member, RenewAsked, TokenState, WorkspaceBounds
from fedbus.messages.ids import Peer

SECRET = "s" * 43
KEY, OTHER = Key.new(), Key.new()


def token(**fields):
    """A token with two uses."""
    told = {
        "id": "t",
        "what": "join",
        "role": "client",
        "digest": digest_of(SECRET),
        "at": 1.0,
        "by": "eve",
        "uses_max": 2,
    }
    return TokenState(**told | fields)


def member(**fields):
    """An active client."""
    told = {"role": "client", "name": "c-1", "key": KEY.public, "state": "active", "at": 1.0, "by": "eve", "token": "t"}
    return Member(**told | fields)


def asked(key=KEY, signer=None, workspace="w", **fields):
    """What a client asks that has signed it."""
    told = {"token": "t", "secret": SECRET, "role": "client", "name": "c-1", "key": key.public, "proof": b""}
    unsigned = JoinAsked(**told | fields)
    return unsigned.model_copy(update={"proof": (signer or key).sign(proof_of_join(workspace, unsigned))})


def standing(**fields):
    """Nobody is there but the token."""
    told = {"token": token(), "member": None, "holder": None, "clients": 0, "bounds": WorkspaceBounds(), "now": 10.0}
    return Standing(**told | fields)


def test_whoever_has_a_good_token_is_let_in_or_waits():
    """As the token says; uses by others do not count against it while some are left."""
    assert judge("w", asked(), standing()).state == "active"
    assert judge("w", asked(), standing(token=token(approval="ask"))).state == "waiting"
    assert judge("w", asked(), standing(token=token(used_by=(OTHER.public,)))).state == "active"
    assert judge("w", asked(), standing(token=token(uses_max=0, used_by=(OTHER.public,) * 9))).state == "active"


REFUSALS = {
    "workspace w knows no such token": (asked(), standing(token=None), True),
    "knows no such token to join with": (asked(), standing(token=token(what="api")), True),
    "secret of the token is wrong": (asked(secret="x" * 43), standing(), True),
    "proof of the key is wrong": (asked(signer=OTHER), standing(), True),
    "has not signed that it wants to join under this name": (asked(workspace="v"), standing(), True),
    "lets in a client, not a combiner": (asked(role="combiner"), standing(), False),
    "is for c-9, not for c-1": (asked(), standing(token=token(name="c-9")), False),
    "it has expired": (asked(), standing(token=token(expires_at=10.0)), False),
    "it was revoked: lost": (asked(), standing(token=token(revoked_at=5.0, reason="lost")), False),
    "it is used up": (asked(), standing(token=token(used_by=(OTHER.public, OTHER.public))), False),
    "that of another member": (asked(), standing(holder=Peer("client", "c-2")), False),
    "taken by another key (active)": (asked(key=OTHER), standing(member=member()), False),
    "it does not come back": (asked(), standing(member=member(key=OTHER.public, revoked={KEY.public: 1.0})), False),
    "was suspended: leaked": (asked(), standing(member=member(state="suspended", reason="leaked")), False),
    "was expelled": (asked(), standing(member=member(state="expelled")), False),
    "joined with another token": (asked(), standing(member=member(token="u")), False),
    "its bound is 3": (asked(), standing(clients=3, bounds=WorkspaceBounds(clients_max=3)), False),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refusal_says_why(why):
    """Each reason; only what looks like somebody who tries secrets counts as an attempt."""
    request, known, is_attempt = REFUSALS[why]
    verdict = judge("w", request, known)
    assert verdict.state == "refused" and why in verdict.reason and verdict.is_attempt is is_attempt


def test_who_does_not_know_the_secret_learns_nothing():
    """A wrong secret is answered alike, whatever else is so."""
    request = asked(secret="x" * 43)
    states = [
        standing(),
        standing(token=token(revoked_at=1.0)),
        standing(token=token(expires_at=1.0)),
        standing(member=member(state="expelled")),
        standing(holder=Peer("client", "c-2")),
    ]
    assert len({judge("w", request, known).reason for known in states}) == 1


def test_asking_again_leads_to_the_same():
    """A key that has used a token is answered how it stands, also when the token is over."""
    over = token(used_by=(KEY.public, OTHER.public), expires_at=5.0)
    for state, expected in (("active", "active"), ("waiting", "waiting")):
        assert judge("w", asked(), standing(token=over, member=member(state=state))).state == expected
    assert judge("w", asked(), standing(token=over)).state == "active", "it died before the member was written"


def test_the_name_of_who_was_expelled_is_free():
    """For another key, with a token that is good."""
    expelled = member(state="expelled")
    assert judge("w", asked(key=OTHER), standing(member=expelled)).state == "active"


def test_bounds_count_clients_alone():
    """A combiner comes in where there are too many clients."""
    known = standing(token=token(role="combiner"), clients=3, bounds=WorkspaceBounds(clients_max=3))
    assert judge("w", asked(role="combiner"), known).state == "active"


ME = Peer("client", "c-1")


def renewal(new=OTHER, signer=None):
    """A request for another key."""
    return RenewAsked(new_key=new.public, proof=(signer or new).sign(proof_of_renewal("w", ME, new.public)))


def test_an_active_member_is_renewed_and_gets_another_key():
    """Its own again, or one that nobody has had."""
    assert judge_renewal("w", ME, RenewAsked(), member(), None).state == "active"
    assert judge_renewal("w", ME, renewal(), member(), None).state == "active"
    assert judge_renewal("w", ME, renewal(), member(key=OTHER.public), ME).state == "active", "asked twice"


@pytest.mark.parametrize(
    ("known", "request_", "holder", "why"),
    [
        (None, RenewAsked(), None, "did not join with a token"),
        (member(state="suspended", reason="leaked"), RenewAsked(), None, "is suspended: leaked"),
        (member(revoked={OTHER.public: 1.0}), renewal(), ME, "used before"),
        (member(), renewal(), Peer("client", "c-2"), "used before"),
        (member(), renewal(signer=KEY), None, "proof of the new key is wrong"),
    ],
)
def test_a_renewal_is_refused_with_the_reason(known, request_, holder, why):
    """Each of them."""
    verdict = judge_renewal("w", ME, request_, known, holder)
    assert verdict.state == "refused" and why in verdict.reason


def test_attempts_are_counted_for_a_while_and_are_bounded():
    """Ten within five minutes are too many; later they are forgotten; many tokens do not fill the memory."""
    attempts = Attempts()
    for _ in range(FAILURES_MAX):
        assert not attempts.are_too_many("t", 0.0)
        attempts.failed("t", 0.0)
    assert attempts.are_too_many("t", WINDOW_S - 1) and not attempts.are_too_many("u", 1.0)
    assert not attempts.are_too_many("t", WINDOW_S)
    attempts.failed("t", WINDOW_S)
    assert not attempts.are_too_many("t", WINDOW_S + 1)
    for index in range(WATCHED_MAX + 10):
        attempts.failed(f"x-{index}", 1.0)
    assert len(attempts._failures) == WATCHED_MAX


def test_secrets_are_sealed_for_one_key():
    """Another key opens nothing, a changed box opens for nobody, and of no secrets nothing is sent."""
    sealed = seal(KEY.public, {"seal": "ab" * 32})
    assert unseal(KEY, sealed) == {"seal": "ab" * 32}
    assert b"abab" not in sealed and sealed != seal(KEY.public, {"seal": "ab" * 32})
    for key, box in ((OTHER, sealed), (KEY, sealed[:-1] + bytes([sealed[-1] ^ 1])), (KEY, b"x")):
        with pytest.raises(BadMessage, match="not sealed for this key"):
            unseal(key, box)
    assert seal(KEY.public, {}) == b"" and unseal(KEY, b"") == {}
    with pytest.raises(BadMessage):
        seal(Key.new("account").public, {"seal": "x"})


def test_a_proof_for_one_name_is_none_for_another():
    """Nobody joins under a name that the key has not signed."""
    assert judge("w", asked().model_copy(update={"name": "c-2"}), standing()).is_attempt
