"""For proxy.py, which loads it by name: the names that the proxy alone knows, as in a network of somebody's own."""

from __future__ import annotations

import os

from proxy.http.proxy import HttpProxyBasePlugin


class Names(HttpProxyBasePlugin):
    """Whatever ends in ``.test`` is this machine."""

    def resolve_dns(self, host: str, port: int) -> tuple[str | None, None]:
        """Return the address behind a name, and from where to connect."""
        return (os.environ.get("BROKER", "127.0.0.1") if host.endswith(".test") else None), None
