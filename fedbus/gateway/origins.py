"""From where a request came: the address of who asks, also behind a proxy that says so.

Limits, waits of who guesses, and the audit go by that address. Behind a proxy it is the proxy's for everybody, so that
one who guesses would shut out all. A proxy tells in ``X-Forwarded-For`` of whom it has got a request; so may everybody
who asks. It is believed from a proxy that was named (`fedbus gateway --proxy`), and only as far back as there are such:

    X-Forwarded-For: 1.2.3.4, 203.0.113.7, 10.0.0.2      from 10.0.0.1, where 10.0.0.0/8 are proxies
                     made up  it is this   a proxy
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

from fedbus.errors import ConfigError

FORWARDED = "X-Forwarded-For"

HOPS_MAX = 16
"""Proxies behind each other that are looked at: there are two or three."""

ORIGIN: web.RequestKey[str] = web.RequestKey("origin", str)

Address = IPv4Address | IPv6Address


class Origins:
    """Knows from where requests come; ``proxies``: addresses and networks of those that are believed."""

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        self._proxies = tuple(_network(text) for text in proxies)

    def of(self, request: web.Request) -> str:
        """Return the address of who asks; '' where there is none, as of a socket of this machine."""
        found = request.remote or ""
        if not self._proxies or not self._is_proxy(_address(found)):
            return found
        told = ",".join(request.headers.getall(FORWARDED, ())).split(",")
        for text in reversed(told[-HOPS_MAX:]):
            address = _address(text)
            if address is None:
                return found  # what is no address was written by nobody whom we believe
            found = str(address)
            if not self._is_proxy(address):
                return found
        return found

    def _is_proxy(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._proxies)


def origin_of(request: web.Request) -> str:
    """Return from where a request came, as it was found when it came in."""
    return request.get(ORIGIN) or request.remote or ""


def net_of(address: str) -> str:
    """Return what stands for an address where asking is limited: of IPv6 its network, in which a machine has 2^64."""
    found = _address(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found) if found is not None else address[:64]


def _address(text: str) -> Address | None:
    """Return an address, without a port behind it; IPv4 within IPv6 as IPv4. None where it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ConfigError(
            f"--proxy: expected an address or a network such as 10.0.0.0/8, got {text[:100]!r}"
        ) from error
