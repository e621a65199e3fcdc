"""ID tokens of an OIDC provider (OpenID Connect Core, 3.1.3.7): whose signature counts, for whom, until when.

Only signatures by a private key are taken (`ALGORITHMS`): a token without one, or "signed" with a secret that the
provider's public key could be taken for, is refused before anything in it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jwk, jws, jwt
from joserfc.errors import InvalidKeyIdError, JoseError

from fedbus.errors import FedbusError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Signatures that count: those of RFC 7518 and RFC 8037 by a private key."""

KEY_TYPES = ("RSA", "EC", "OKP")

LEEWAY_S = 60
"""How far the provider's clock may be from ours."""

TOKEN_CHARS_MAX = 16 * 1024
"""Of an ID token: some 1 KB, and 40 bytes for each group that somebody is in."""

KEYS_MAX = 32
"""Of a provider's keys: the one that signs, the one before, and the one behind it."""

SUBJECT_CHARS_MAX = 255
"""Longest `sub` (Core, 2)."""


_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises of JSON that is another than a key or a token is."""


class IdTokenRefused(FedbusError):
    """An ID token that does not count; the text says why."""


class KeyUnknown(IdTokenRefused):
    """An ID token signed by a key that is not among those known: there may be new ones."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token has to say."""

    issuer: str
    client_id: str
    nonce: str


def keys_of(document: Any) -> jwk.KeySet:  # noqa: ANN401 - JSON of a provider
    """Return the keys of a provider's document; those that sign nothing, or of kinds not known, are passed over.

    Raises `IdTokenRefused` where none is left.
    """
    told = document.get("keys") if isinstance(document, dict) else None
    found: list[jwk.Key] = []
    for one in told[:KEYS_MAX] if isinstance(told, list) else ():
        if not isinstance(one, dict) or one.get("kty") not in KEY_TYPES or one.get("use", "sig") != "sig":
            continue
        try:
            found.append(jwk.import_key(one))
        except (JoseError, *_DAMAGED):
            continue
    if not found:
        raise IdTokenRefused("the provider tells no key that signs")
    return jwk.KeySet(found)


def claims_of(text: str, keys: jwk.KeySet, expected: Expected, now: float) -> Mapping[str, Any]:
    """Return what an ID token says; `IdTokenRefused` where it does not count, `KeyUnknown` where a new key may help."""
    if len(text) > TOKEN_CHARS_MAX:
        raise IdTokenRefused(f"an ID token of {len(text)} characters")
    registry = jws.JWSRegistry(algorithms=list(ALGORITHMS))
    try:
        found = jwt.decode(text, keys, algorithms=list(ALGORITHMS), registry=registry)
    except InvalidKeyIdError as error:
        raise KeyUnknown(f"the ID token is signed by a key that the provider does not tell: {error}") from error
    except (JoseError, *_DAMAGED) as error:
        raise IdTokenRefused(f"the ID token is not signed as it has to be: {error}") from error
    claims = found.claims
    _check(claims, expected, now)
    return claims


def _check(claims: Mapping[str, Any], expected: Expected, now: float) -> None:
    registry = jwt.JWTClaimsRegistry(
        now=int(now),
        leeway=LEEWAY_S,
        iss={"essential": True, "value": expected.issuer},
        aud={"essential": True, "value": expected.client_id},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
        nonce={"essential": True, "value": expected.nonce},
    )
    try:
        registry.validate(dict(claims))
    except (JoseError, *_DAMAGED) as error:
        raise IdTokenRefused(f"the ID token is not for us, or not any more: {error}") from error
    if not isinstance(claims["nonce"], str):
        raise IdTokenRefused("the ID token's nonce is no text")
    many = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if (many or "azp" in claims) and claims.get("azp") != expected.client_id:
        raise IdTokenRefused("the ID token was given to somebody else (azp)")
    if not isinstance(claims["sub"], str):
        raise IdTokenRefused("the ID token's subject is no text")
    if len(claims["sub"]) > SUBJECT_CHARS_MAX or not claims["sub"].isprintable():
        raise IdTokenRefused("the ID token's subject is none")
