"""By which names a gateway may be asked for: a page of a stranger must not reach it under a name of the stranger's own.

A browser lets a page read what is of its own origin. A stranger whose name leads to the stranger's page at first, and
to 127.0.0.1 a moment later (DNS rebinding), makes the gateway a part of that origin: neither CORS nor `Origin` tells
them apart then. What tells is the name in `Host`, which is the stranger's.

    an address              cannot be a stranger's name: taken, where the gateway listens on more than this machine
    localhost, 127.0.0.1    taken
    a name without a dot    cannot be bought: taken, where the gateway listens on more than this machine
    any other name          taken where it is the one that the gateway listens on, or was allowed
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

ANY = "*"
"""Allows every name."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/?#\s]+)(?::([0-9]{0,5}))?")


class Hosts:
    """Names under which a gateway answers: ``allowed`` ones, with or without a port, and those of where it listens."""

    def __init__(self, listens_on: str, allowed: Iterable[str] = ()) -> None:
        self._allowed = {_plain(name) for name in allowed} | {_plain(listens_on)}
        self._is_alone = _is_loopback(_plain(listens_on))

    def has(self, host: str | None) -> bool:
        """Whether a request with such a `Host` is meant for us; None: it has none, so that no browser has sent it."""
        if host is None or ANY in self._allowed:
            return True
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name, port = _plain(found[1]), found[2]
        if name in self._allowed or f"{name}:{port}" in self._allowed or _is_loopback(name):
            return True
        return not self._is_alone and (_is_address(name) or "." not in name)


def is_here(host: str | None) -> bool:
    """Whether a `Host` is a name of the machine on which its browser runs: nothing sent there leaves that."""
    found = _HOST.fullmatch(host or "")
    return found is not None and _is_loopback(_plain(found[1]))


def _plain(name: str) -> str:
    """Return a name as names are compared: lower case, no brackets around an address, no dot at the end."""
    return name.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name).is_loopback
