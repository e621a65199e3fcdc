"""NATS JWTs (version 2): what a nats-server in operator mode is told of accounts, and a user shows of itself.

    operator key --signs--> account JWT (limits, role templates, revocations) --names--> scoped signing keys
    scoped signing key of a role --signs--> user JWT (name, key, role as a tag; no permissions of its own)

Source: NATS documentation "JWT Authentication Guide"; the layout is that of nats-io/jwt v2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedbus.access.keys import Key, is_public, verify
from fedbus.errors import BadMessage
from fedbus.messages.ids import is_name

JWT_CHARS_MAX = 8192
"""Of a user's JWT: ours have some 700."""

ACCOUNT_CHARS_MAX = 8 * 2**20
"""Of an account's JWT: some 40,000 with what its roles may do, and 90 for each key that is revoked."""

_HEAD = {"typ": "JWT", "alg": "ed25519-nkey"}

ENDED_AT = float(2**32)
"""Since when a key is revoked that never comes back: whatever was signed for it, by a clock that was ahead as well."""

UNLIMITED = {"subs": -1, "data": -1, "payload": -1}


@dataclass(frozen=True, slots=True)
class UserClaims:
    """What a user's JWT says, its signature checked. ``expires_at`` 0: never; times are seconds of Unix time."""

    workspace: str
    role: str
    name: str
    key: str
    issuer: str
    account: str
    issued_at: float
    expires_at: float


def user_jwt(
    signer: Key,
    account: str,
    *,
    workspace: str,
    role: str,
    name: str,
    key: str,
    issued_at: float,
    expires_at: float = 0.0,
) -> str:
    """Return a user's JWT, signed by a role's signing key: what it may do stands in the account's template.

    So does that a joiner's JWT lets in alone, without a signature of its key: a user's JWT that says anything of its
    own beside a template is refused.
    """
    nats: dict[str, Any] = {
        "type": "user",
        "version": 2,
        "pub": {},
        "sub": {},
        "issuer_account": account,
        "tags": [f"role:{role}", f"workspace:{workspace}"],
    }
    claims: dict[str, Any] = {"name": name, "sub": key, "iat": int(issued_at), "nats": nats}
    if expires_at:
        claims["exp"] = int(expires_at)
    return signed(claims, signer)


def account_user_jwt(account: Key, name: str, key: str, issued_at: float) -> str:
    """Return a JWT that an account's own key has signed: all of the account. For the system account only."""
    nats = {"type": "user", "version": 2, "pub": {}, "sub": {}, **UNLIMITED}
    return signed({"name": name, "sub": key, "iat": int(issued_at), "nats": nats}, account)


def account_jwt(
    operator: Key,
    account: str,
    name: str,
    issued_at: float,
    *,
    scopes: Sequence[Mapping[str, Any]] = (),
    revoked: Mapping[str, float] | None = None,
    jetstream_bytes: tuple[int, int] | None = None,
    connections_max: int = -1,
    leaves_max: int = -1,
    exports: Sequence[Mapping[str, Any]] = (),
    imports: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return an account's JWT. ``jetstream_bytes``: of memory and disk, -1 without a bound; None: no JetStream.

    ``exports``, ``imports``: see `exported` and `imported`.
    """
    limits = {**UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": connections_max}
    limits["leaf"] = leaves_max
    if jetstream_bytes is not None:
        memory, disk = jetstream_bytes
        limits |= {"mem_storage": memory, "disk_storage": disk, "streams": -1, "consumer": -1}
    nats: dict[str, Any] = {"type": "account", "version": 2, "limits": limits}
    nats |= {name: list(shared) for name, shared in (("exports", exports), ("imports", imports)) if shared}
    if scopes:
        nats["signing_keys"] = list(scopes)
    if revoked:
        nats["revocations"] = {key: int(at) for key, at in sorted(revoked.items())}
    return signed({"name": name, "sub": account, "iat": int(issued_at), "nats": nats}, operator)


def exported(
    asked: Sequence[str] = (), heard: Sequence[str] = (), *, many: Collection[str] = (), answer_s: float = 0.0
) -> list[dict[str, Any]]:
    """Return what members of another account may ask those of this one, and hear of them.

    ``many``: those of ``asked`` that are answered more than once. ``answer_s``: for so long a nats-server remembers
    where an answer goes that does not come; 0: its default, two minutes.
    """
    made: list[dict[str, Any]] = [{"subject": subject, "type": "service"} for subject in asked]
    for one in made:
        if one["subject"] in many:
            one["response_type"] = "Stream"
        elif answer_s:
            one["response_threshold"] = round(answer_s * 1e9)
    return made + [{"subject": subject, "type": "stream"} for subject in heard]


def imported(account: str, asked: Sequence[str] = (), heard: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the same for the other account, from an account that exports it; under the same subjects."""
    return [{**export, "account": account} for export in exported(asked, heard)]


def scope(
    key: str, role: str, publish: Sequence[str], subscribe: Sequence[str], *, subs: int = -1, payload: int = -1
) -> dict[str, Any]:
    """Return a scoped signing key: whoever it has signed may publish and subscribe to these, and to nothing else.

    ``subs``: subscriptions of one connection at the most; ``payload``: bytes of a message; -1: without a bound.
    """
    # an empty list of what is allowed would mean all
    template: dict[str, Any] = {
        "pub": {"allow": list(publish)} if publish else {"deny": [">"]},
        "sub": {"allow": list(subscribe)} if subscribe else {"deny": [">"]},
        **UNLIMITED,
        "subs": subs,
        "payload": payload,
    }
    if role == "joiner":
        template["bearer_token"] = True
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def operator_jwt(operator: Key, name: str, system_account: str, issued_at: float) -> str:
    """Return the operator's JWT, which the server's settings hold."""
    nats = {"type": "operator", "version": 2, "system_account": system_account}
    return signed({"name": name, "sub": operator.public, "iat": int(issued_at), "nats": nats}, operator)


def signed(claims: Mapping[str, Any], signer: Key) -> str:
    """Return claims as a JWT, with the signer as issuer and the digest that NATS wants as an id."""
    whole = {**claims, "iss": signer.public, "jti": ""}
    digest = hashlib.sha512(_json(whole)).digest()[:32]
    whole["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = f"{_base64(_json(_HEAD))}.{_base64(_json(whole))}"
    return f"{text}.{_base64(signer.sign(text.encode()))}"


def read_claims(jwt: str, *, chars_max: int = JWT_CHARS_MAX * 8) -> dict[str, Any]:
    """Return what a JWT says, without looking who says it; `BadMessage` for what is none."""
    parts = jwt.split(".")
    if len(jwt) > chars_max or len(parts) != 3:
        raise BadMessage(f"expected a JWT (three parts, joined by dots), got {len(jwt)} characters in {len(parts)}")
    try:
        claims = json.loads(_bytes(parts[1]))
    except (ValueError, RecursionError) as error:
        raise BadMessage("expected a JWT, its middle part is no JSON in base64") from error
    if not isinstance(claims, dict) or not isinstance(claims.get("nats"), dict):
        raise BadMessage("expected a JWT of NATS, this one says nothing about it")
    return claims


def is_same(one: str, other: str) -> bool:
    """Return whether two JWTs say the same, whenever they were made; `BadMessage` for what is none."""
    ours, theirs = (read_claims(jwt, chars_max=ACCOUNT_CHARS_MAX) for jwt in (one, other))
    return all(ours.get(name) == theirs.get(name) for name in {*ours, *theirs} - {"iat", "jti"})


def read_user(jwt: str, signers: Mapping[str, str]) -> UserClaims:
    """Return what a user's JWT says, once its signature was found to be that of its role's signer.

    ``signers``: public signing key by role (`Trust.signers`), several of one role joined by commas. Raises `BadMessage`
    for what is no JWT, was signed by somebody else, or says a role that its signer does not sign for. It does not look
    at the time.
    """
    if len(jwt) > JWT_CHARS_MAX:
        raise BadMessage(f"expected a user's JWT of at most {JWT_CHARS_MAX} characters, got {len(jwt)}")
    found = claims_of(jwt)
    if found.issuer not in signers.get(found.role, "").split(","):
        raise BadMessage(f"the JWT of {found.role} {found.name!r} was not signed by this workspace's key for that role")
    head, _, signature = jwt.rpartition(".")
    try:
        raw = _bytes(signature)
    except ValueError as error:
        raise BadMessage("the signature of the JWT is not base64") from error
    if not verify(found.issuer, head.encode(), raw):
        raise BadMessage(f"the signature of the JWT of {found.role} {found.name!r} is wrong")
    return found


def claims_of(jwt: str) -> UserClaims:
    """Return what a user's JWT says of itself, unchecked: for its holder. `BadMessage` for what is none of ours."""
    claims = read_claims(jwt)
    nats = claims["nats"]
    tags = nats.get("tags") or []
    told = dict(tag.partition(":")[::2] for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else {}
    name, key, issuer = claims.get("name"), claims.get("sub"), claims.get("iss")
    account = nats.get("issuer_account", issuer)
    issued_at, expires_at = claims.get("iat"), claims.get("exp", 0)
    fits = (
        nats.get("type") == "user"
        and isinstance(name, str)
        and is_name(name)
        and is_name(told.get("role", ""))
        and is_name(told.get("workspace", ""))
        and isinstance(key, str)
        and is_public(key)
        and isinstance(issuer, str)
        and isinstance(account, str)
        and _is_time(issued_at)
        and _is_time(expires_at)
    )
    if not fits:
        raise BadMessage("expected the JWT of a member of a workspace: a user's, with name, key, role and workspace")
    times = float(issued_at or 0), float(expires_at or 0)
    return UserClaims(told["workspace"], told["role"], str(name), str(key), str(issuer), str(account), *times)


def _is_time(value: object) -> bool:
    """Whether a number may be seconds of Unix time: JSON has numbers that no clock and no float has."""
    return type(value) is int and 0 <= value < 2**53


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from error
