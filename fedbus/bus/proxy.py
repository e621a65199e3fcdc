"""The HTTP proxy through which a broker is reached, where a network lets nothing else out: who it is, what it said.

An address names it, as it names files for TLS (`fedbus.bus.tls`), whatever its scheme, with the proxy's own address
quoted as any value of a query is:

    wss://broker.example?proxy=http://proxy.example:3128
    wss://broker.example?proxy=https://anna:secret@proxy.example&proxy_ca=/etc/ssl/proxy-ca.pem

The way is a tunnel (``CONNECT``, RFC 9110, section 9.3.6): TLS is shaken hands with the broker itself, and the proxy
sees where to, how much and when. User and password are for HTTP's basic authentication (RFC 7617). Over ``http://``
everybody between here and the proxy can read these two, as with every other program: ``https://`` encrypts them.

`fedbus.bus.tunnel` digs it. Addresses of several proxies may stand beside each other, and beside some without.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode, urlsplit

from fedbus.bus.tls import TlsFiles, addresses_in, client_context
from fedbus.errors import ConfigError

PORTS = {"http": 80, "https": 443}
BROKER_PORTS = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}

Direct = Callable[[str, int], bool]
"""Whether a host at a port is reached without a proxy."""


class ProxyProblem(ConnectionError):
    """No tunnel: what was ``found``, and what to do (``advice``).

    ``is_final``: it will be the same a second later, as it is about who we are, or what listens there.
    """

    def __init__(self, found: str, advice: str, *, is_final: bool = False) -> None:
        super().__init__(f"{found}: {advice}")
        self.found = found
        self.advice = advice
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy; ``ca``: who signed its certificate, where it is ``https`` and the system does not know."""

    scheme: str
    host: str
    port: int
    authorization: str = field(default="", repr=False)
    ca: Path | None = None

    @classmethod
    def of(cls, url: str, ca: Path | str | None = None) -> Proxy:
        """Read an address such as ``http://user:password@proxy.example:3128``; `ConfigError` shows no password."""
        text = url if "://" in url else f"http://{url}"
        shown = f"{text.partition('://')[0]}://{text.partition('://')[2].rpartition('@')[2]}"
        wrong = ConfigError(f"expected a proxy like http://proxy.example:3128, or https://, got {shown!r}")
        try:
            split = urlsplit(text)
            scheme, host, port = split.scheme, split.hostname or "", split.port
        except ValueError:  # the port is no number, or none that there is
            raise wrong from None  # the first shows what may be the password
        if scheme not in PORTS or not host or port == 0 or split.path.strip("/") or split.query:
            raise wrong
        if ca and scheme != "https":
            raise ConfigError(f"{shown} has no certificate whose CA could be named: write https://")
        user, password = (unquote_to_bytes(part or "") for part in (split.username, split.password))
        if b":" in user:
            raise ConfigError(f"the user's name at the proxy {shown} has a colon in it, which HTTP cannot say")
        given = split.username is not None
        authorization = base64.b64encode(user + b":" + password).decode() if given else ""
        return cls(scheme, host, port or PORTS[scheme], authorization, Path(ca) if ca else None)

    @property
    def is_secure(self) -> bool:
        """Whether we speak to it over TLS."""
        return self.scheme == "https"

    def context(self) -> ssl.SSLContext:
        """Return how to speak to it over TLS; reads files, raises `ConfigError`."""
        return client_context(TlsFiles(ca=self.ca))

    def __str__(self) -> str:
        """Show it without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def host_and_port(address: str) -> tuple[str, int]:
    """Return which host and port an address of a broker names, its scheme's port where it names none.

    '' and 0 for what is no address: whoever connects there says so.
    """
    try:
        split = urlsplit(address if "://" in address else f"nats://{address}")
        return split.hostname or "", split.port or BROKER_PORTS.get(split.scheme, 4222)
    except ValueError:
        return "", 0


def proxies_of(url: str) -> Mapping[tuple[str, int], Proxy]:
    """Return the proxies that the addresses of a URL name, by the host and port that they lead to.

    Raises `ConfigError` for one that is none.
    """
    found: dict[tuple[str, int], Proxy] = {}
    for part in addresses_in(url):
        said = dict(parse_qsl(part.partition("?")[2]))
        if "proxy" in said:
            found[host_and_port(part)] = Proxy.of(said["proxy"], said.get("proxy_ca"))
        elif "proxy_ca" in said:
            raise ConfigError("proxy_ca= in the broker's address is of a proxy, and it names none: proxy=")
    return found


def with_proxy(url: str, proxy: str | None, ca: Path | None = None, *, direct: Direct | None = None) -> str:
    """Return a URL whose addresses name this proxy, where they name none of their own and are not ``direct``.

    Raises `ConfigError` for a proxy that is none, where it is needed; None and '' leave the URL as it is.
    """
    if not proxy:
        return url
    query = urlencode({"proxy": proxy} | ({"proxy_ca": str(ca)} if ca else {}), safe="/:")

    def named(part: str) -> str:
        if "proxy" in dict(parse_qsl(part.partition("?")[2])) or (direct is not None and direct(*host_and_port(part))):
            return part
        Proxy.of(proxy, ca)  # not before: HTTPS_PROXY may name one of SOCKS, which is for other hosts
        return f"{part}{'&' if '?' in part else '?'}{query}"

    return ",".join(named(part) for part in addresses_in(url))


Way = TypeVar("Way")


def through(url: Way, proxy: str | None) -> Way | str:
    """Return a URL by way of a proxy, as `with_proxy`; a bus that somebody has connected already can have none."""
    if isinstance(url, str):
        return with_proxy(url, proxy)
    if proxy:
        raise ConfigError("proxy= is of an address: what was given is connected already")
    return url
