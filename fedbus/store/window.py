"""How much of a blob may be asked for and not have come yet: enough to keep the line busy, and not more.

What is asked for beyond that waits in the broker, in memory: with 8 chunks of 512 KiB each, 64 readers made it grow by
570 MB, with one each by 130. So the window follows the line (after BBR, Cardwell et al. 2016):

    window = GAIN * rate * (floor + TURN) + SPARE * chunk          at most BYTES_MAX, at least one chunk

where ``floor`` is the time of an answer without a queue before it, the shortest that the connection has seen, and
``rate`` that of the last few chunks. Alone next door that is two chunks, in a crowd one; over 100 ms it grows by GAIN
with each round trip until the rate no longer does. Growing while chunks take no longer than the quickest of them would
not do: to readers that begin together a broker's queue looks like the length of the line.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

BYTES_MAX = 8 * 2**20
"""300 Mbit/s over 100 ms are 3.75 MB, so there is room for a longer or a faster line; and it bounds what is held."""

GAIN = 1.5
"""More than the line holds, or the rate could never be seen to grow: by so much it can with each round trip."""

TURN_S = 0.5e-3
"""From an answer to the next question here, and from that to its answer there, when nobody else asks."""

SPARE = 0.75
"""Of a chunk. Below 1, or a reader among many would always ask for two."""

RATE_AT_FIRST = 20e6
"""Bytes per second to begin with: one chunk next door, six over 100 ms."""

RATES = 8
"""Chunks of which the mean rate counts: others may join at any time, and the line is theirs too then. The best would be
one of several answers that a busy reader takes at once."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A chunk that was asked for: how large, when, and how much had come by then."""

    nbytes: int
    at: float
    came: int


class Window:
    """The window of one reading."""

    def __init__(self, floor_s: float | None) -> None:
        """``floor_s``: the shortest time of an answer, None where that is not known: the chunks' own tell."""
        self.asked_bytes = 0
        self._floor_s = floor_s
        self._came = 0
        self._rates: deque[float] = deque(maxlen=RATES)

    def bytes_max(self, chunk_bytes: int) -> float:
        """So much may have been asked for; `opens` lets the last chunk reach beyond it."""
        rate = sum(self._rates) / len(self._rates) if self._rates else RATE_AT_FIRST
        return min(BYTES_MAX - chunk_bytes, GAIN * rate * ((self._floor_s or 0.0) + TURN_S) + SPARE * chunk_bytes)

    def opens(self, chunk_bytes: int) -> bool:
        """Whether one more chunk may be asked for."""
        return not self.asked_bytes or self.asked_bytes <= self.bytes_max(chunk_bytes)

    def ask(self, nbytes: int, now: float) -> Asked:
        """Take note that a chunk is asked for."""
        self.asked_bytes += nbytes
        return Asked(nbytes, now, self._came)

    def came(self, asked: Asked, now: float) -> None:
        """Take note that it has come."""
        self.asked_bytes -= asked.nbytes
        self._came += asked.nbytes
        took_s = max(now - asked.at, 1e-6)
        if self._floor_s is None or took_s < self._floor_s:
            self._floor_s = took_s
        if asked.came:  # those asked for before anything had come tell how the line fills, not what it carries
            self._rates.append((self._came - asked.came) / took_s)

    def lost(self, asked: Asked) -> None:
        """Take note that it will not come."""
        self.asked_bytes -= asked.nbytes
