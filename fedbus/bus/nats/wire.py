"""What nats-py takes for its transport: TCP, TLS and websockets alike, each over a `Link` that is made for the attempt.

nats://  TCP, and TLS where the broker's first line asks for it      tls://  the same, and nothing without TLS
ws://    a websocket (before a proxy that ends TLS, in a lab)        wss://  TLS first, then a websocket in it

Each of them also through an HTTP proxy: then a tunnel (`fedbus.bus.tunnel`) is what all this lies in.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import ParseResult

from nats.aio.transport import Transport

from fedbus.bus import tunnel
from fedbus.bus.nats.frames import keep_freed_memory
from fedbus.bus.nats.link import Link, OnMessage
from fedbus.bus.nats.websocket import WebLink
from fedbus.bus.proxy import BROKER_PORTS, Proxy
from fedbus.bus.tls import WEB_SCHEMES

TUNNEL_PART = 0.8
"""Of an attempt's time for what is before the broker: who waits for a proxy is told that it was the proxy."""


class WireTransport(Transport):
    """A transport; `reach` connects anew, the rest is what nats-py calls."""

    def __init__(self, on_message: OnMessage) -> None:
        keep_freed_memory()
        self._on_message = on_message
        self._link: Link | None = None
        self.secure = False

    @property
    def link(self) -> Link:
        """The newest connection."""
        assert self._link is not None, "nats-py connects first"
        return self._link

    @property
    def _socket(self) -> asyncio.Transport:
        assert self.link.transport is not None
        return self.link.transport

    async def reach(
        self,
        uri: ParseResult,
        context: ssl.SSLContext | None,
        name: str,
        deadline_s: float,
        proxy: Proxy | None = None,
    ) -> None:
        """Connect anew, whatever became of the last connection; with a ``context`` over TLS from the first byte.

        ``name``: for which the certificate has to be. Raises `OSError` (`ssl.SSLError`, `WebsocketRefused`,
        `ProxyProblem`, ...).
        """
        self.abort()
        link: Link = WebLink(self._on_message) if uri.scheme in WEB_SCHEMES else Link(self._on_message)
        port = uri.port or BROKER_PORTS[uri.scheme]
        self.secure = False
        async with asyncio.timeout(deadline_s):
            await self._dial(link, uri.hostname or "", port, proxy, deadline_s * TUNNEL_PART)
            self._link = link
            try:
                if context is not None:
                    await self._encrypt(context, name)
                if isinstance(link, WebLink):
                    await link.open(uri)
            except BaseException:
                self.abort()
                raise

    async def _dial(self, link: Link, host: str, port: int, proxy: Proxy | None, deadline_s: float) -> None:
        if proxy is None:
            await asyncio.get_running_loop().create_connection(lambda: link, host, port)
            return
        transport, rest = await tunnel.dig(proxy, host, port, deadline_s=deadline_s)
        tunnel.take_over(transport, link, rest)
        if proxy.is_secure:
            link.secured(transport)

    async def _encrypt(self, context: ssl.SSLContext, name: str) -> None:
        loop = asyncio.get_running_loop()
        secure = await loop.start_tls(self._socket, self.link, context, server_hostname=name)
        assert secure is not None
        self.link.secured(secure)
        self.secure = True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        """Connect without TLS."""
        await self.reach(uri, None, uri.hostname or "", connect_timeout)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,
    ) -> None:
        """Go on over TLS, as the broker asks; nothing happens where it is TLS already."""
        if self.secure:
            return
        name = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            await self._encrypt(ssl_context, name or "")

    def write(self, payload: bytes) -> None:
        """Send."""
        self.link.send([payload])

    def writelines(self, payload: list[bytes]) -> None:
        """Send one after the other."""
        self.link.send(payload)

    async def read(self, buffer_size: int) -> bytes:
        """Not for this transport: frames go to whoever it was made for."""
        raise NotImplementedError

    async def readline(self) -> bytes:
        """Return a line of the handshake."""
        return await self.link.readline()

    async def drain(self) -> None:
        """Wait until the socket takes more."""
        await self.link.drain()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        if self._link is not None:
            await self._link.wait_closed()

    def close(self) -> None:
        """Send what waits, then close."""
        if self._link is not None:
            self._link.close()

    def abort(self) -> None:
        """Close now: a peer that does not read would be waited for without end."""
        if self._link is not None:
            self._socket.abort()

    def at_eof(self) -> bool:
        """Whether nothing will come any more."""
        return self._link is None or self._link.ended

    def __bool__(self) -> bool:
        return True
