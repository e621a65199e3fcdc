"""The spans that a gateway knows, for waterfalls: read from the bus while somebody looks at traces, and not otherwise.

nobody looks --first question--> follows the stream, all that it keeps, then live --IDLE_S without one--> forgets
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from fedbus.bus.patience import patiently
from fedbus.errors import BusClosed, BusUnavailable, FedbusError
from fedbus.federation.service import Federation
from fedbus.federation.traces import Spans, TraceSpan

log = logging.getLogger("fedbus.gateway")

IDLE_S = 300.0
"""After so long without a question all is forgotten: 32 MiB that nobody looks at."""

READ_S_MAX = 20.0
"""How long a question waits until what the broker keeps is read."""

AGAIN_S = 5.0
"""How long nobody asks the broker again where it does not let us read spans: it may not permit their stream."""


class TraceBook:
    """The spans that are known, by trace."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._spans: Spans | None = None
        self._asked = asyncio.Event()
        self._asked_at = 0.0
        self._has_read = asyncio.Event()
        self._failed = ""

    async def of(self, trace_id: str) -> tuple[TraceSpan, ...]:
        """Return the spans of a trace, by start; `BusUnavailable` where they cannot be read now."""
        self._asked_at = asyncio.get_running_loop().time()
        self._asked.set()
        try:
            async with asyncio.timeout(READ_S_MAX):
                await self._has_read.wait()
        except TimeoutError as error:
            raise BusUnavailable("the spans on the bus could not be read in time: ask again in a moment") from error
        if self._failed:
            raise BusUnavailable(f"the spans on the bus cannot be read: {self._failed}")
        return self._spans.of(trace_id) if self._spans is not None else ()

    async def run(self) -> None:
        """Follow the stream while somebody asks; until cancelled. What goes wrong is told to those who ask."""
        while True:
            await self._asked.wait()
            following = asyncio.ensure_future(self._follow())
            try:
                while (rest_s := self._asked_at + IDLE_S - asyncio.get_running_loop().time()) > 0:
                    await asyncio.wait([following], timeout=rest_s)
                    if following.done():
                        following.result()
                        break
            except BusClosed:
                raise
            except FedbusError as error:  # traces are not worth a gateway
                log.warning("the spans on the bus cannot be read: %s", error)
                self._failed = str(error)
                self._has_read.set()
                await asyncio.sleep(AGAIN_S)
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError, FedbusError):
                    await following
            self._failed = ""
            self._asked.clear()
            self._has_read.clear()
            self._spans = None

    async def _follow(self) -> None:
        federation = self._federation
        bus, subjects = federation.bus, federation.subjects
        stream, pattern = subjects.stream("span"), subjects.span()
        self._spans = Spans(subjects)
        if not await patiently(bus, lambda: bus.pending(stream, pattern), tries_max=None):
            self._has_read.set()
        subscription = await bus.follow(stream, pattern)
        try:
            async for message in subscription:
                self._spans.take(message)
                if not message.pending:
                    self._has_read.set()
        finally:
            await subscription.close()
