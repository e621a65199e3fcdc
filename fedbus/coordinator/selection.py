"""Who takes part in a round: pure functions of names and a seed.

Random choice is a sort by a keyed hash (BLAKE2b of seed, round and name) instead of a generator, so that it depends on
nothing but its arguments: not on the order in which clients came, not on the version of a library.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import ceil

CLIENTS_MAX = 50_000
"""Most clients of one round: the record that opens it names them all, and has to fit into one message."""


def draw(seed: int, *what: object) -> int:
    """Return a number below 2^53 (it has to survive JSON) that depends on its arguments only.

    A seed, and what it is for.
    """
    text = "/".join(map(str, (seed, *what))).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 11


def select(
    clients: Iterable[str], count: int | None, oversample: float, seed: int, round_: int
) -> tuple[list[str], int]:
    """Return the clients to ask, sorted, and how many of their updates suffice."""
    names = sorted(clients)
    target = min(len(names) if count is None else count, len(names), CLIENTS_MAX)
    asked = min(len(names), ceil(target * oversample), CLIENTS_MAX)
    if asked == len(names):
        return names, target
    chosen = sorted(names, key=lambda name: draw(seed, "select", round_, name))[:asked]
    return sorted(chosen), target
