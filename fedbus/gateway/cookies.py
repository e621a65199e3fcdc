"""Cookies of people who have signed in: all that is to be known stands in them, signed; no gateway remembers any.

    2.<base64url of [id, person, token, roles, at, until, seen, shown, factor]>.<base64url of HMAC-SHA256>

The key is made of a secret that the workspace's gateways alone have, with the workspace and the purpose as its label:
each reads the cookies of the others, none of another workspace does. What a person may is not in it: that is looked up.

Over HTTPS the cookie is ``__Host-fedbus``, which a browser takes from nobody but this very host, over HTTPS. Over plain
HTTP on this machine it has another name, so that neither is taken for the other.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from typing import Any, get_args

from fedbus.gateway.caller import Proof
from fedbus.messages.access import PersonRole
from fedbus.messages.ids import is_name

SECURE = "__Host-fedbus"
LOOPBACK = "fedbus_session"

CHARS_MAX = 1024
"""Of a cookie: ours have some 300."""

AHEAD_S = 3600.0
"""How far in the future a cookie may have been made: beyond it somebody's clock was set."""

_VERSION = "2"


def key_for(secret: bytes, workspace: str, purpose: str) -> bytes:
    """Return a key for one purpose of one workspace's gateways; of one secret each purpose has another key."""
    assert len(secret) >= 16, "a secret that can be guessed signs nothing"
    return hmac.digest(secret, f"fedbus gateway\0{workspace}\0{purpose}".encode(), "sha256")


class Cookies:
    """Makes and reads the cookies of a workspace."""

    def __init__(self, secret: bytes, workspace: str) -> None:
        self._key = key_for(secret, workspace, "cookie")
        self._csrf = key_for(secret, workspace, "csrf")

    def make(self, proof: Proof) -> str:
        """Return the value of a cookie."""
        times = [proof.at, proof.until, proof.seen, proof.shown]
        told = [proof.id, proof.person, proof.token, list(proof.roles), *times, proof.factor]
        body = f"{_VERSION}.{_text(json.dumps(told, separators=(',', ':')).encode())}"
        return f"{body}.{_text(hmac.digest(self._key, body.encode(), 'sha256'))}"

    def read(self, value: str, now: float) -> Proof | None:
        """Return what a cookie says; None where it was not made by a gateway of this workspace, or is over."""
        body, _, mac = value.rpartition(".")
        if len(value) > CHARS_MAX or not value.isascii() or not body.startswith(f"{_VERSION}."):
            return None
        if not hmac.compare_digest(_text(hmac.digest(self._key, body.encode(), "sha256")), mac):
            return None
        found = _proof(body.removeprefix(f"{_VERSION}."))
        if found is None or max(found.at, found.seen, found.shown) > now + AHEAD_S or now >= found.until:
            return None
        return found

    def csrf(self, proof: Proof) -> str:
        """Return what a page has to send along: no other page can read it, and it is of this session alone."""
        return _text(hmac.digest(self._csrf, proof.id.encode(), "sha256"))


def set_cookie(name: str, value: str, *, secure: bool, age_s: float, same_site: str = "Strict") -> str:
    """Return a ``Set-Cookie`` header; ``age_s`` 0 takes the cookie away."""
    parts = [f"{name}={value}", "Path=/", f"Max-Age={int(age_s)}", "HttpOnly", f"SameSite={same_site}"]
    return "; ".join([*parts, "Secure"] if secure else parts)


def name_of(base: str, *, secure: bool) -> str:
    """Return the name of the session's cookie (``base`` empty), or of another of ours."""
    name = SECURE if secure else LOOPBACK
    return f"{name}-{base}" if base else name


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _proof(text: str) -> Proof | None:
    """Return what was signed; None where a later release has signed something else."""
    try:
        told: Any = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        id_, person, token, roles, *times, factor = told
    except (ValueError, TypeError, RecursionError, binascii.Error):
        return None
    names = isinstance(id_, str) and is_name(id_) and isinstance(person, str) and isinstance(token, str)
    if not names or not isinstance(roles, list) or not all(role in get_args(PersonRole) for role in roles):
        return None
    if len(times) != 4 or not all(isinstance(one, int | float) for one in times) or not isinstance(factor, bool):
        return None
    at, until, seen, shown = times
    return Proof(person, token, tuple(roles), id_, at, until, seen, shown, factor)
