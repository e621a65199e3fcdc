"""By which HTTP proxy a broker is reached: as a person says, else as the environment does, as for other programs.

    --proxy, FEDBUS_PROXY    for every address, whatever its scheme; ``none``: no proxy at all
    HTTPS_PROXY              for ``wss://`` alone, which is https to a proxy; most let nothing else through
    NO_PROXY                 hosts that are reached without, whoever named the proxy: names with all below them,
                             addresses, networks, each with a port where only that is meant; ``*``: all

This machine is reached without in any case: a proxy's ``localhost`` is another one. What an address says itself
(``?proxy=``, `fedbus.bus.proxy`) is done as it says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from fedbus.bus.proxy import with_proxy
from fedbus.bus.tls import addresses_in, scheme_of
from fedbus.errors import ConfigError

NONE = "none"


def proxied(url: str, asked: str | None, ca: Path | None, environ: Mapping[str, str]) -> str:
    """Return a broker's URL whose addresses name their proxies; `ConfigError` for one that cannot be."""
    if asked == NONE:
        return url
    bypassed = _first(environ, "no_proxy", "NO_PROXY")
    general = asked or ""
    for_web = general or _first(environ, "https_proxy", "HTTPS_PROXY")
    try:
        parts = [
            with_proxy(
                part,
                for_web if scheme_of(part) == "wss" else general,
                ca,
                direct=lambda host, port: is_direct(host, port, bypassed),
            )
            for part in addresses_in(url)
        ]
    except ConfigError as error:
        where = "--proxy (FEDBUS_PROXY)" if general else "HTTPS_PROXY"
        raise ConfigError(f"{where}: {error}; --proxy none goes without one") from error
    return ",".join(parts)


def _first(environ: Mapping[str, str], *names: str) -> str:
    # in lower case first, as curl does: some servers set the other one from what a request says
    return next((environ[name] for name in names if environ.get(name)), "")


def is_direct(host: str, port: int, bypassed: str) -> bool:
    """Return whether a host is reached without a proxy: it is this machine, or ``bypassed`` (NO_PROXY) names it."""
    name = host.lower().rstrip(".")
    address = _address(name)
    if name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry, name, address, port) for entry in bypassed.lower().replace(" ", ",").split(",") if entry)


def _matches(entry: str, name: str, address: _Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if address is not None:
        bare, only = _split(entry)
        try:
            return address in ipaddress.ip_network(bare, strict=False) and only in ("", str(port))
        except ValueError:
            return False
    host, only = _split(entry)
    host = host.removeprefix("*").strip(".")
    return bool(host) and (name == host or name.endswith(f".{host}")) and only in ("", str(port))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(name: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _split(entry: str) -> tuple[str, str]:
    """Return host (or network) and port of an entry, '' where it has none; an IPv6 address with a port has brackets."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = entry.rpartition(":")
    return (host, port) if host and ":" not in host and port.isdecimal() else (entry, "")
