"""nats-py's client with another way in: frames from a `WireTransport`, handed to their handler at once.

nats-py keeps what it does well: servers, handshake and credentials, reconnection, subscriptions made again, pings. What
is replaced is its reading (`_read_loop`) and its delivery (`_process_msg`: a queue, a task and a coroutine per message;
our handlers never wait). Over websockets it reads as ever, only delivery is ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, cast

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError, UnexpectedEOF

from fedbus.bus.nats.frames import headers_from
from fedbus.bus.nats.link import WireTransport

LOG = logging.getLogger("fedbus.bus")


class WireClient(Client):
    """A client of nats-py whose subscriptions are made by `listen`, and by nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, Callable[[Msg], None]] = {}

    async def listen(self, pattern: str, take: Callable[[Msg], None]) -> Subscription:
        """Hand every message of a pattern to ``take``, which must not wait, as it is read."""
        self._takers[self._sid + 1] = take  # the number that `subscribe` takes before it first waits
        return await self.subscribe(pattern)

    def abort(self) -> None:
        """Close the socket now; what waits to go out is lost."""
        if isinstance(self._transport, WireTransport):
            self._transport.abort()

    # ---- what nats-py calls

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._takers.pop(sid, None)

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and s.uri.scheme not in ("ws", "wss"):
            self._transport = WireTransport(self._deliver)
        await super()._connect_to_server(s)

    async def _attempt_reconnect(self) -> None:
        self.abort()  # nats-py would wait without end for a silent peer to take what is left
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
            await self._process_err(rest.strip().decode("utf-8", "replace").lower())
            await asyncio.sleep(0)  # it may have begun to close us, which comes before the end of the connection

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self._deliver(sid, subject.decode(), reply.decode(), headers or b"", data)

    def _deliver(self, sid: int, subject: str, reply: str, headers: bytes, data: bytes | memoryview) -> None:
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        take = self._takers.get(sid)
        if take is None:
            return  # it was on its way while we unsubscribed
        try:
            # nats-py says bytes; it does not look, and who looks is ours
            take(Msg(self, subject, reply, cast("bytes", data), headers_from(headers)))
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
