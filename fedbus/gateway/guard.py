"""Guessing does not pay: who has failed a few times waits, each time twice as long, and longer than anybody guesses.

Failures are counted by the address that they come from (of IPv6 its network: a machine has 2^64 addresses there) and
by the id of the token that was tried, so that many addresses do not guess one secret together. Of a token that is being
guessed its owner is not shut out: an address from which it was right before is asked no more than any other.

All of it is bounded; what was not heard of for the longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from fedbus.gateway.origins import net_of

FREE = 5
"""Failures that cost nothing: somebody has pasted half a token, a program has the one of yesterday."""

FIRST_S = 2.0
"""The first wait."""

LONGEST_S = 900.0
"""Longest wait: a quarter of an hour. Four guesses an hour, of 2^256."""

FORGOTTEN_S = 3600.0
"""After so long without a failure it is as if there had been none."""

REMEMBERED_MAX = 10_000
"""Addresses, tokens, and pairs of them, each: some megabytes."""


@dataclass(slots=True)
class _Failures:
    count: int
    at: float
    until: float


class Guard:
    """Counts failures; ``now``: a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, token: str) -> int:
        """Return after how many seconds such a try may be made; 0: now."""
        if (net_of(address), token) in self._known:
            return 0
        now = self._now()
        found = (self._failures.get(key) for key in _keys(address, token))
        # a clock that is set back shuts nobody out for longer than was meant
        left = max((min(one.until - now, LONGEST_S) for one in found if one is not None), default=0.0)
        return ceil(left) if left > 0 else 0

    def failed(self, address: str, token: str) -> None:
        """Count a failure; ``token`` '': what was tried was no token at all."""
        now = self._now()
        for key in _keys(address, token):
            known = self._failures.pop(key, None)
            count = known.count + 1 if known is not None and now - known.at < FORGOTTEN_S else 1
            until = now + min(LONGEST_S, FIRST_S * 2.0 ** min(count - FREE - 1, 32)) if count > FREE else 0.0
            self._failures[key] = _Failures(count, now, until)
            if len(self._failures) > 2 * REMEMBERED_MAX:
                self._failures.popitem(last=False)

    def succeeded(self, address: str, token: str) -> None:
        """Remember that a token was right from there. What was counted stays: own tokens buy nobody more guesses."""
        pair = (net_of(address), token)
        self._known[pair] = None
        self._known.move_to_end(pair)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)

    def forget(self, token: str) -> None:
        """Forget from where a token was right: it is no good any more."""
        for pair in [pair for pair in self._known if pair[1] == token]:
            del self._known[pair]


def _keys(address: str, token: str) -> tuple[str, ...]:
    return (f"address {net_of(address)}", f"token {token}") if token else (f"address {net_of(address)}",)
