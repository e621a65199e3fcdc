"""nats-py's client with another way in: frames from a `WireTransport`, handed to their handler at once.

nats-py keeps what it does well: servers, handshake and credentials, reconnection, subscriptions made again, pings. What
is replaced is its reading (`_read_loop`) and its delivery (a queue, a task and a coroutine per message; our handlers
never wait), on TCP, TLS and websockets alike.

And its trust: nats-py goes on in the clear where a ``tls://`` broker does not ask for TLS, or where one that did the
last time does not any more. Whoever sits on the line could say so; here it ends the attempt.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, ProtocolError, StaleConnectionError, UnexpectedEOF

from fedbus.bus.nats.frames import HEADERS_READ_MAX, headers_from
from fedbus.bus.nats.link import Link
from fedbus.bus.nats.wire import WireTransport
from fedbus.bus.proxy import Proxy, host_and_port
from fedbus.bus.tls import SECURE_SCHEMES, WEB_SCHEMES

LOG = logging.getLogger("fedbus.bus")

Take = Callable[[Msg], None]

Wants = Callable[[str], bool]
"""Whether a message with a subject is to be taken."""

STALE_BYTES = 16 * 1024
"""A command of more than this that waits to go out when the connection breaks is dropped: it is bulk, whoever sent it
sends it again, and on a slow line it would stand before what is asked for now."""


FULL = "connections exceeded"
"""So a broker ends what it says to whom it has no place for: of the account, or of its own."""

UNKNOWN = "maximum subscriptions exceeded"
"""So it ends a connection whose signing key counts no more: with the key goes the bound that stood with it."""

_ENDINGS = ("authentication expired", "authentication revoked", "authorization violation", UNKNOWN, FULL)
"""How a broker ends the connection of somebody whose JWT is good no longer, or who is one too many by a new bound."""


class NoTls(ConnectionError):
    """The broker, or somebody before it, would have us go on in the clear."""


class Interest:
    """A pattern that we listen to, for nats-py, which makes it anew after a reconnection.

    Its own `Subscription` is a queue, an iterator with a future, and 2 KB; a process with 2,500 clients has 7,500.
    """

    __slots__ = ("_subject", "take", "wants")

    _queue = ""
    _max_msgs = 0
    _received = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, pattern: str, take: Take, wants: Wants | None = None) -> None:
        self._subject = pattern
        self.take = take
        self.wants = wants


class WireClient(Client):
    """A client of nats-py whose subscriptions are made by `listen`, and by nothing else."""

    _was_secure = False

    def __init__(self) -> None:
        super().__init__()
        self._proxies: dict[tuple[str, int], Proxy] = {}

    def go_through(self, proxies: Mapping[tuple[str, int], Proxy]) -> None:
        """Reach these hosts and ports through proxies from now on, and what other nodes one of them tells of."""
        self._proxies |= proxies

    @property
    def _interests(self) -> dict[int, Interest]:
        return cast("dict[int, Interest]", self._subs)  # nats-py's list of what it has to make anew

    async def listen(self, patterns: Sequence[str], take: Take, wants: Wants | None = None) -> range:
        """Hand each message of some patterns to ``take``, which must not wait, as it is read. Returns their numbers.

        ``wants``: is asked of each subject before anything is made of its message; what it does not want is passed
        over, which costs little.
        """
        if self.is_closed:
            raise ConnectionClosedError
        numbers = range(self._sid + 1, self._sid + 1 + len(patterns))
        self._sid += len(patterns)
        for number, pattern in zip(numbers, patterns, strict=True):
            self._interests[number] = Interest(pattern, take, wants)
        await self._command("".join(f"SUB {p}  {n}\r\n" for n, p in zip(numbers, patterns, strict=True)))
        return numbers

    async def unlisten(self, numbers: range) -> None:
        """End what `listen` began; again is harmless."""
        gone = [number for number in numbers if self._interests.pop(number, None) is not None]
        if gone and not self.is_closed:
            # also while the connection is away: it may be that the line that began it still waits to go out
            await self._command("".join(f"UNSUB {number}\r\n" for number in gone))

    async def _command(self, lines: str) -> None:
        await self._send_command(lines.encode())
        await self._flush_pending()

    @property
    def server(self) -> tuple[str, str]:
        """Name and version of the server, as it said when the connection was last made."""
        return str(self._server_info.get("server_name", "")), str(self._server_info.get("version", ""))

    @property
    def link(self) -> Link | None:
        """The connection; None before the first."""
        return self._transport.link if isinstance(self._transport, WireTransport) else None

    def abort(self) -> None:
        """Close the socket now; what waits to go out is lost."""
        if isinstance(self._transport, WireTransport):
            self._transport.abort()

    # ---- whether it lives (`fedbus.bus.nats.standstill`)

    def signs_of_life(self) -> tuple[int, int]:
        """How much has come (messages and answers to pings), and how many bytes wait to go out."""
        link = self.link
        return self.stats["in_msgs"] + self._pongs_received, self._pending_data_size + (link.waiting if link else 0)

    async def ask(self) -> None:
        """Ping the broker."""
        await self._send_ping()

    async def give_up(self) -> None:
        """Take the connection for dead, and make another."""
        await self._process_op_err(StaleConnectionError())

    # ---- what nats-py calls

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = time.monotonic()
        if self._transport is None:
            self._transport = WireTransport(self._deliver)
        assert isinstance(self._transport, WireTransport)
        context = self.ssl_context if s.uri.scheme == "wss" else None
        name = s.tls_name or s.uri.hostname or ""
        proxy = self._proxies.get(host_and_port(s.uri.geturl()))
        await self._transport.reach(s.uri, context, name, self.options["connect_timeout"], proxy)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's
        current, known = self._current_server, {id(server) for server in self._server_pool}
        assert current is not None, "nats-py has chosen one"
        if initial_connection and current.uri.scheme not in WEB_SCHEMES:
            self._insist_on_tls(current, info)
        await super()._process_info(info, initial_connection)
        proxy = self._proxies.get(host_and_port(current.uri.geturl()))
        for server in self._server_pool:
            if id(server) not in known:  # another node, which nats-py takes for one of nats://
                server.uri = server.uri._replace(scheme=current.uri.scheme)
                is_address = self._host_is_ip(server.uri.hostname)
                server.tls_name = current.tls_name or current.uri.hostname if is_address else None
                if proxy is not None:
                    self._proxies.setdefault(host_and_port(server.uri.geturl()), proxy)

    def _insist_on_tls(self, server: Srv, info: dict[str, Any]) -> None:
        asked = server.uri.scheme in SECURE_SCHEMES or "tls" in self.options
        if not (info.get("tls_required") or info.get("tls_available")) and (asked or self._was_secure):
            why = "TLS was asked for" if asked else "it had TLS before"
            raise NoTls(f"{why}, and the broker offers none: nothing is sent in the clear")
        if asked or self._was_secure or info.get("tls_required"):
            info["tls_required"] = self._was_secure = True  # what nats-py looks at when this returns

    async def _attempt_reconnect(self) -> None:
        self.abort()  # nats-py would wait without end for a silent peer to take what is left
        self._pending = [command for command in self._pending if len(command) <= STALE_BYTES]
        self._pending_data_size = sum(map(len, self._pending))
        await super()._attempt_reconnect()

    async def _read_loop(self) -> None:
        if not isinstance(self._transport, WireTransport):
            await super()._read_loop()
            return
        reason: Exception = UnexpectedEOF()
        try:
            link = self._transport.link
            link.begin()
            while (said := await link.next_word()) is not None:
                await self._hear(*said)
        except asyncio.CancelledError:
            return  # by nats-py, which goes on without waiting for us
        except (OSError, ProtocolError) as error:
            reason = error
        except Exception as error:
            # nats-py would log it and be deaf from then on
            LOG.exception("what the broker said could not be taken, reconnecting")
            reason = error
        if not (self.is_closed or self.is_reconnecting):
            await self._error_cb(reason)
            await self._process_op_err(reason)

    async def _hear(self, word: bytes, rest: bytes) -> None:
        if word == b"PONG":
            await self._process_pong()
        elif word == b"INFO":
            await self._process_info(_info(rest))
        else:
            text = rest.strip().decode("utf-8", "replace").lower()
            if self.is_connected and any(ending in text for ending in _ENDINGS):
                # nats-py would close for good; but the credentials are read anew, and places become free
                refused = Error(f"nats: {text}")
                await self._error_cb(refused)
                await self._process_op_err(refused)
                return
            await self._process_err(text)
            await asyncio.sleep(0)  # it may have begun to close us, which comes before the end of the connection

    def _deliver(self, sid: int, subject: str, reply: str, headers: bytes, data: bytes | memoryview) -> None:
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        interest = self._interests.get(sid)
        if interest is None:
            return  # it was on its way while we unsubscribed
        if interest.wants is not None and not interest.wants(subject):
            return
        if interest.wants is not None and len(headers) > HEADERS_READ_MAX:
            LOG.debug("a message on %r is dropped: %d bytes of headers", subject, len(headers))
            return
        try:
            # nats-py says bytes; it does not look, and who looks is ours
            interest.take(Msg(self, subject, reply, cast("bytes", data), headers_from(headers)))
        except Exception:
            # a message that one handler cannot take must not end the connection of all
            LOG.exception("a message of %d bytes on %r was lost", len(data), subject)


def _info(text: bytes) -> dict[str, Any]:
    """Read the broker's news of itself; `ProtocolError` where that is not a JSON object."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ProtocolError from error
    if not isinstance(found, dict):
        raise ProtocolError
    return found
