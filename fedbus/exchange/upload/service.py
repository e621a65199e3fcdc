"""Sends one upload: feeds the machine with what the combiner says and with time, and publishes what it decides.

It promises to come back with a verdict or to be cancelled; a bus that is away, a combiner that is killed or restarted
make it wait. Between two chunks it looks for news: on a slow line the credit is half a minute's worth, and what the
combiner asks for meanwhile comes before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

from fedbus.access.signing import signed_upload
from fedbus.bus.base import Payload
from fedbus.crash import Crash, Point, never
from fedbus.exchange.packing import pack
from fedbus.exchange.station import Station
from fedbus.exchange.upload.machine import Announce, Effect, Machine, Send, Settled
from fedbus.messages.subjects import ChunkAddress
from fedbus.messages.uploads import INLINE_BYTES_MAX, UploadBegin, UploadState
from fedbus.workers import Workers

LOOK_S = 0.25
"""How often an upload in chunks looks whether the line was broken and is back, which costs what was under way."""


STATES_MAX = 64
"""Words of the combiner that wait while a chunk is handed over: the newest of more are dropped, and asked for again."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be sent: its announcement, its chunks, and the XXH3 of each."""

    begin: UploadBegin
    chunk: Callable[[int], Payload]
    digests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an upload ended; ``resent``: chunks that had to be sent more than once."""

    accepted: bool
    reason: str
    resent: int


class Upload:
    """One upload to one combiner. ``workers``: where chunks are packed, if they are; None: on the loop."""

    def __init__(
        self,
        station: Station,
        combiner: str,
        parcel: Parcel,
        headers: Mapping[str, str] | None = None,
        crash: Crash = never,
        workers: Workers | None = None,
    ) -> None:
        self._workers = workers
        self._station = station
        self.combiner = combiner
        self._parcel = parcel
        self._begin = self._signed(_with_all(parcel, station.bus.payload_max))
        self._headers = dict(headers or {})
        self._crash = crash
        self._machine = Machine(parcel.begin.chunks, inline=bool(self._begin.inline))
        self._inbox: asyncio.Queue[UploadState] = asyncio.Queue(STATES_MAX)
        self._outcome: Outcome | None = None
        self._reconnects = station.bus.reconnects

    def hear(self, state: UploadState) -> None:
        """The combiner says how an upload stands; what is of another upload is ignored."""
        begin = self._parcel.begin
        is_ours = (state.session, state.round, state.attempt) == (begin.session, begin.round, begin.attempt)
        if is_ours and not self._inbox.full():
            self._inbox.put_nowait(state)

    async def run(self) -> Outcome:
        """Send until there is a verdict."""
        loop = asyncio.get_running_loop()
        await self._act(self._machine.start(loop.time()))
        while self._outcome is None:
            state = await self._next_state(self._machine.due - loop.time())
            if self._is_back():
                self._reconnects = self._station.bus.reconnects
                await self._station.greet_again()
                await self._act(self._machine.reconnected(loop.time()))
            now = loop.time()
            effects = self._machine.tick(now) if state is None else self._machine.heard(state, now)
            self._machine.check()
            await self._act(effects)
        return self._outcome

    async def _next_state(self, wait_s: float) -> UploadState | None:
        """Wait for a word of the combiner, until it is time to look at something else."""
        if not self._begin.inline:
            wait_s = min(wait_s, LOOK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0.01)):
                return await self._inbox.get()
        return None

    def _is_back(self) -> bool:
        return not self._begin.inline and self._station.bus.reconnects != self._reconnects

    async def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Announce():
                    subject = self._station.subjects.up(self.combiner, self._station.peer)
                    await self._station.say(subject, self._numbered(), self._headers)
                    self._crash(Point.UPDATE_ANNOUNCED)
                    if self._begin.inline:
                        self._crash(Point.UPDATE_SENT)
                case Send(first, stop):
                    if await self._send_all(first, stop) == self._parcel.begin.chunks:
                        self._crash(Point.UPDATE_SENT)
                case Settled(accepted, reason):
                    self._outcome = Outcome(accepted, reason, self._machine.resent)
                case _:
                    assert_never(effect)

    def _signed(self, begin: UploadBegin) -> UploadBegin:
        station = self._station
        if station.signer is None:
            return begin
        return signed_upload(station.signer, station.subjects.workspace, station.peer, self.combiner, begin)

    def _numbered(self) -> UploadBegin:
        """Return the announcement with its number, which is of no use where nothing follows it."""
        signer = self._station.signer
        if signer is not None and signer.identity != self._begin.identity:  # it was renewed since
            self._begin = self._signed(self._begin)
        return self._begin if self._begin.inline else self._begin.model_copy(update={"number": self._machine.number})

    async def _send_all(self, first: int, stop: int) -> int:
        """Send chunks until there is news; returns the first that was not sent."""
        for chunk in range(first, stop):
            if chunk > first and (self._is_back() or not self._inbox.empty()):
                self._machine.stopped(chunk)
                return chunk
            await self._send(chunk)
        return stop

    async def _send(self, chunk: int) -> None:
        begin, digest = self._parcel.begin, self._parcel.digests[chunk]
        address = ChunkAddress(self._station.peer, begin.session, begin.round, begin.attempt, chunk, digest)
        data = self._parcel.chunk(chunk)
        if begin.packed:
            data = pack(data) if self._workers is None else await self._workers.run(pack, data)
        await self._station.send(self._station.subjects.chunk(self.combiner, address), data)


def _with_all(parcel: Parcel, payload_max: int) -> UploadBegin:
    """Return the announcement, with the whole update where that is one small chunk and messages may be so large.

    A model that was cut into more chunks for all its smallness was cut so to be sent in small messages.
    """
    begin = parcel.begin
    if begin.chunks != 1 or begin.nbytes > min(INLINE_BYTES_MAX, payload_max // 4):
        return begin
    return begin.model_copy(update={"inline": bytes(parcel.chunk(0)), "packed": False})
