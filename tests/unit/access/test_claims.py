"""JWTs of members: whose signature counts, for which role, and what is none."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.access.claims import claims_of, is_same, read_claims, read_user, signed, user_jwt
from fedbus.access.keys import Key
from fedbus.errors import BadMessage

ACCOUNT, CLIENTS, COMBINERS, USER = Key.new("account"), Key.new("account"), Key.new("account"), Key.new()
SIGNERS = {"client": CLIENTS.public, "combiner": COMBINERS.public}


def made(**changes):
    """Return the JWT of a client."""
    said = {"workspace": "w", "role": "client", "name": "c-1", "key": USER.public, "issued_at": 7.9}
    return user_jwt(changes.pop("signer", CLIENTS), ACCOUNT.public, **said | changes)


def test_a_member_is_who_its_jwt_says():
    """All that was put in comes out, times as whole seconds."""
    found = read_user(made(expires_at=99.5), SIGNERS)
    assert (found.workspace, found.role, found.name, found.key) == ("w", "client", "c-1", USER.public)
    assert (found.account, found.issuer, found.issued_at, found.expires_at) == (
        ACCOUNT.public,
        CLIENTS.public,
        7.0,
        99.0,
    )


def test_a_role_is_signed_by_its_own_key_alone():
    """Whoever may sign clients makes no combiner, and a stranger nobody."""
    for signer, role in ((CLIENTS, "combiner"), (COMBINERS, "client"), (Key.new("account"), "client")):
        with pytest.raises(BadMessage, match="was not signed by this workspace"):
            read_user(made(signer=signer, role=role), SIGNERS)
    with pytest.raises(BadMessage, match="was not signed"):
        read_user(made(role="admin"), SIGNERS)


def test_an_older_signing_key_counts_beside_the_new():
    """Several of one role, joined by commas, as long as an operator changes them."""
    newer = Key.new("account")
    both = {"client": f"{CLIENTS.public},{newer.public}"}
    assert read_user(made(), both).name == read_user(made(signer=newer), both).name == "c-1"


@given(st.data())
def test_no_letter_of_a_jwt_may_be_changed(data):
    """Whatever is changed in it, it is another's word or none."""
    jwt = made()
    at = data.draw(st.integers(0, len(jwt) - 1))
    letter = data.draw(st.sampled_from("ABab01_-.").filter(lambda one: one != jwt[at]))
    changed = jwt[:at] + letter + jwt[at + 1 :]
    try:
        found = read_user(changed, SIGNERS)
    except BadMessage:
        return
    # the last letter of base64 holds bits that nobody reads
    assert at == len(jwt) - 1
    assert found == read_user(jwt, SIGNERS)


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda raw: f"e30.{raw.hex()}.x")))
def test_what_is_no_jwt_is_a_bad_message(text):
    """Any text is refused with a reason, never with another error."""
    with pytest.raises(BadMessage):
        read_user(text, SIGNERS)


@pytest.mark.parametrize(
    "nats",
    [
        {"type": "account"},
        {"type": "user", "tags": ["role:client"]},
        {"type": "user", "tags": "role:client"},
        {"type": "user", "tags": [["role:client"], 3, None, "workspace:w"]},
        {"type": "user", "tags": ["role:cl ient", "workspace:w"]},
    ],
)
def test_what_is_not_of_a_member_is_refused(nats):
    """The JWT of an account, of a user without role or workspace, or with names that are none."""
    jwt = signed({"name": "c-1", "sub": USER.public, "iat": 1, "nats": nats}, CLIENTS)
    with pytest.raises(BadMessage, match="expected the JWT of a member"):
        claims_of(jwt)


def test_what_says_the_same_at_another_time_is_the_same():
    """Date and digest apart; a name, a time of its end or a signer make it another."""
    assert is_same(made(), made(issued_at=900))
    for changes in ({"name": "c-2"}, {"expires_at": 50}, {"signer": COMBINERS}):
        assert not is_same(made(), made(**changes))
    with pytest.raises(BadMessage):
        is_same("", made())


def test_deep_json_is_refused():
    """Nesting costs an error, not the process."""
    deep = base64.urlsafe_b64encode(b"[" * 40_000).decode()
    with pytest.raises(BadMessage):
        read_claims(f"e30.{deep}.x")


def test_an_expired_jwt_is_read():
    """Whether its time is over is for whoever knows what time it is."""
    assert read_user(made(issued_at=1, expires_at=2), SIGNERS).expires_at == 2


def test_the_id_is_that_of_what_it_says():
    """NATS' digest of the claims without an id: the same claims have the same."""
    claims = json.loads(base64.urlsafe_b64decode(made().split(".")[1] + "=="))
    assert made() == made()
    assert len(claims["jti"]) == 52


@pytest.mark.parametrize("time", ["1" + "0" * 400, "-1", "1e400", "true", "NaN", "1.5", '"1"', str(2**53)])
@pytest.mark.parametrize("field", ["iat", "exp"])
def test_times_that_no_clock_has_are_refused(time, field):
    """A number of four hundred digits is JSON and no float: whoever reads an unsigned JWT must not end on it."""
    signer, key = Key.new("account"), Key.new()
    middle = (
        f'{{"iat":1,"exp":2,"iss":"{signer.public}","name":"a","sub":"{key.public}","nats":{{"type":"user",'
        f'"issuer_account":"x","tags":["role:client","workspace:w"]}},"{field}":{time}}}'
    )
    text = f"e30.{base64.urlsafe_b64encode(middle.encode()).decode().rstrip('=')}"
    signature = base64.urlsafe_b64encode(signer.sign(text.encode())).decode().rstrip("=")
    with pytest.raises(BadMessage):
        read_user(f"{text}.{signature}", {"client": signer.public})
