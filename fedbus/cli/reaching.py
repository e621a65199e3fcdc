"""The way to a broker below its protocol: the name, the connection, the greeting, the encryption; each tried by itself.

A library that connects says "no servers available" for a wrong name, a firewall and an expired certificate alike. Here
each step is taken alone, and what goes wrong is said with what to do. Nothing is sent but the handshake of TLS, and to
a proxy on the way where to.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fedbus.access.known import PORTS
from fedbus.bus import tunnel
from fedbus.bus.proxy import Proxy, ProxyProblem, proxies_of
from fedbus.bus.tls import SECURE_SCHEMES, WEB_SCHEMES, split_url, tls_problem
from fedbus.errors import ConfigError, FedbusError

STEP_S_MAX = 5.0
"""For one step: four round trips of a slow link."""

GREETING_BYTES_MAX = 64 * 1024
"""A nats-server's INFO has 1 KB; one of a large cluster some more, as it names all nodes."""

EXPIRES_SOON_S = 14 * 86_400.0

ALERT_S = 0.3
"""With TLS 1.3 a server that wants our certificate says so only after the handshake, and else waits for us."""


class BrokenError(FedbusError):
    """A step that failed: what was found, and what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found = found
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a broker, and the HTTP proxy by which it is reached."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def is_web(self) -> bool:
        """Whether NATS is spoken over a WebSocket there."""
        return self.scheme in WEB_SCHEMES

    @property
    def is_encrypted(self) -> bool:
        """Whether the address asks for TLS; a broker may ask for it by itself."""
        return self.scheme in SECURE_SCHEMES

    def __str__(self) -> str:
        """Show it without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def addresses_of(url: str) -> list[Address]:
    """Return the addresses of a broker's URL; `BrokenError` for what is none."""
    try:
        parts, _ = split_url(url)
        proxies = proxies_of(url)
    except ConfigError as error:
        raise BrokenError(str(error), "correct it") from error
    found = []
    for part in parts:
        split = urlsplit(part if "://" in part else f"nats://{part}")
        try:
            host, port = split.hostname, split.port or PORTS.get(split.scheme, 0)
        except ValueError:
            host, port = None, 0
        if not host or not port:
            raise BrokenError("the broker's address is none", "write it as nats://HOST:4222 or wss://HOST")
        found.append(Address(split.scheme, host, port, proxies.get((host, port))))
    if not found:
        raise BrokenError("no address is given", "name the broker: --nats nats://HOST:4222, or FEDBUS_URL")
    return found


async def look_up(address: Address) -> str:
    """Return the numbers behind a name; `BrokenError` where there are none. Through a proxy it is the proxy's name."""
    host, port = (address.host, address.port) if address.proxy is None else (address.proxy.host, address.proxy.port)
    said_by = "--nats" if address.proxy is None else "--proxy (FEDBUS_PROXY, HTTPS_PROXY)"
    try:
        async with asyncio.timeout(STEP_S_MAX):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise BrokenError(
            f"{host}: no answer within {STEP_S_MAX:g} s", "look at this machine's name servers"
        ) from error
    except (OSError, UnicodeError) as error:  # a label of more than 63 characters is a UnicodeError
        why = getattr(error, "strerror", None) or "not a name"
        raise BrokenError(f"{host}: {why}", f"check the name in {said_by}, and this machine's DNS") from error
    numbers = sorted({str(each[4][0]) for each in found})
    told = numbers[0] if numbers == [host] else f"{host} is {', '.join(numbers[:3])}"
    return told if address.proxy is None else f"{told}, the proxy, which looks up {address.host}"


async def pass_proxy(address: Address) -> str:
    """Have the proxy lead to a broker, and close; `BrokenError` where it does not, or does not let us."""
    if address.proxy is None:
        return f"none to {address}"
    began = time.perf_counter()
    _, writer = await _connect(address)
    took = time.perf_counter() - began
    await _close(writer)
    return f"{address.proxy} leads to {address} in {1000 * took:.1f} ms"


async def dial(address: Address) -> str:
    """Connect and close; returns how long it took. `BrokenError` says who did not answer, and how."""
    began = time.perf_counter()
    _, writer = await _connect(address)
    took = time.perf_counter() - began
    await _close(writer)
    return f"{address} in {1000 * took:.1f} ms"


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.proxy is not None:
        try:
            return await tunnel.streams(
                address.proxy, address.host, address.port, deadline_s=STEP_S_MAX, limit=GREETING_BYTES_MAX
            )
        except ProxyProblem as problem:
            raise BrokenError(problem.found, problem.advice) from problem
    try:
        async with asyncio.timeout(STEP_S_MAX):
            return await asyncio.open_connection(address.host, address.port, limit=GREETING_BYTES_MAX)
    except TimeoutError as error:
        found = f"{address}: no answer within {STEP_S_MAX:g} s"
        raise BrokenError(found, "a firewall on the way may drop it: is the port open from here?") from error
    except ConnectionRefusedError as error:
        advice = "start a broker (`fedbus up`), or name another: --nats URL, FEDBUS_URL"
        raise BrokenError(f"{address}: nothing listens there", advice) from error
    except OSError as error:
        raise BrokenError(f"{address}: {error.strerror or error}", "look at this machine's network") from error


async def greet(address: Address) -> dict[str, Any]:
    """Return what a nats-server says of itself to whoever connects; empty over a WebSocket, where it comes later."""
    if address.is_web:
        return {}
    reader, writer = await _connect(address)
    try:
        return await _greeting(reader, address)
    finally:
        await _close(writer)


async def _greeting(reader: asyncio.StreamReader, address: Address) -> dict[str, Any]:
    line = b""
    with suppress(OSError, ValueError):  # a TimeoutError is the first, a line without an end the second
        async with asyncio.timeout(STEP_S_MAX):
            line = await reader.readline()
    if line.startswith(b"INFO "):
        with suppress(ValueError):
            told = json.loads(line[5:])
            if isinstance(told, dict):
                return told
    said = f"it said {line[:40]!r}" if line else "it said nothing"
    raise BrokenError(
        f"{address}: what listens there is no nats-server: {said}",
        "check the port in --nats; a server that speaks TLS first is asked as tls:// or wss://",
    )


async def secure(address: Address, context: ssl.SSLContext) -> str:
    """Shake hands as the broker's clients do; returns whose certificate it is, and until when it holds.

    `BrokenError` names what is wrong with it: expired, for another name, signed by nobody whom ``context`` trusts; or
    that the broker wants a certificate of ours.
    """
    reader, writer = await _connect(address)
    try:
        if not address.is_web:
            await _greeting(reader, address)
        async with asyncio.timeout(STEP_S_MAX):
            await writer.start_tls(context, server_hostname=address.host)
        told = _told(writer)
        with suppress(TimeoutError):
            async with asyncio.timeout(ALERT_S):
                await reader.read(1)
        return told
    except ssl.SSLError as error:
        raise BrokenError(f"{address}: {tls_problem(error, [address.host])}", "") from error
    except (OSError, EOFError) as error:
        found = f"{address}: it ended the handshake ({str(error) or type(error).__name__})"
        raise BrokenError(
            found, "it may speak no TLS at this port, or want a certificate of ours (cert=, key=)"
        ) from error
    finally:
        await _close(writer)


def _told(writer: asyncio.StreamWriter) -> str:
    given = writer.get_extra_info("ssl_object")
    certificate = given.getpeercert() or {}
    names = [value for _, value in certificate.get("subjectAltName", ())] or ["no name"]
    text = f"{given.version()}, certificate of {', '.join(names[:3])}"
    if "notAfter" in certificate:
        ends = ssl.cert_time_to_seconds(certificate["notAfter"])
        soon = ", which is soon: renew it" if ends - time.time() < EXPIRES_SOON_S else ""
        text += f" until {time.strftime('%Y-%m-%d', time.gmtime(ends))}{soon}"
    return text


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()  # nothing was sent that could be lost; an orderly end may wait for the other side
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
