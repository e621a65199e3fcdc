"""Two processes under one name: one of them is told, the later one; a restart is none of it.

A new incarnation takes the place of the one before: that is how a process comes back. The former one has ended then,
and says nothing more, but for words that were under way. If it goes on saying `Hello`, both live. A late, repeated or
played back word is not taken for life: a process numbers what it says, so each new word has to be of a higher number
than all before, and there have to be several, over some time. A restart in which both live for a moment stays below.

Who was silent for so long that it was gone, and finds another one in its place, is the later one itself: a machine
that slept, or a process that was stopped and has been replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedbus.messages.ids import Peer
from fedbus.messages.presence import Hello

ROLES = ("client", "crowd", "combiner", "gateway")
"""Whose names are looked after: coordinators have the lease, engineers say no `Hello`.

Of gateways it is because of what they sign: who has started a session is to be one process, not either of two.
"""

WORDS_MIN = 3
"""So many new words of a former incarnation, at least half a heartbeat apart, are a life."""

FORMER_MAX = 4
"""Former incarnations that are remembered of one name, the latest."""

Number = tuple[int, int]
"""In which life of its incarnation a process said something, and its how manieth word it was."""


def number_of(id_: str, incarnation: str) -> Number:
    """Return the number of a message by its id, ``<incarnation>[.<life>]-<n>``; (0, 0) where it has another form."""
    source, _, n = id_.rpartition("-")
    life = source.removeprefix(incarnation).removeprefix(".") or "1"
    return (int(life), int(n)) if life.isdecimal() and n.isdecimal() and len(id_) < 200 else (0, 0)


@dataclass(slots=True)
class Former:
    """An incarnation that was replaced; ``words`` of it came since, the last that counts ``counted_at``.

    ``silent_s``: it is gone when nothing was heard for so long. ``later``: it was, and has come back.
    """

    since_at: float
    seen_at: float
    silent_s: float
    number: Number
    counted_at: float
    words: int = 0
    later: bool = False


@dataclass(slots=True)
class Namesakes:
    """The former incarnations of peers that are there."""

    _former: dict[Peer, dict[str, Former]] = field(default_factory=dict)

    def replaced(self, peer: Peer, incarnation: str, by: Former) -> None:
        """Remember an incarnation that was replaced by another."""
        former = self._former.setdefault(peer, {})
        former.pop(incarnation, None)
        former[incarnation] = by
        if len(former) > FORMER_MAX:
            del former[next(iter(former))]

    def knows(self, peer: Peer, incarnation: str) -> bool:
        """Whether this was replaced by what is there now."""
        return incarnation in self._former.get(peer, ())

    def hello(self, peer: Peer, hello: Hello, number: Number, now: float) -> tuple[bool, float] | None:
        """Hear an incarnation that was replaced.

        Returns None while nobody has to be told; else whether it is itself the later one, and since when it is known.
        """
        former = self._former[peer][hello.incarnation]
        if former.later or now > former.seen_at + former.silent_s:
            former.later = True
            return True, former.since_at
        if number <= former.number:
            return None
        former.number, former.seen_at = number, now
        if now >= former.counted_at + hello.heartbeat_s / 2:
            former.counted_at, former.words = now, former.words + 1
        return (False, former.since_at) if former.words >= WORDS_MIN else None

    def left(self, peer: Peer, incarnation: str) -> None:
        """A former incarnation says that it leaves."""
        self._former.get(peer, {}).pop(incarnation, None)

    def forget(self, peer: Peer) -> None:
        """Nobody is there under this name: whoever comes is alone."""
        self._former.pop(peer, None)

    def shift(self, seconds: float) -> None:
        """All times were by a clock that goes on from another time."""
        for of in self._former.values():
            for former in of.values():
                former.seen_at += seconds
                former.since_at += seconds
                former.counted_at += seconds
