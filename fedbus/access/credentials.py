"""A credentials file: who somebody is at the broker, and whom it trusts there.

The first two blocks are those of every NATS ``.creds`` file (a JWT, the seed of its key), so that the tools of NATS
take it; the third is ours and they pass over it. Mode 0600, written whole or not at all.
"""

from __future__ import annotations

import json
import os
import secrets as system_secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedbus.access.claims import UserClaims, claims_of
from fedbus.access.keys import Key, is_public
from fedbus.bus.nats.identity import block_of
from fedbus.errors import BadMessage, ConfigError
from fedbus.messages.ids import is_name

CREDENTIALS_BYTES_MAX = 256 * 1024
"""Of a file: some 3 KB, and the certificates of those who signed the broker's."""

_JWT = "NATS USER JWT"
_SEED = "USER NKEY SEED"
_TRUST = "FEDBUS WORKSPACE"


@dataclass(frozen=True, slots=True)
class Trust:
    """What everybody in a workspace knows of it: whose signatures count, where the broker is, who signed its name.

    ``account``: public key of the workspace's account. ``signers``: by role, the public keys that sign its members'
    JWTs, several joined by commas. ``model_key``: with which published models are signed. ``urls``: of the broker.
    ``ca``: certificates in PEM, '' for those that the system trusts. ``signs_posts``: whether its coordinators sign
    tasks, so that one that is not signed is not theirs; of a workspace of an earlier release nobody says so.
    """

    workspace: str
    account: str
    signers: Mapping[str, str]
    model_key: str = ""
    urls: tuple[str, ...] = ()
    ca: str = ""
    signs_posts: bool = False

    def to_json(self) -> str:
        """Return it in one line."""
        told = {
            "workspace": self.workspace,
            "account": self.account,
            "signers": dict(self.signers),
            "model_key": self.model_key,
            "urls": list(self.urls),
            "ca": self.ca,
            "signs_posts": self.signs_posts,
        }
        return json.dumps(told, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Trust:
        """Return what `to_json` wrote; `BadMessage` for anything else. What is not known in it is passed over."""
        try:
            told = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadMessage(
                f"expected what a workspace trusts as JSON, got {len(text)} characters that are none"
            ) from error
        if not isinstance(told, dict) or not _is_trust(told):
            raise BadMessage("what a workspace trusts: expected workspace, account, signers, model_key, urls and ca")
        return cls(
            told["workspace"],
            told["account"],
            MappingProxyType(dict(told["signers"])),
            told["model_key"],
            tuple(told["urls"]),
            told["ca"],
            told.get("signs_posts") is True,
        )


def _is_trust(told: Mapping[str, Any]) -> bool:
    texts = ("workspace", "account", "model_key", "ca")
    if not all(isinstance(told.get(name), str) for name in texts) or not is_name(told["workspace"]):
        return False
    signers, urls = told.get("signers"), told.get("urls")
    if not isinstance(signers, dict) or not isinstance(urls, list) or not is_public(told["account"], "account"):
        return False
    keys = [key for keys in signers.values() for key in (keys.split(",") if isinstance(keys, str) else [""])]
    is_model_key = not told["model_key"] or is_public(told["model_key"])
    return is_model_key and all(is_public(key, "account") for key in keys) and all(isinstance(u, str) for u in urls)


@dataclass(frozen=True)
class Credentials:
    """Who somebody is. ``secrets``: what its role is trusted with, by name; never shown.

    ``seal``: 32 bytes in hexadecimal, of which the keys of sealed models are made (the operator's side and engineers).
    ``model``: the seed of the key that signs published models (coordinators, gateways).
    """

    jwt: str
    seed: str = field(repr=False)
    trust: Trust
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def claims(self) -> UserClaims:
        """What its JWT says."""
        return claims_of(self.jwt)

    @property
    def role(self) -> str:
        """Role at the broker."""
        return self.claims.role

    @property
    def name(self) -> str:
        """Name, unique in its role."""
        return self.claims.name

    @property
    def expires_at(self) -> float:
        """Until when the broker lets it in, in seconds of Unix time; 0: without an end."""
        return self.claims.expires_at

    @cached_property
    def key(self) -> Key:
        """Its key."""
        return Key(self.seed)


def format_credentials(credentials: Credentials) -> str:
    """Return the text of a file."""
    ours = json.dumps({"trust": json.loads(credentials.trust.to_json()), "secrets": dict(credentials.secrets)})
    return f"""\
-----BEGIN NATS USER JWT-----
{credentials.jwt}
------END NATS USER JWT------

Whoever has this file is {credentials.role} {credentials.name} of workspace {credentials.trust.workspace}.
Keep it to yourself.
-----BEGIN USER NKEY SEED-----
{credentials.seed}
------END USER NKEY SEED------

-----BEGIN FEDBUS WORKSPACE-----
{ours}
------END FEDBUS WORKSPACE------
"""


def parse_credentials(text: str, where: str) -> Credentials:
    """Return what `format_credentials` wrote; `ConfigError`, with ``where``, says what is missing."""
    jwt, seed = ("".join(block_of(text, name).split()) for name in (_JWT, _SEED))
    ours = block_of(text, _TRUST)
    if not jwt or not seed:
        raise ConfigError(f"{where}: expected a user JWT and its seed: is it a .creds file?")
    if not ours:
        raise ConfigError(
            f"{where}: these are credentials of NATS, but not of fedbus: they do not say what the workspace trusts; "
            "get them from `fedbus join` or `fedbus token create`"
        )
    try:
        return _whole(jwt, seed, json.loads(ours))
    except (ValueError, KeyError, TypeError, RecursionError, BadMessage) as error:
        raise ConfigError(
            f"{where}: credentials that are damaged ({error}): join again, or ask for new ones"
        ) from error


def _whole(jwt: str, seed: str, told: Mapping[str, Any]) -> Credentials:
    """Put a file's blocks together; raises what `parse_credentials` catches."""
    trust = Trust.from_json(json.dumps(told["trust"]))
    kept = told.get("secrets", {})
    if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
        raise BadMessage("its secrets are not texts")
    found = Credentials(jwt, seed, trust, MappingProxyType(dict(kept)))
    if found.key.public != found.claims.key:
        raise BadMessage("the seed is not that of the key in the JWT")
    if found.claims.workspace != trust.workspace:
        raise BadMessage(f"the JWT is of workspace {found.claims.workspace}, the rest of {trust.workspace}")
    return found


def read_credentials(path: str | Path) -> Credentials:
    """Read a credentials file; `ConfigError` where there is none, or it is damaged."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(CREDENTIALS_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"credentials {str(path)!r} cannot be read: {error.strerror}") from error
    if len(data) > CREDENTIALS_BYTES_MAX:
        raise ConfigError(f"credentials {str(path)!r}: more than {CREDENTIALS_BYTES_MAX} bytes: is it a .creds file?")
    return parse_credentials(data.decode(errors="replace"), f"credentials {str(path)!r}")


def write_credentials(path: str | Path, credentials: Credentials) -> None:
    """Write a credentials file for its owner alone; a reader sees the old one or the new."""
    write_secret(path, format_credentials(credentials))


def write_secret(path: str | Path, text: str) -> None:
    """Write a text that nobody else may read, mode 0600, whole or not at all; `ConfigError` where that cannot be."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{system_secrets.token_hex(4)}")
    try:
        for directory in reversed([target.parent, *target.parent.parents]):  # mkdir's own `parents` are for everybody
            directory.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from error
