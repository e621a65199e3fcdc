"""Following a stream over NATS: in order, each once, for as long as the connection is not closed for good.

A pull consumer that needs no acknowledgements and lives in the broker's memory does the reading. It is a throw-away:
after a reconnection, a gap in its count, missing heartbeats, or its own end, a new one is made behind the last message
received. Before that the stream is looked at: when it was made at another time, or its last sequence is below our
position, it is another stream, and is read from its beginning.

    _run:  attach --> serve (pull when there is room, watch heartbeats) --> broken --> attach ...
    _take: called for each arrival, never waits: queue it, or note what broke, and wake _run

Pulling is what bounds memory: at most two pulls are open, each of at most `PREFETCH_BYTES`, and none is opened while
half of that waits for the reader.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Self

from nats.aio.msg import Msg

from fedbus.bus.base import Message
from fedbus.bus.mailbox import MESSAGE_OVERHEAD_BYTES, Arrivals
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.jetstream import JetStream, headers_of
from fedbus.bus.nats.requests import status_of
from fedbus.errors import BusDenied, BusError, BusFull, BusUnavailable, FedbusError

LOG = logging.getLogger("fedbus.bus")

PREFETCH_MESSAGES = 512
"""In one pull: small messages at 100 ms round trip still come at 5,000 a second."""

PREFETCH_BYTES = 8 * 2**20
"""In one pull, or the largest message if that is more: 80 MB/s at 100 ms round trip, 20 MiB of memory at worst."""

PULL_EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
"""The broker's sign of life within a pull; it must be at most half of what the pull may last."""

SILENCE_S_MAX = 2.5 * HEARTBEAT_S

IDLE_S_MAX = 60.0
"""After this long without a pull (a reader stands still, or is dead) the broker drops a consumer; we make another."""

CALL_S_MAX = 10.0

BACKOFF_S = (0.05, 2.0)
"""First and longest pause between attempts to attach (no such stream yet, a broker that recovers)."""


class NatsFollow:
    """One reader of one stream."""

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        stream: str,
        pattern: str,
        from_sequence: int,
        ended: Callable[[NatsFollow], None],
    ) -> None:
        self.name = f"follow {stream} {pattern}"
        self._connection = connection
        self._jetstream = jetstream
        self._stream = stream
        self._pattern = pattern
        self._received = max(0, from_sequence - 1)
        self._made_at = ""
        self._anew = 0
        self._consumer = ""
        self._consumer_count = 0
        self._inbox = connection.inbox()
        self._asked = 0
        self._queue: deque[Message] = deque()
        self._queue_bytes = 0
        self._arrivals = Arrivals()
        self._wake = asyncio.Event()
        self._broken = ""
        self._heard_at = 0.0
        self._error: FedbusError | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._ended = ended

    # ---- for the reader

    def start(self) -> None:
        """Begin; the task ends with `close`, or when the connection is closed for good."""
        self._connection.listeners.append(self)
        self._task = asyncio.create_task(self._run(), name=self.name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._queue or self._closed or self._error is not None:
            if self._closed:
                raise StopAsyncIteration
            if self._error is not None:
                raise type(self._error)(*self._error.args) from self._error
            await self._arrivals.wait()
        message = self._queue.popleft()
        self._queue_bytes -= len(message.data) + MESSAGE_OVERHEAD_BYTES
        self._wake.set()
        behind = len(self._queue)
        if behind > message.pending:
            # more has arrived than the broker knew of when it sent this one
            return replace(message, pending=behind)
        return message

    async def close(self) -> None:
        """Stop receiving and remove the consumer; idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._arrivals.announce_end()
            await self.stop()

    async def stop(self) -> None:
        """End the task and remove the consumer."""
        self._ended(self)
        if self in self._connection.listeners:
            self._connection.listeners.remove(self)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    # ---- what the connection tells

    def on_reconnected(self) -> None:
        """Attach again: what the old consumer had sent may be lost."""
        self._break("the connection was re-established")

    def on_closed(self, reason: BusError) -> None:
        """End iteration."""
        self._fail(reason)

    def on_denied(self, action: str, subject: str, reason: BusDenied) -> None:
        """End iteration when it is our pulls or our inbox that are refused; requests of others are told by theirs."""
        refused = (action, subject)
        if refused in (("publish", self._next().lower()), ("subscription", f"{self._inbox}.*".lower())):
            self._fail(reason)

    def _fail(self, error: FedbusError) -> None:
        if self._error is None and not self._closed:
            self._error = error
            self._queue.clear()
            self._arrivals.announce_end()
            self._wake.set()

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._wake.set()

    # ---- the task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        subscription = None
        pause, longest = BACKOFF_S
        try:
            subscription = await self._connection.receive([f"{self._inbox}.*"], self._take)
            while self._error is None:
                began = loop.time()
                try:
                    await self._attach()
                    await self._serve()
                    LOG.debug("%s: attaching again: %s", self.name, self._broken)
                except (BusUnavailable, BusFull) as error:
                    LOG.debug("%s: not attached: %s", self.name, error)
                lasted_s = loop.time() - began
                pause = BACKOFF_S[0] if lasted_s > longest else min(longest, 2 * pause)
                if self._broken != "the connection was re-established":
                    await asyncio.sleep(pause)
        except FedbusError as error:
            self._fail(error)
        finally:
            # a defect of ours ends the task too: its reader must not wait for ever, and `close` raises it
            self._fail(BusError(f"{self.name}: ended by a defect"))
            await self._leave()
            if subscription is not None:
                await self._connection.ignore(subscription)

    async def _attach(self) -> None:
        await self._leave()
        self._broken = ""
        made_at, last, _ = await self._jetstream.state(self._stream, CALL_S_MAX)
        if (self._made_at and made_at != self._made_at) or last < self._received:
            LOG.info("%s: the stream begins anew (%d was received, %d is its last)", self.name, self._received, last)
            self._received = 0
            self._anew += 1
            self._queue.clear()
            self._queue_bytes = 0
        self._made_at = made_at
        self._consumer = self._connection.inbox().rpartition(".")[2]
        self._consumer_count = 0
        self._asked = 0
        config = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._received + 1,
            "ack_policy": "none",
            "filter_subject": self._pattern,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": round(IDLE_S_MAX * 1e9),
        }
        body = {"stream_name": self._stream, "config": config}
        path = f"CONSUMER.CREATE.{self._stream}.{self._consumer}.{self._pattern}"
        await self._jetstream.api(path, body, deadline_s=CALL_S_MAX, what=self.name)
        self._heard_at = asyncio.get_running_loop().time()

    async def _leave(self) -> None:
        """Remove the consumer without waiting for word of it: should this get lost, the broker drops it by itself."""
        if self._consumer and self._connection.connected:
            with suppress(BusError):
                await self._connection.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")
        self._consumer = ""

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._broken and self._error is None:
            self._wake.clear()
            await self._pull()
            silence_s = self._heard_at + SILENCE_S_MAX - loop.time() if self._asked else None
            try:
                async with asyncio.timeout(silence_s):
                    await self._wake.wait()
            except TimeoutError:
                # heartbeats do not wake us: they may have come in the meantime
                if loop.time() >= self._heard_at + SILENCE_S_MAX:
                    self._break(f"nothing heard for {SILENCE_S_MAX:g} s")

    async def _pull(self) -> None:
        if self._asked > PREFETCH_MESSAGES // 2 or self._queue_bytes > PREFETCH_BYTES // 2:
            return
        if not self._asked:
            self._heard_at = asyncio.get_running_loop().time()
        body = {
            "batch": PREFETCH_MESSAGES,
            "max_bytes": max(PREFETCH_BYTES, self._connection.payload_max + 2**16),
            "expires": round(PULL_EXPIRES_S * 1e9),
            "idle_heartbeat": round(HEARTBEAT_S * 1e9),
        }
        self._asked += PREFETCH_MESSAGES
        await self._connection.send(self._next(), json.dumps(body).encode(), reply=f"{self._inbox}.{self._consumer}")

    def _next(self) -> str:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"

    # ---- arrivals

    def _take(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if message.reply.startswith("$JS.ACK."):
            self._take_message(message)
        elif message.subject == f"{self._inbox}.{self._consumer}":
            self._take_status(message)

    def _take_message(self, message: Msg) -> None:
        # $JS.ACK.[domain.account.]stream.consumer.delivered.sequence.count.time.pending[.random]
        tokens = message.reply.split(".")
        skip = 2 if len(tokens) > 9 else 0
        consumer, sequence, count, pending = tokens[3 + skip], tokens[5 + skip], tokens[6 + skip], tokens[8 + skip]
        if consumer != self._consumer or self._broken:
            return
        if int(count) != self._consumer_count + 1:
            self._break(f"message {self._consumer_count + 1} is missing")
            return
        self._consumer_count += 1
        self._asked -= 1
        self._received = int(sequence)
        headers = headers_of(message)
        stored = Message(message.subject, message.data, headers, self._received, int(pending), anew=self._anew)
        self._queue.append(stored)
        self._queue_bytes += len(stored.data) + MESSAGE_OVERHEAD_BYTES
        self._arrivals.announce()
        if self._asked <= PREFETCH_MESSAGES // 2:
            self._wake.set()

    def _take_status(self, message: Msg) -> None:
        status, headers = status_of(message), message.headers or {}
        text = headers.get("Description", "")
        if status == "100":
            sent = headers.get("Nats-Last-Consumer")
            if sent is not None and int(sent) != self._consumer_count:
                self._break(f"{sent} messages were sent, {self._consumer_count} have come")
        elif status == "408" or (status == "409" and text in ("Batch Completed", "Message Size Exceeds MaxBytes")):
            self._asked -= int(headers.get("Nats-Pending-Messages", 0))
            self._wake.set()
        else:
            self._break(f"{status} {text}")
