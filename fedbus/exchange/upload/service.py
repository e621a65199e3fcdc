"""Sends one upload: feeds the machine with what the combiner says and with time, and publishes what it decides.

It promises to come back with a verdict or to be cancelled; a bus that is away, a combiner that is killed or restarted
make it wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from fedbus.bus.base import Payload
from fedbus.crash import Crash, Point, never
from fedbus.exchange.station import Station
from fedbus.exchange.upload.machine import Announce, Effect, Machine, Send, Settled
from fedbus.messages.subjects import ChunkAddress
from fedbus.messages.uploads import INLINE_BYTES_MAX, UploadBegin, UploadState


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
    """One upload to one combiner."""

    def __init__(
        self,
        station: Station,
        combiner: str,
        parcel: Parcel,
        headers: Mapping[str, str] | None = None,
        crash: Crash = never,
    ) -> None:
        self._station = station
        self.combiner = combiner
        self._parcel = parcel
        self._begin = _with_all(parcel, station.bus.payload_max)
        self._headers = dict(headers or {})
        self._crash = crash
        self._machine = Machine(parcel.begin.chunks, inline=bool(self._begin.inline))
        self._inbox: asyncio.Queue[UploadState] = asyncio.Queue()
        self._outcome: Outcome | None = None

    def hear(self, state: UploadState) -> None:
        """The combiner says how an upload stands; what is of another upload is ignored."""
        begin = self._parcel.begin
        if (state.session, state.round, state.attempt) == (begin.session, begin.round, begin.attempt):
            self._inbox.put_nowait(state)

    async def run(self) -> Outcome:
        """Send until there is a verdict."""
        loop = asyncio.get_running_loop()
        await self._act(self._machine.start(loop.time()))
        while self._outcome is None:
            try:
                async with asyncio.timeout(max(self._machine.due - loop.time(), 0.01)):
                    state = await self._inbox.get()
            except TimeoutError:
                effects = self._machine.tick(loop.time())
            else:
                effects = self._machine.heard(state, loop.time())
            self._machine.check()
            await self._act(effects)
        return self._outcome

    async def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Announce():
                    subject = self._station.subjects.up(self.combiner, self._station.peer)
                    await self._station.say(subject, self._begin, self._headers)
                    self._crash(Point.UPDATE_ANNOUNCED)
                    if self._begin.inline:
                        self._crash(Point.UPDATE_SENT)
                case Send(first, stop):
                    for chunk in range(first, stop):
                        await self._send(chunk)
                    if stop == self._parcel.begin.chunks:
                        self._crash(Point.UPDATE_SENT)
                case Settled(accepted, reason):
                    self._outcome = Outcome(accepted, reason, self._machine.resent)
                case _:
                    assert_never(effect)

    async def _send(self, chunk: int) -> None:
        begin, digest = self._parcel.begin, self._parcel.digests[chunk]
        address = ChunkAddress(self._station.peer, begin.session, begin.round, begin.attempt, chunk, digest)
        await self._station.send(self._station.subjects.chunk(self.combiner, address), self._parcel.chunk(chunk))


def _with_all(parcel: Parcel, payload_max: int) -> UploadBegin:
    """Return the announcement, with the whole update where that is one small chunk and messages may be so large.

    A model that was cut into more chunks for all its smallness was cut so to be sent in small messages.
    """
    begin = parcel.begin
    if begin.chunks != 1 or begin.nbytes > min(INLINE_BYTES_MAX, payload_max // 4):
        return begin
    return begin.model_copy(update={"inline": bytes(parcel.chunk(0))})
