"""What a coordinator hears of others, in turns: whoever says much waits behind himself (`fedbus.bus.turns`).

Presence and questions are said again and again, and what was said last counts: a little room is enough for a client
that is well, and however much one says it takes a few milliseconds of each second. Reports are many where rounds are
short, and a combiner's tell of thousands of updates; who gets no `ReportTaken` says them again.
"""

from __future__ import annotations

from collections.abc import Callable

from fedbus import telemetry
from fedbus.bus.base import Bus
from fedbus.bus.patience import patiently
from fedbus.bus.turns import Room, Turns
from fedbus.exchange.station import PENDING_BYTES_MAX, Station
from fedbus.messages.envelope import ENVELOPE_BYTES_MAX
from fedbus.telemetry import Meters, metrics
from fedbus.telemetry.meters import Readings

PRESENCE = Room(waiting_max=4, bytes_max=256 * 1024, per_s_max=50)
"""A heartbeat is 2 s; a farewell and the greeting of who comes back at once have room beside it."""

BOARD = Room(waiting_max=2, bytes_max=64 * 1024, per_s_max=100)
"""A client asks when it comes, now and then, and for page after page of a long answer."""

REPORTS = Room(waiting_max=64, bytes_max=2 * ENVELOPE_BYTES_MAX, per_s_max=1000)
"""Of a client: one for a round of each of its sessions, and what it repeats; sums may be as large as a message."""

COMBINER_REPORTS = Room(waiting_max=4096, bytes_max=32 * 2**20, per_s_max=10_000)
"""Of a combiner: verdicts of all its clients, up to 3 MB each."""


class Listening:
    """Listens for a coordinator, by ``bus``; ``meters`` are told how much was dropped."""

    def __init__(self, station: Station, meters: Meters, bus: Bus) -> None:
        self._station = station
        self._bus = bus
        self._turns: dict[str, Turns] = {}
        self._dropped: dict[str, int] = {}
        meters.watch(metrics.MESSAGES_DROPPED, self._read)

    async def presence(self) -> Turns:
        """Begin to hear who is there."""
        return await self._listen("presence", self._station.subjects.presence(), lambda _: PRESENCE)

    async def reports(self) -> Turns:
        """Begin to hear what clients and combiners report."""
        return await self._listen("report", self._station.subjects.report(), _room_of_reports)

    async def boards(self) -> Turns:
        """Begin to hear who asks for what stands on the board."""
        return await self._listen("board", self._station.subjects.board(), lambda _: BOARD)

    async def _listen(self, what: str, pattern: str, room_of: Callable[[str], Room]) -> Turns:
        subscription = await patiently(
            self._bus, lambda: self._bus.subscribe(pattern, pending_bytes_max=PENDING_BYTES_MAX), tries_max=None
        )
        turns = Turns(subscription, what, room_of, bytes_max=PENDING_BYTES_MAX)
        before = self._turns.get(what)
        if before is not None:  # of an earlier reign
            self._dropped[what] = self._dropped.get(what, 0) + before.dropped
        self._turns[what] = turns
        return turns

    def _read(self) -> Readings:
        return [
            (self._dropped.get(what, 0) + turns.dropped, {telemetry.QUEUE: what})
            for what, turns in list(self._turns.items())
        ]


def _room_of_reports(subject: str) -> Room:
    return COMBINER_REPORTS if subject.split(".")[-2] == "combiner" else REPORTS
