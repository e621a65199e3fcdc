"""How much one address may ask: a bucket of tokens for each, and a bound on how many addresses are remembered.

A request takes a token; tokens come back at an even rate, up to a burst. Whoever has none is told when to come back.
The address that was not heard of for the longest is forgotten first: it has a full bucket again, and no more than that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

ADDRESSES_MAX = 10_000
"""Addresses that are remembered: a megabyte."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rate:
    """At most ``per_s`` requests a second of one address, and ``burst`` at once; ``per_s`` 0: no limit."""

    def __init__(self, per_s: float, burst: int, now: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = float(max(1, burst))
        self._now = now
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str) -> int:
        """Take a token of an address; returns 0, or after how many seconds to ask again."""
        if self._per_s <= 0:
            return 0
        now = self._now()
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = _Bucket(self._burst, now)
            if len(self._buckets) > ADDRESSES_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(address)
        # a clock that is set back takes nothing away
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0
        return max(1, ceil((1 - bucket.tokens) / self._per_s))
