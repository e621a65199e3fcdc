"""HTTPS of a gateway: its certificate, and the next one, which it takes while it runs.

Whoever renews certificates writes two files, in whatever order: as long as they do not fit together, or cannot be
read, the old certificate is shown on. Connections that are open keep theirs.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from fedbus.bus.tls import load_chain
from fedbus.errors import ConfigError

log = logging.getLogger("fedbus.gateway")

LOOK_S = 2.0
"""How often the files are looked at: two calls of the system."""

STRICT = "max-age=31536000"
"""For a year browsers ask for nothing but HTTPS. Not for other names below ours: those are others' to decide."""


class Certificate:
    """What a gateway shows. ``context`` is the server's; raises `ConfigError` for files that will not do."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._stat()
        self.context = self._load()

    def _load(self, into: ssl.SSLContext | None = None) -> ssl.SSLContext:
        context = into or ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        load_chain(context, *self._files)
        return context

    def _stat(self) -> tuple[tuple[int, int, int], ...] | None:
        try:
            found = [path.stat() for path in self._files]
        except OSError:
            return None  # between removing the old one and writing the new one
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    async def watch(self) -> None:
        """Take new files for new connections as soon as they fit together; runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.renew)

    def renew(self) -> bool:
        """Look once; whether there was a new certificate."""
        now = self._stat()
        if now is None or now == self._seen:
            return False
        self._seen = now
        try:
            self._load()  # elsewhere first: a context that has half of two pairs would refuse everybody
            self._load(self.context)
        except ConfigError as error:
            log.warning("the new certificate is not taken, the old one stays: %s", error)
            return False
        log.info("new connections get the new certificate of %s", self._files[0])
        return True


def certificate_of(certificate: Path | None, key: Path | None) -> Certificate | None:
    """Return what to show; None where nothing is encrypted. Raises `ConfigError`."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("HTTPS needs both --tls-cert and --tls-key")
    return Certificate(certificate, key)


def strictly(public_url: str) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return what tells browsers to come over HTTPS only, where they have come so (a header, RFC 6797).

    Not for ``localhost``, where other programs answer on other ports; browsers pass over it for addresses.
    """
    is_behind = public_url.startswith("https://")

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        name = request.headers.get("Host", "").lower().partition(":")[0]
        if (request.secure or is_behind) and name != "localhost" and not name.endswith(".localhost"):
            response.headers["Strict-Transport-Security"] = STRICT

    return prepare
