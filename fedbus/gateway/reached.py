"""Under which address a browser reaches a gateway, and whether what it sends could be read on the way."""

from __future__ import annotations

from contextlib import suppress

from aiohttp import web
from yarl import URL

from fedbus.errors import ConfigError
from fedbus.gateway.hosts import is_here
from fedbus.gateway.problems import Refused


class Reached:
    """How browsers come to a gateway; ``public_url``: where they find it behind a proxy that ends their TLS."""

    def __init__(self, public_url: str = "") -> None:
        self._public = _checked_url(public_url) if public_url else None

    def is_secure(self, request: web.Request) -> bool:
        """Whether a browser came over HTTPS, to us or to the proxy in front of us."""
        if request.secure:
            return True
        if self._public is None or self._public.scheme != "https":
            return False
        return _authority(request) == self._public.authority

    def url(self, request: web.Request) -> URL:
        """Return where a browser reaches this gateway; `Refused` with 421 where it asks by what leads nowhere."""
        try:
            return self._public or URL(f"{request.scheme}://{request.headers.get('Host', '')}")
        except ValueError as error:  # a port of 99999, half an address
            raise Refused(421, "Host: nothing can be reached by that") from error

    def check_line(self, request: web.Request) -> None:
        """Raise `Refused` where what is sent, and the cookie in the answer, could be read on the way."""
        if not self.is_secure(request) and not is_here(request.headers.get("Host")):
            raise Refused(
                403,
                "signing in over plain HTTP from another machine would show it to everybody on the way: use HTTPS "
                "(--tls-cert), or tell the gateway which https:// address leads to it (--public-url)",
            )


def _checked_url(text: str) -> URL:
    """Return an address of a gateway; `ConfigError` where it is none."""
    with suppress(ValueError):
        found = URL(text)
        if found.scheme in ("http", "https") and found.host and found.path == "/" and not found.query_string:
            return found
    raise ConfigError(f"--public-url: expected https://HOST or https://HOST:PORT, got {text[:200]!r}")


def _authority(request: web.Request) -> str:
    with suppress(ValueError):
        return URL(f"https://{request.headers.get('Host', '')}").authority
    return ""
