"""Who is there: fed by `Hello`, `Bye` and time; says only when the set of peers or an incarnation changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello

MISSED_HEARTBEATS_MAX = 5.5
"""A peer is gone after so many heartbeats without a word.

On a link that loses a fifth of all messages three in a row are lost every other minute, and taking a combiner for dead
costs its clients an upload; five in a row are absence.
"""

PEERS_MAX = 200_000
"""Most peers that are remembered: a stranger's flood of names must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Presence:
    """What is known of a peer that is there."""

    hello: Hello
    since_at: float
    seen_at: float


@dataclass(slots=True)
class Roster:
    """The peers that are there now."""

    peers: dict[Peer, Presence] = field(default_factory=dict)

    def hello(self, peer: Peer, hello: Hello, now: float) -> bool:
        """Take note of a peer; True when it, or its incarnation, is new."""
        known = self.peers.get(peer)
        if known is not None and known.hello.incarnation == hello.incarnation:
            self.peers[peer] = replace(known, hello=hello, seen_at=now)
            return False
        if known is None and len(self.peers) >= PEERS_MAX:
            return False
        self.peers[peer] = Presence(hello, since_at=now, seen_at=now)
        return True

    def heard(self, peer: Peer, now: float) -> None:
        """A peer said something else than `Hello`: it lives."""
        known = self.peers.get(peer)
        if known is not None:
            self.peers[peer] = replace(known, seen_at=now)

    def bye(self, peer: Peer, bye: Bye) -> bool:
        """Forget a peer that left; True when it was there."""
        known = self.peers.get(peer)
        if known is None or known.hello.incarnation != bye.incarnation:
            return False
        del self.peers[peer]
        return True

    def expire(self, now: float) -> bool:
        """Forget who has been silent for too long; True when somebody was."""
        gone = [
            p
            for p, known in self.peers.items()
            if now > known.seen_at + MISSED_HEARTBEATS_MAX * known.hello.heartbeat_s
        ]
        for peer in gone:
            del self.peers[peer]
        return bool(gone)

    def excuse(self, now: float) -> None:
        """Nobody could be heard until now (the bus was away): everybody's silence starts anew."""
        self.peers = {peer: replace(known, seen_at=max(known.seen_at, now)) for peer, known in self.peers.items()}

    def names(self, role: str) -> dict[str, str]:
        """Names of a role that are there, each with its incarnation."""
        return {peer.name: known.hello.incarnation for peer, known in self.peers.items() if peer.role == role}
