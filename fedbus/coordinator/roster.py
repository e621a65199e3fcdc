"""Who is there: fed by `Hello`, `Bye` and time; says only when the set of peers or an incarnation changed.

A crowd's clients are there as long as it is. A client that says `Hello` itself is what it says, also under a name that
a crowd speaks for; of two crowds that speak for one name the first by name counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from fedbus.coordinator.events import RosterChanged
from fedbus.coordinator.layout import REGION
from fedbus.coordinator.namesakes import ROLES, Former, Namesakes, Number, number_of
from fedbus.coordinator.sightings import Gone, Sighting
from fedbus.errors import BadMessage
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello, NameIsTaken, members_of

MISSED_HEARTBEATS_MAX = 5.5
"""A peer is gone after so many heartbeats without a word.

On a link that loses a fifth of all messages three in a row are lost every other minute, and taking a combiner for dead
costs its clients an upload; five in a row are absence.
"""

PEERS_MAX = 200_000
"""Most peers, and members of crowds, that are remembered: a stranger's flood of names must not fill the memory."""


@dataclass(slots=True)
class Presence:
    """What is known of a peer that is there; ``members``: the clients that it speaks for.

    ``number``: of its latest `Hello` (`number_of`).
    """

    hello: Hello
    since_at: float
    seen_at: float
    members: tuple[str, ...] = ()
    number: Number = (0, 0)

    @property
    def silent_s(self) -> float:
        """It is gone if nothing is heard of it for so long."""
        return MISSED_HEARTBEATS_MAX * self.hello.heartbeat_s

    @property
    def silent_at(self) -> float:
        """When it is gone if nothing is heard of it until then."""
        return self.seen_at + self.silent_s


@dataclass(slots=True)
class Roster:
    """The peers that are there now.

    ``taken``: what has to be told to processes that live under a name that is another's; whoever tells it empties it.
    """

    peers: dict[Peer, Presence] = field(default_factory=dict)
    gone: Gone = field(default_factory=Gone)
    taken: list[tuple[Peer, NameIsTaken]] = field(default_factory=list)
    _namesakes: Namesakes = field(default_factory=Namesakes)
    _count: int = 0
    _look_at: float = inf
    _speakers: dict[str, Peer] | None = None

    def hello(self, peer: Peer, hello: Hello, now: float, id_: str = "") -> bool:
        """Take note of a peer; True when it, its incarnation, or whom it speaks for is new. ``id_``: of the message.

        `BadMessage` where it speaks for clients and is no crowd, or for clients whose names would not be names.
        """
        known, number = self.peers.get(peer), number_of(id_, hello.incarnation)
        if known is not None and self._namesakes.knows(peer, hello.incarnation):
            self._of_former(peer, known, hello, number, now)
            return False
        if known is not None and _what(known.hello) == _what(hello):
            known.hello, known.seen_at, known.number = hello, now, max(known.number, number)
            self._look_at = min(self._look_at, known.silent_at)
            return False
        members = _members(peer, hello)
        others = self._count - (1 + len(known.members) if known else 0)
        if others + 1 + len(members) > PEERS_MAX:
            return False
        if known is not None and peer.role in ROLES and known.hello.incarnation != hello.incarnation:
            was = Former(known.since_at, known.seen_at, known.silent_s, known.number, counted_at=now)
            self._namesakes.replaced(peer, known.hello.incarnation, was)
        self._forget(peer)
        self._count += 1 + len(members)
        present = self.peers[peer] = Presence(hello, now, now, members, number)
        self._look_at = min(self._look_at, present.silent_at)
        return True

    def _of_former(self, peer: Peer, known: Presence, hello: Hello, number: Number, now: float) -> None:
        """Hear one that was replaced: a word that comes late, or of a process that lives beside the other."""
        found = self._namesakes.hello(peer, hello, number, now)
        if found is not None:
            is_later, since_at = found
            told = (hello, known.since_at) if is_later else (known.hello, since_at)
            self.taken.append((peer, NameIsTaken(incarnation=told[0].incarnation, since_at=told[1])))

    def heard(self, peer: Peer, now: float) -> None:
        """A peer said something else than `Hello`: it lives."""
        known = self.peers.get(peer)
        if known is None and peer.role == "client":
            known = self._speaker(peer.name)
        if known is not None:
            known.seen_at = now

    def _speaker(self, client: str) -> Presence | None:
        """Return the crowd that speaks for a client."""
        if self._speakers is None:
            self._speakers = {name: crowd for crowd, of in self._crowds() for name in of.members}
        speaker = self._speakers.get(client)
        return self.peers[speaker] if speaker else None

    def sight(self, client: str) -> Sighting:
        """Return what is known of a client, or a combiner, now; a crowd does not say what each of its members does."""
        known = self.peers.get(Peer("client", client)) or self.peers.get(Peer("combiner", client))
        doing = known.hello.doing if known else ""
        known = known or self._speaker(client)
        return Sighting(here=True, doing=doing, seen_at=known.seen_at) if known else self.gone.last(client)

    def bye(self, peer: Peer, bye: Bye, now: float = 0.0) -> bool:
        """Forget a peer that left; True when it was there."""
        known = self.peers.get(peer)
        if known is None or known.hello.incarnation != bye.incarnation:
            self._namesakes.left(peer, bye.incarnation)
            return False
        self._forget(peer)
        self._namesakes.forget(peer)
        self._went(peer, known, now, left=True)
        return True

    def _went(self, peer: Peer, known: Presence, at: float, *, left: bool) -> None:
        if known.members or peer.role == "client":
            self.gone.went(known.members or (peer.name,), at, left=left)

    def _forget(self, peer: Peer) -> None:
        known = self.peers.pop(peer, None)
        if known is not None:
            self._count -= 1 + len(known.members)
        self._speakers = None

    def expire(self, now: float) -> bool:
        """Forget who has been silent for too long; True when somebody was."""
        if now <= self._look_at:
            return False  # nobody can have been silent for so long: thousands are not looked at each time
        gone = [peer for peer, known in self.peers.items() if now > known.silent_at]
        for peer in gone:
            self._went(peer, self.peers[peer], self.peers[peer].seen_at, left=False)
            self._forget(peer)
            self._namesakes.forget(peer)
        self._look_at = min((known.silent_at for known in self.peers.values()), default=inf)
        return bool(gone)

    def excuse(self, now: float) -> None:
        """Nobody could be heard until now (the bus was away): everybody's silence starts anew."""
        for known in self.peers.values():
            known.seen_at = max(known.seen_at, now)

    def shift(self, seconds: float) -> None:
        """The clock jumps: all times were by another one."""
        for known in self.peers.values():
            known.seen_at += seconds
            known.since_at += seconds
        self._look_at += seconds
        self._namesakes.shift(seconds)
        self.gone.shift(seconds)

    def names(self, role: str) -> dict[str, str]:
        """Names of a role that are there, each with its incarnation; the clients of crowds among the clients."""
        found: dict[str, str] = {}
        if role == "client":
            for _, crowd in reversed(self._crowds()):
                found |= dict.fromkeys(crowd.members, crowd.hello.incarnation)
        return found | {p.name: known.hello.incarnation for p, known in self.peers.items() if p.role == role}

    def regions(self, role: str) -> dict[str, str]:
        """Regions of those of a role that are somewhere special."""
        found: dict[str, str] = {}
        if role == "client":
            for _, crowd in reversed(self._crowds()):
                found |= dict.fromkeys(crowd.members, crowd.hello.attributes.get(REGION, ""))
        found |= {p.name: known.hello.attributes.get(REGION, "") for p, known in self.peers.items() if p.role == role}
        return {name: region for name, region in found.items() if region}

    def attributes(self) -> dict[str, Mapping[str, str]]:
        """What clients declare of themselves, of those that declare something; all of a crowd share one value."""
        found: dict[str, Mapping[str, str]] = {}
        for _, crowd in reversed(self._crowds()):
            found |= dict.fromkeys(crowd.members, crowd.hello.attributes)
        found |= {p.name: known.hello.attributes for p, known in self.peers.items() if p.role == "client"}
        return {name: declared for name, declared in found.items() if declared}

    def policies(self) -> dict[str, str]:
        """What the owners of clients have decided, as digests, of those that have decided anything."""
        found: dict[str, str] = {}
        for _, crowd in reversed(self._crowds()):
            found |= dict.fromkeys(crowd.members, crowd.hello.policy)
        found |= {p.name: known.hello.policy for p, known in self.peers.items() if p.role == "client"}
        return {name: policy for name, policy in found.items() if policy}

    def changed(self) -> RosterChanged:
        """Return who is there now, for machines."""
        return RosterChanged(
            self.names("client"),
            self.names("combiner"),
            self.regions("client"),
            self.regions("combiner"),
            left=self.gone.left(),
            client_attributes=self.attributes(),
            client_policies=self.policies(),
            sight=self.sight,
        )

    def _crowds(self) -> list[tuple[Peer, Presence]]:
        return sorted(((p, known) for p, known in self.peers.items() if known.members), key=lambda crowd: crowd[0])


def _what(hello: Hello) -> tuple[str, int, int, Mapping[str, str], str]:
    return hello.incarnation, hello.members, hello.first, hello.attributes, hello.policy


def _members(peer: Peer, hello: Hello) -> tuple[str, ...]:
    if not hello.members:
        return ()
    if peer.role != "crowd":
        raise BadMessage(f"{peer.role} {peer.name}: expected members of a crowd only, got {hello.members}")
    members = tuple(members_of(peer.name, hello.first, hello.members))
    if not members:
        last = hello.first + hello.members - 1
        raise BadMessage(
            f"crowd {peer.name}: its last client, number {last}, would have a name of more than 64 characters"
        )
    return members
