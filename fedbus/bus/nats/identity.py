"""Who a connection is: the JWT and the key of a ``.creds`` file, read again at each connection.

nats-py reads such a file by itself, but never says whose it is. Here it is read anew whenever the broker asks who we
are, so that a JWT that was renewed is taken without a restart, and the inbox is that of the member: the broker permits
no other.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nkeys

from fedbus.errors import ConfigError

FILE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """A JWT and the seed of its key; the seed is empty where the JWT alone lets in (a bearer).

    ``ca``: the certificates (PEM) of who signed the broker's, as whoever let us in has said; '' for the system's.
    """

    jwt: str
    seed: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "Identity(...)"

    def sign(self, nonce: str) -> bytes:
        """Return the signature of what the broker wants signed, in base64."""
        if not self.seed:
            return b""
        pair = nkeys.from_seed(self.seed.encode())
        return base64.b64encode(pair.sign(nonce.encode()))

    @property
    def inbox(self) -> str:
        """What stands before its inboxes: of a member of a workspace ``_INBOX.<role>.<name>``, else NATS' own."""
        return "_INBOX" if self.member is None else ".".join(("_INBOX", *self.member))

    @property
    def member(self) -> tuple[str, str] | None:
        """Role and name of a member of a workspace; None of who is none."""
        claims = _claims(self.jwt)
        nats = claims.get("nats")
        tags = nats.get("tags") if isinstance(nats, dict) else None
        roles = [tag[5:] for tag in tags or [] if isinstance(tag, str) and tag.startswith("role:")]
        name = claims.get("name")
        if len(roles) != 1 or not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", roles[0] + name):
            return None
        return roles[0], name


Identify = Callable[[], Identity]
"""Called at each connection."""


def identify_by(credentials: str | Path | Identity | None) -> Identify | None:
    """Return how to know who we are: by a file, read each time (`ConfigError`), or an identity; None for nobody."""
    if credentials is None:
        return None
    if isinstance(credentials, Identity):
        return lambda: credentials
    return _from_file(credentials)


def _from_file(path: str | Path) -> Identify:

    def read() -> Identity:
        try:
            with Path(path).open("rb") as file:
                text = file.read(FILE_BYTES_MAX).decode(errors="replace")
        except OSError as error:
            raise ConfigError(f"credentials {str(path)!r} cannot be read: {error.strerror}") from error
        jwt, seed = block_of(text, "NATS USER JWT"), block_of(text, "USER NKEY SEED")
        if not jwt or not seed or len(jwt.split()) + len(seed.split()) != 2:
            raise ConfigError(f"credentials {str(path)!r} hold no user JWT with its seed: is it a .creds file?")
        identity = Identity(jwt, seed, _ca(text))
        try:
            identity.sign("try")
        except Exception as error:  # nkeys raises of many kinds, binascii's among them
            raise ConfigError(f"credentials {str(path)!r}: the seed in it is damaged") from error
        return identity

    return read


def _ca(text: str) -> str:
    """Return whom the workspace's block of a file says to trust (`fedbus.access.credentials`); '' where it has none."""
    block = block_of(text, "FEDBUS WORKSPACE")
    try:
        ca = json.loads(block)["trust"]["ca"] if block else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return ca if isinstance(ca, str) else ""


def block_of(text: str, name: str) -> str:
    """Return what stands between the beginning and the end of a block of a ``.creds`` file, or nothing.

    Not by a pattern: one that looks for an end behind blanks tries each of them anew, a file of blanks for hours.
    """
    _, begin, rest = text.partition(f"-----BEGIN {name}-----")
    held, end, _ = rest.partition(f"-END {name}-")
    return held.rstrip("-").strip() if begin and end else ""


def _claims(jwt: str) -> dict[str, object]:
    try:
        part = jwt.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
