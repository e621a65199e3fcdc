"""A tunnel through an HTTP proxy (RFC 9110, section 9.3.6): from a socket to a transport whose other end is the broker.

    connect --[TLS to the proxy]--> CONNECT host:port --2xx--> whoever asked takes the transport over
                                          |--407, 403, 502, no HTTP--> ProxyProblem: which hop, what to do

Of the answer only its head is read. What comes behind it is the broker's already (a nats-server speaks first), and goes
to whoever takes over.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from http import HTTPStatus
from typing import TypeVar

from fedbus.bus.proxy import Proxy, ProxyProblem
from fedbus.bus.tls import tls_problem

ANSWER_BYTES_MAX = 16 * 1024
"""Of the head of the proxy's answer: a status, and some headers of its own."""

_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_ANSWERED = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")

Taker = TypeVar("Taker", bound="asyncio.Protocol | asyncio.BufferedProtocol")


async def dig(proxy: Proxy, host: str, port: int, *, deadline_s: float) -> tuple[asyncio.Transport, bytes]:
    """Return a transport whose other end is ``host:port``, paused, and what has come from there; see `take_over`.

    Raises `ProxyProblem`, `ConfigError` for a CA's file that cannot be read.
    """
    context = await asyncio.to_thread(proxy.context) if proxy.is_secure else None
    target = _target(host, port)
    asking, is_dug = None, False
    try:
        async with asyncio.timeout(deadline_s):
            transport, asking = await _connected(proxy, context)
            asking.ask(proxy, target)
            head, rest = await asking.answer
        _check(proxy, target, head)
        is_dug = True
    except TimeoutError as error:
        raise _late(proxy, target, deadline_s, reached=asking is not None) from error
    except OSError as error:  # of the connection that there was; a ProxyProblem is one, too
        if isinstance(error, ProxyProblem):
            raise
        raise _ended(proxy, target, error) from error
    finally:
        if asking is not None and not is_dug:
            asking.give_up()
    return transport, rest


def take_over(transport: asyncio.Transport, taker: Taker, rest: bytes) -> Taker:
    """Have a protocol go on with a transport of `dig`, beginning with what has come already."""
    transport.set_protocol(taker)
    taker.connection_made(transport)
    if isinstance(taker, asyncio.BufferedProtocol):
        while rest:
            room = memoryview(taker.get_buffer(len(rest)))
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            taker.buffer_updated(count)
            rest = rest[count:]
    elif rest:
        taker.data_received(rest)
    transport.resume_reading()
    return taker


async def streams(
    proxy: Proxy, host: str, port: int, *, deadline_s: float, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a tunnel as asyncio's streams, as `asyncio.open_connection` does without a proxy; raises as `dig`."""
    transport, rest = await dig(proxy, host, port, deadline_s=deadline_s)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = take_over(transport, asyncio.StreamReaderProtocol(reader, loop=loop), rest)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Asking(asyncio.Protocol):
    """Who asks the proxy, and reads no further than its answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._came = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, proxy: Proxy, target: str) -> None:
        assert self._transport is not None
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: Basic {proxy.authorization}")
        self._transport.write("\r\n".join((*lines, "", "")).encode())

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._came += data
        head, end, rest = self._came.partition(b"\r\n\r\n")
        is_http = bytes(self._came[:7]) == b"HTTP/1."[: len(self._came)]
        if (end or not is_http or len(self._came) >= ANSWER_BYTES_MAX) and not self.answer.done():
            self._transport.pause_reading()  # what comes now is for whoever takes over
            self.answer.set_result((bytes(head + end), bytes(rest)))

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("it closed the connection"))

    def give_up(self) -> None:
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # nobody else will look at it
        if self._transport is not None:
            self._transport.abort()


async def _connected(proxy: Proxy, context: ssl.SSLContext | None) -> tuple[asyncio.Transport, _Asking]:
    loop = asyncio.get_running_loop()
    name = proxy.host if context is not None else None
    try:
        return await loop.create_connection(_Asking, proxy.host, proxy.port, ssl=context, server_hostname=name)
    except ssl.SSLError as error:
        raise ProxyProblem(f"proxy {proxy}", _of_tls(error, proxy), is_final=True) from error
    except (OSError, UnicodeError) as error:  # a label of more than 63 characters is a UnicodeError
        if isinstance(error, TimeoutError):
            raise
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        advice = "check its name and port (--proxy, FEDBUS_PROXY, HTTPS_PROXY, proxy=), or name none: --proxy none"
        raise ProxyProblem(f"proxy {proxy} cannot be reached ({why})", advice) from error


def _of_tls(error: ssl.SSLError, proxy: Proxy) -> str:
    problem = tls_problem(error, [proxy.host], ca="proxy_ca= or --proxy-ca", plain="http://")
    return problem.replace("the broker", "the proxy")


def _target(host: str, port: int) -> str:
    """Return how CONNECT names it; brokers tell of other nodes of theirs, and nobody's name may be a header."""
    try:
        name = host if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name):
        raise ProxyProblem(f"{host[:80]!r} is no host's name", "correct the broker's address", is_final=True)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _check(proxy: Proxy, target: str, answer: bytes) -> None:
    found = _ANSWERED.match(answer)
    if found is None or not answer.endswith(b"\r\n\r\n"):  # one that does not end is none
        said = _shown(answer.partition(b"\n")[0])
        text = f"what listens at {proxy} is no HTTP proxy: it said {said!r}"
        raise ProxyProblem(text, "check the port in --proxy", is_final=True)
    status = int(found[1])
    if 200 <= status < 300:
        return
    said = f"{status} {_shown(found[2] or _phrase(status))}".strip()
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise ProxyProblem(*_unknown(proxy, answer, said), is_final=True)
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS):
        text = f"proxy {proxy} lets nobody through to {target} ({said})"
        advice = "ask whoever runs it to allow that host; most let through to port 443 only, as wss:// is"
        raise ProxyProblem(text, advice, is_final=True)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        text = f"proxy {proxy} does not reach {target} ({said})"
        raise ProxyProblem(text, "is the broker there, and does the proxy know its name?")
    text = f"{proxy} does not tunnel ({said})"
    raise ProxyProblem(text, "is that a proxy, or a web server? check --proxy", is_final=True)


def _unknown(proxy: Proxy, answer: bytes, said: str) -> tuple[str, str]:
    offered = re.findall(rb"(?im)^proxy-authenticate:[ \t]*([A-Za-z0-9-]+)", answer)
    names = list(dict.fromkeys(_shown(name) for name in offered))
    if names and "basic" not in map(str.lower, names):
        text = f"proxy {proxy} asks who we are by {' or '.join(names)} ({said}), and fedbus knows Basic only"
        return text, "ask for a user of Basic authentication, or run a proxy of your own that signs in at it"
    if proxy.authorization:
        return f"proxy {proxy} does not take this user with this password ({said})", "correct them in its address"
    text = f"proxy {proxy} asks who we are ({said})"
    return text, f"name user and password: {proxy.scheme}://USER:PASSWORD@{str(proxy).partition('://')[2]}"


def _late(proxy: Proxy, target: str, deadline_s: float, *, reached: bool) -> ProxyProblem:
    if reached:
        text = f"proxy {proxy} has no answer for {target} within {deadline_s:g} s"
        return ProxyProblem(text, "it may not reach the broker: is a firewall between the two?")
    text = f"proxy {proxy} does not answer within {deadline_s:g} s"
    return ProxyProblem(text, "is that its address, and is it open from here?")


def _ended(proxy: Proxy, target: str, error: OSError) -> ProxyProblem:
    if isinstance(error, ssl.SSLError):
        return ProxyProblem(f"proxy {proxy}", _of_tls(error, proxy), is_final=True)
    text = f"proxy {proxy} closed the connection instead of leading to {target}"
    hint = "is it an HTTP proxy?" if proxy.is_secure else "is it an HTTP proxy, and does it want TLS (https://)?"
    return ProxyProblem(text, hint)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _shown(text: bytes | str) -> str:
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    return "".join(char if char.isprintable() else "?" for char in text.strip()[:120])
