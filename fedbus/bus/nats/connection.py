"""One connection of nats-py, tamed: it comes back for ever, its errors are ours, cancelling works.

What is worked around here (nats-py 2.16), each seen in its source:

- ``flush`` cancels its future when it is given up, and the pong that comes later kills the reading task: a flush is
never given up here, only no longer waited for.
- ``publish`` with a full buffer awaits the socket and swallows cancellation while it does: the buffer never gets full,
  `Connection.send` waits before it.
- First connections retry for ever or, without reconnection, never again: the first is bounded here by a task of its
own.
- Permission errors arrive in lower case and only in a callback: they are matched to who waits for that subject.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Server
from nats.aio.msg import Msg

from fedbus.bus.nats import standstill
from fedbus.bus.nats.client import FULL, STALE_BYTES, NoTls, WireClient
from fedbus.bus.nats.identity import Identify, Identity
from fedbus.bus.nats.websocket import WebsocketRefused
from fedbus.bus.proxy import ProxyProblem, proxies_of
from fedbus.bus.tls import SECURE_SCHEMES, WEB_SCHEMES, client_context, scheme_of, split_url, tls_problem
from fedbus.errors import BusClosed, BusDenied, BusError, BusFull, BusUnavailable, ConfigError

LOG = logging.getLogger("fedbus.bus")

OUTGOING_BYTES_MAX = 8 * 2**20
"""What may wait in nats-py's buffer before senders wait: the largest message; the memory bus has the same."""

BULK_S = 0.5
BULK_BYTES_MIN = 64 * 1024
BULK_BYTES_FIRST = 256 * 1024
"""What may wait before a large message is taken: half a second of what the line has been seen to carry, and so much
until that is known. On a line of 1 Mbit/s one chunk waits and not sixteen: who has small things to say is not behind
them, and whoever is asked for another chunk than the next one can still change his mind."""

SEEN_S = 2.0
SEEN_BYTES = 4 * 2**20
"""A line is known when so long was waited for it, or so much went meanwhile: less may be in the kernel's buffer."""

OUTGOING_LOOK_S = 0.005
"""Between looks at that buffer: nats-py tells nobody when it is written. 8 MiB in 5 ms is more than a socket takes."""

BUFFER_BYTES_MAX = 4 * OUTGOING_BYTES_MAX
"""nats-py's own limit, never reached: see ``publish`` above."""

BACKOFF_S = (0.05, 2.0)
"""First and longest pause between attempts to reconnect; half of it is drawn, or all clients return in one moment."""

REFUSED_S_MAX = 30.0
"""Longest pause of who is refused: it may be let in again, with other credentials in its file or the same, but not in a
moment; and a thousand that are not must not keep a broker busy with signatures."""

ATTEMPT_S_MAX = 5.0
"""For one attempt to connect: a slow link with TLS needs four round trips."""

PING_EVERY_S = 10.0
PINGS_MISSED_MAX = 4
"""A dead peer is noticed after 40-50 s; with less, a loop that is busy (imports, compilation) disconnects itself."""

FLUSH_S_MAX = 2.0
"""At closing: what a broker does not take within this is lost, as with any socket that is closed."""

FOREVER_S = 10**9
"""For nats-py's flush, which must not be given up."""

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_SCHEMES = ("nats", "tls", "ws", "wss")
_REFUSALS = ("authorization violation", "authentication expired", "authentication revoked", "authorization timeout")


class Listener(Protocol):
    """Who wants to hear of the fate of the connection."""

    def on_reconnected(self) -> None:
        """Hear that the connection is back; what was on its way may be lost."""
        ...

    def on_closed(self, reason: BusError) -> None:
        """Hear that the connection is closed for good."""
        ...

    def on_denied(self, action: str, subject: str, reason: BusDenied) -> None:
        """Hear that the broker refused a "publish" or "subscription"; the subject in lower case."""
        ...


class Connection:
    """The client of nats-py and what is known of its state."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.where = without_secrets(url)
        self.reconnects = 0
        self.member: tuple[str, str] | None = None
        self.listeners: list[Listener] = []
        self._url = url
        self._urls: list[str] = []
        self._client = WireClient()
        self._closing = False
        self._refusal = ""
        self._last_error = ""
        self._in_proxy = False
        self._distrust = ""
        self._refused = asyncio.Event()
        self._attempt = 0
        self._flushes: set[asyncio.Task[None]] = set()
        self._flushes_lost: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._bulk_turn = asyncio.Lock()
        self._seen_bytes, self._seen_s = 0, 0.0
        self._bulk_bytes_max = float(BULK_BYTES_FIRST)
        self._warned: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    # ---- the first connection

    async def open(
        self, *, identify: Identify | None, tls: ssl.SSLContext | None, inbox_prefix: str, deadline_s: float
    ) -> None:
        """Connect; raises `BusDenied`, `BusUnavailable`, `ConfigError`."""
        self._urls, files = split_url(self._url)
        _check_urls(self._urls, insists=tls is not None)
        self._client.go_through(proxies_of(self._url))
        ca = ""
        if identify is not None:
            # now, before nats-py asks in the midst of a handshake; and permissions leave a member one inbox
            identity = await asyncio.to_thread(identify)
            inbox_prefix, self.member, ca = identity.inbox, identity.member, identity.ca
        if tls is None and (ca or any(scheme_of(url) in SECURE_SCHEMES for url in self._urls)):
            tls = await asyncio.to_thread(client_context, files, ca=ca)  # then nats:// insists on TLS, too
        attempt = asyncio.create_task(self._connect(identify, tls, inbox_prefix))
        refused = asyncio.create_task(self._refused.wait())
        try:
            await asyncio.wait({attempt, refused}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            done = attempt.done() and not attempt.cancelled() and attempt.exception() is None
            refused.cancel()
            if not done:
                await self._abandon(attempt)
        if not done:
            self._raise_why(attempt, deadline_s)
        self._watching = asyncio.create_task(standstill.watch(self._client))

    async def _connect(self, identify: Identify | None, tls: ssl.SSLContext | None, inbox_prefix: str) -> None:
        sign, show = (None, None) if identify is None else _shown(identify)
        await self._client.connect(
            self._urls,
            name=self.name,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,  # of the first connection only; later ones follow _next_server
            reconnect_to_server_handler=self._next_server,
            connect_timeout=int(ATTEMPT_S_MAX),
            ping_interval=int(PING_EVERY_S),
            max_outstanding_pings=PINGS_MISSED_MAX,
            pending_size=BUFFER_BYTES_MAX,
            inbox_prefix=inbox_prefix,
            signature_cb=sign,
            user_jwt_cb=show,
            tls=tls,
        )

    async def _abandon(self, attempt: asyncio.Task[None]) -> None:
        self._closing = True
        attempt.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await attempt
        with suppress(Exception):
            await self._client.close()

    def _raise_why(self, attempt: asyncio.Task[None], deadline_s: float) -> None:
        cause = None if attempt.cancelled() else attempt.exception()
        if self._refusal:
            text = f"{self.where}: the broker refused {self.name!r}: {self._refusal}"
            raise BusDenied(f"{text}; check credentials, user and password") from cause
        if self._distrust:
            raise BusUnavailable(f"{self.where}: {self._distrust}") from cause
        why = str(cause or self._last_error or "no answer")
        text = f"{self.where}: not connected after {deadline_s:g} s ({why})"
        hint = "" if self._in_proxy else ": is a broker running there? `fedbus up` starts one"
        if FULL in why:
            hint = ": it has no room for more: end some, or have the bound raised: `fedbus workspace set --clients-max`"
        raise BusUnavailable(f"{text}{hint}") from cause

    def _next_server(self, servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        first, longest = BACKOFF_S
        if self._refusal or FULL in self._last_error:
            longest = REFUSED_S_MAX
        pause = min(longest, first * 2 ** min(self._attempt, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - it spreads, it hides nothing
        server = servers[self._attempt % len(servers)]
        self._attempt += 1
        return server, pause

    # ---- what nats-py tells

    async def _on_error(self, error: Exception) -> None:
        text = str(error).lower() or type(error).__name__
        violation = _VIOLATION.search(text)
        if violation:
            self._tell_denied(violation[1], violation[2])
            return
        self._last_error, self._in_proxy = str(error) or type(error).__name__, isinstance(error, ProxyProblem)
        if problem := tls_problem(error, [name for url in self._urls if (name := urlsplit(url).hostname)]):
            self._last_error = problem
        is_final = isinstance(error, ProxyProblem) and error.is_final
        if len(self._urls) == 1 and (problem or is_final or isinstance(error, (NoTls, WebsocketRefused))):
            self._distrust = self._last_error  # it will be the same a second later
            self._refused.set()
        if problem and problem not in self._warned and len(self._warned) < 1000:
            self._warned.add(problem)
            LOG.warning("%s: %s", self.where, problem)
        for refusal in _REFUSALS:
            if refusal in text:
                self._refusal = refusal
                self._refused.set()
        LOG.debug("%s: %r: nats-py reports %r", self.where, self.name, error)

    def _tell_denied(self, action: str, subject: str) -> None:
        text = f"{self.where}: {self.name!r} has no permission for {action} to {subject!r}"
        reason = BusDenied(f"{text}: ask the operator")
        key = f"{action} {subject}"
        if key not in self._warned and len(self._warned) < 1000:
            self._warned.add(key)
            LOG.warning("%s", reason)
        for listener in list(self.listeners):
            listener.on_denied(action, subject, reason)

    async def _on_disconnected(self) -> None:
        self._flushes_lost |= self._flushes
        if not self._closing:
            why = self._last_error or "no reason given"
            LOG.warning("%s: %r is disconnected (%s), reconnecting", self.where, self.name, why)

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        self._attempt = 0
        self._bulk_bytes_max = float(BULK_BYTES_FIRST)  # it may be another line
        self._seen_bytes, self._seen_s = 0, 0.0
        self._refusal = self._distrust = self._last_error = ""
        self._refused.clear()
        LOG.info("%s: %r is connected again", self.where, self.name)
        self._forget_flushes()
        for listener in list(self.listeners):
            listener.on_reconnected()

    async def _on_closed(self) -> None:
        reason = self.closed_error()
        if not self._closing:
            LOG.error("%s", reason)
        self._flushes_lost |= self._flushes
        self._forget_flushes()
        for listener in list(self.listeners):
            listener.on_closed(reason)

    def _forget_flushes(self) -> None:
        # the pongs of the old connection can't come any more, as nats-py has begun a new list of them: only now may who
        # waits for them be cancelled, and only who does, as some may have begun on the new connection already
        for flush in self._flushes_lost:
            flush.cancel()
        self._flushes_lost.clear()

    # ---- state

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable now."""
        return self._client.is_connected and not self._closing

    @property
    def closed(self) -> bool:
        """Whether the connection is closed for good."""
        return self._closing or self._client.is_closed

    @property
    def distrust(self) -> str:
        """Why the other side is not trusted, or is no NATS; empty as long as it is, and of several addresses."""
        return self._distrust

    @property
    def payload_max(self) -> int:
        """Most bytes the broker takes in one message, headers included."""
        return self._client.max_payload

    @property
    def server(self) -> tuple[str, str]:
        """Name and version of the server that the connection is to, or was last."""
        return self._client.server

    @property
    def waiting_bytes(self) -> int:
        """Return what waits to go out."""
        link = self._client.link
        return self._client.pending_data_size + (link.outgoing_bytes if link is not None else 0)

    @property
    def received_bytes(self) -> int:
        """Return what has come since the connection was last made."""
        link = self._client.link
        return link.received_bytes if link is not None else 0

    def closed_error(self) -> BusClosed:
        """Return the error of who uses a closed connection."""
        known = "" if self._closing else self._refusal or self._last_error
        why = f" ({known})" if known else ""
        return BusClosed(f"{self.where}: the connection of {self.name!r} is closed{why}")

    def unavailable(self, what: str) -> BusError:
        """Return the error of who has waited in vain."""
        if self._refusal and not self.connected:
            return BusDenied(f"{self.where}: {what}: the broker refuses {self.name!r}: {self._refusal}")
        why = f" ({self._distrust})" if self._distrust else ""
        state = "" if self.connected else f", which is not reachable{why}"
        return BusUnavailable(f"{what} from {self.where}{state}")

    def check_open(self) -> None:
        """Raise `BusClosed` on a closed connection."""
        if self.closed:
            raise self.closed_error()

    # ---- sending and receiving

    async def send(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a message; waits while too much is waiting to go out, a large one where that is little."""
        is_bulk = len(data) > STALE_BYTES
        if self.waiting_bytes > self._waiting_max(is_bulk):
            await self._room(is_bulk)
        self.check_open()
        try:
            await self._client.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except nats.errors.MaxPayloadError as error:
            size, limit = len(data), self._client.max_payload
            raise BusFull(f"{subject}: {size} bytes, the broker takes at most {limit}: send it in chunks") from error
        except nats.errors.OutboundBufferLimitError as error:
            raise BusUnavailable(f"{self.where}: disconnected, and the outgoing buffer is full") from error
        except nats.errors.ConnectionClosedError as error:
            raise self.closed_error() from error
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise ConfigError(f"{subject!r}: {error}") from error
        except nats.errors.Error as error:
            raise BusUnavailable(f"{self.where}: {subject}: {error}") from error

    def check_bulk(self, subject: str, data: bytes) -> None:
        """Raise `BusUnavailable` for a large message that could not go out now: when it could, it would be stale."""
        if len(data) > STALE_BYTES and not self._is_up():
            self.check_open()
            raise BusUnavailable(f"{self.where} is not reachable: {subject}: {len(data)} bytes are not kept for it")

    def _is_up(self) -> bool:
        """Whether the line is there: it ends some moments before nats-py knows."""
        link = self._client.link
        return self.connected and (link is None or not link.ended)

    def _waiting_max(self, is_bulk: bool) -> float:  # noqa: FBT001 - private
        return self._bulk_bytes_max if is_bulk else OUTGOING_BYTES_MAX

    async def _room(self, is_bulk: bool) -> None:  # noqa: FBT001 - private
        now = asyncio.get_running_loop().time
        async with self._bulk_turn if is_bulk else self._turn:  # one looks, the others wait in line behind it
            then, sent, link = now(), self._sent_bytes(), self._client.link
            while self.waiting_bytes > self._waiting_max(is_bulk):
                self.check_open()
                if not self._client.is_connected:
                    size = self.waiting_bytes
                    raise BusUnavailable(f"{self.where} is not reachable, and {size} bytes wait to go out already")
                await asyncio.sleep(OUTGOING_LOOK_S)
                if is_bulk:
                    self._see(self._sent_bytes() - sent, now() - then)
                    then, sent = now(), self._sent_bytes()
            if is_bulk and (self._client.link is not link or not self._is_up()):
                raise BusUnavailable(f"{self.where}: the line was cut while a message waited for it")

    def _sent_bytes(self) -> int:
        link = self._client.link
        return link.sent_bytes if link is not None else 0

    def _see(self, went_bytes: int, took_s: float) -> None:
        """Take note of what the line has carried while somebody waited for it."""
        self._seen_bytes += max(0, went_bytes)
        self._seen_s += took_s
        if self._seen_s >= SEEN_S or self._seen_bytes >= SEEN_BYTES:
            rate = self._seen_bytes / self._seen_s
            self._bulk_bytes_max = min(OUTGOING_BYTES_MAX, max(BULK_BYTES_MIN, rate * BULK_S))
            self._seen_bytes, self._seen_s = 0, 0.0

    async def receive(
        self, patterns: Sequence[str], handler: Callable[[Msg], None], wants: Callable[[str], bool] | None = None
    ) -> range:
        """Hand every message of some patterns to a handler, from the broker's next word on (see `flush`).

        ``wants``: whether a message with a subject is to be taken at all.
        """
        self.check_open()
        try:
            # the handler takes at once, and it is the mailbox behind it that is bounded
            return await self._client.listen(patterns, handler, wants)
        except nats.errors.ConnectionClosedError as error:
            raise self.closed_error() from error
        except nats.errors.Error as error:
            raise BusUnavailable(f"{self.where}: subscribe {patterns[0]}: {error}") from error

    async def ignore(self, received: range) -> None:
        """End what `receive` began."""
        with suppress(nats.errors.Error):
            await self._client.unlisten(received)

    def inbox(self) -> str:
        """Return a subject that nobody else uses."""
        return self._client.new_inbox()

    async def flush(self, deadline_s: float) -> None:
        """Wait until the broker has taken all that was sent; `BusUnavailable` after the deadline."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while True:
            self.check_open()
            if self.connected:
                task = asyncio.create_task(self._flush_once())
                self._flushes.add(task)
                task.add_done_callback(self._flushes.discard)
                await asyncio.wait({task}, timeout=max(0.0, end - loop.time()))
                if task.done() and not task.cancelled() and task.exception() is None:
                    return
            if loop.time() >= end:
                raise self.unavailable(f"no answer within {deadline_s:g} s")
            await asyncio.sleep(OUTGOING_LOOK_S * 10)  # disconnected: the next attempt is at least this far away

    async def _flush_once(self) -> None:
        with suppress(nats.errors.Error, OSError):
            await self._client.flush(timeout=FOREVER_S)
            return
        await asyncio.sleep(0)
        raise BusUnavailable("flush failed")

    async def close(self) -> None:
        """Flush what is outgoing, close for good; idempotent."""
        if self._closing:
            return
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self.connected:
            with suppress(BusError):
                await self.flush(FLUSH_S_MAX)
        self._closing = True
        closing = asyncio.create_task(self._client.close())
        await asyncio.wait({closing}, timeout=FLUSH_S_MAX)
        if not closing.done():  # a peer that does not read: nats-py waits for its socket without end
            closing.cancel()
            self._client.abort()
        with suppress(asyncio.CancelledError, Exception):
            await closing
        await self._on_closed()
        # nats-py cancels its tasks without waiting for them: let them run out, or they outlive us by a turn of the loop
        for _ in range(3):
            await asyncio.sleep(0)


def _shown(identify: Identify) -> tuple[Callable[[str], bytes], Callable[[], bytes]]:
    """Return what nats-py asks at each connection: the signature first, then the JWT, both of one reading."""
    newest: list[Identity] = []

    def sign(nonce: str) -> bytes:
        newest[:] = [identify()]
        return newest[0].sign(nonce)

    def show() -> bytes:
        return (newest or [identify()])[0].jwt.encode()

    return sign, show


def _check_urls(urls: list[str], *, insists: bool) -> None:
    """Say what is wrong with an address before nats-py does: for none at all it looks without end, and never yields."""
    if not urls:
        raise ConfigError("expected the address of a broker, for example nats://127.0.0.1:4222, got none")
    for url in urls:
        try:
            pieces = urlsplit(url if "://" in url else f"nats://{url}")
            fits = pieces.scheme in _SCHEMES and bool(pieces.hostname) and pieces.port != 0
        except ValueError:  # the port is no number, or none that there is
            fits = False
        if not fits:
            shown = url.rpartition("@")[2]
            raise ConfigError(f"expected an address like nats://127.0.0.1:4222, got {shown!r}")
    schemes = {scheme_of(url) for url in urls}
    if schemes & set(WEB_SCHEMES) and schemes - set(WEB_SCHEMES):
        raise ConfigError(
            f"addresses of one broker are all websockets (ws, wss) or none, got {', '.join(sorted(schemes))}"
        )
    if insists and "ws" in schemes:
        raise ConfigError("an SSL context was given, and ws:// has no TLS: write wss://")


def without_secrets(url: str) -> str:
    """Return a URL that may be shown: user, password and token taken out."""
    shown = []
    for part in url.split(","):
        pieces = urlsplit(part.strip() if "://" in part else f"nats://{part.strip()}")
        shown.append(f"{pieces.scheme}://{pieces.netloc.rpartition('@')[2]}")
    return ",".join(shown)
