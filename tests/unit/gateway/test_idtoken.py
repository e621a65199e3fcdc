"""An ID token counts only as OpenID Connect says: signed by the provider's key, for us, now, and for this sign-in."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode

import pytest
from joserfc import jwk, jws, jwt

from fedbus.gateway.idtoken import KEYS_MAX, LEEWAY_S, Expected, IdTokenRefused, KeyUnknown, claims_of, keys_of

NOW = 1_700_000_000.0
EXPECTED = Expected("https://login.example", "fedbus", "nonce-of-this-one")
KEY = jwk.RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
OTHER = jwk.RSAKey.generate_key(2048, {"kid": "k1"})
KEYS = keys_of({"keys": [KEY.as_dict(private=False)]})
GOOD = {
    "iss": EXPECTED.issuer,
    "aud": EXPECTED.client_id,
    "sub": "u-1",
    "nonce": EXPECTED.nonce,
    "iat": int(NOW),
    "exp": int(NOW) + 300,
}


def signed(claims=GOOD, key=KEY, **header):
    """An ID token."""
    registry = jws.JWSRegistry(algorithms=[header.get("alg", "RS256")], strict_check_header=False)
    found = {"alg": "RS256", "kid": key.kid or "k1"} | header
    return jwt.encode(found, dict(claims), key, algorithms=[found["alg"]], registry=registry)


def part(value):
    """One part of a JWT."""
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_what_a_provider_has_signed_for_us_is_read():
    """All that stands in it."""
    assert claims_of(signed(), KEYS, EXPECTED, NOW) == GOOD


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"iss": "https://login.example/"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": []},
        {"aud": ["fedbus", "another"]},
        {"aud": ["fedbus", "another"], "azp": "another"},
        {"azp": "another"},
        {"nonce": "of another"},
        {"nonce": None},
        {"nonce": [EXPECTED.nonce]},
        {"exp": int(NOW) - LEEWAY_S - 1},
        {"exp": None},
        {"exp": "later"},
        {"exp": True},
        {"iat": int(NOW) + LEEWAY_S + 10},
        {"iat": None},
        {"nbf": int(NOW) + LEEWAY_S + 10},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
    ],
    ids=json.dumps,
)
def test_what_is_not_for_us_or_not_now_is_refused(changed):
    """Issuer, audience, authorised party, nonce, times, subject."""
    claims = {name: value for name, value in (GOOD | changed).items() if value is not None}
    with pytest.raises(IdTokenRefused):
        claims_of(signed(claims), KEYS, EXPECTED, NOW)


def test_clocks_may_differ_by_a_minute():
    """And by no more."""
    late = GOOD | {"exp": int(NOW) - LEEWAY_S + 2, "iat": int(NOW) + LEEWAY_S - 2}
    assert claims_of(signed(late), KEYS, EXPECTED, NOW)["sub"] == "u-1"


def test_several_audiences_are_taken_where_it_was_given_to_us():
    """`azp` says to whom."""
    claims = GOOD | {"aud": ["fedbus", "another"], "azp": "fedbus"}
    assert claims_of(signed(claims), KEYS, EXPECTED, NOW)["azp"] == "fedbus"


def test_another_key_of_the_same_name_is_refused():
    """A signature counts by the key, not by what it is called."""
    with pytest.raises(IdTokenRefused):
        claims_of(signed(key=OTHER), KEYS, EXPECTED, NOW)


def test_a_key_that_is_not_known_may_be_a_new_one():
    """It is told apart from one that is wrong, so that new keys are asked for."""
    with pytest.raises(KeyUnknown):
        claims_of(signed(kid="k2"), KEYS, EXPECTED, NOW)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(alg):
    """Without a signature, and with the one of another."""
    for end in ("", signed().rpartition(".")[2]):
        text = f"{part({'alg': alg, 'kid': 'k1'})}.{part(GOOD)}.{end}"
        with pytest.raises(IdTokenRefused):
            claims_of(text, KEYS, EXPECTED, NOW)


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret(alg):
    """Whoever "signs" with what everybody knows of the provider's key has signed nothing."""
    for secret in (KEY.as_pem(private=False), json.dumps(KEY.as_dict(private=False)).encode()):
        body = f"{part({'alg': alg, 'kid': 'k1'})}.{part(GOOD)}"
        mac = hmac.digest(secret, body.encode(), f"sha{alg[2:]}")
        with pytest.raises(IdTokenRefused):
            claims_of(f"{body}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}", KEYS, EXPECTED, NOW)


def test_a_key_in_the_token_itself_is_not_taken():
    """`jwk`, `jku` and `x5u` of a header lead nowhere."""
    for header in ({"jwk": OTHER.as_dict(private=False)}, {"jku": "https://evil.example/keys"}):
        with pytest.raises(IdTokenRefused):
            claims_of(signed(key=OTHER, **header), KEYS, EXPECTED, NOW)


def test_one_changed_character_is_one_too_many():
    """In the header, in what it says, in the signature."""
    text = signed()
    for index in range(0, len(text), 7):
        changed = text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]
        with pytest.raises(IdTokenRefused):
            claims_of(changed, KEYS, EXPECTED, NOW)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "ü.ü.ü", "e30.e30.", "A" * 20_000, "\0"])
def test_what_is_no_token_is_refused(text):
    """Whatever comes, it is a refusal and nothing else."""
    with pytest.raises(IdTokenRefused):
        claims_of(text, KEYS, EXPECTED, NOW)


@pytest.mark.parametrize("alg", ["ES256", "PS256", "Ed25519"])
def test_other_signatures_by_a_private_key_count(alg):
    """Of elliptic curves, of RSA with salt, of Edwards curves."""
    key = {
        "ES256": lambda: jwk.ECKey.generate_key("P-256", {"kid": "e"}),
        "PS256": lambda: KEY,
        "Ed25519": lambda: jwk.OKPKey.generate_key("Ed25519", {"kid": "o"}),
    }[alg]()
    keys = keys_of({"keys": [key.as_dict(private=False)]})
    assert claims_of(signed(key=key, alg=alg), keys, EXPECTED, NOW)["sub"] == "u-1"


def test_keys_that_sign_nothing_are_passed_over():
    """Secrets, keys to encrypt with, kinds that nobody knows; where none is left, nobody can sign in."""
    secret = jwk.OctKey.generate_key(256, {"kid": "s"}).as_dict(private=True)
    sealing = jwk.RSAKey.generate_key(2048, {"kid": "e", "use": "enc"}).as_dict(private=False)
    strange = [secret, sealing, {"kty": "AKP"}, {"kty": "RSA", "n": "x"}, "text", None, {}]
    assert [key.kid for key in keys_of({"keys": [*strange, KEY.as_dict(private=False)]})] == ["k1"]
    for document in ({"keys": strange}, {"keys": {}}, {}, [], None, {"keys": strange * KEYS_MAX}):
        with pytest.raises(IdTokenRefused):
            keys_of(document)
