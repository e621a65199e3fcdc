"""The broker of the memory bus: what is stored, who listens, and the levers of misfortune.

Everything a bus asks for arrives here as an action at the end of its outgoing link, and is answered by an action at the
end of its incoming link (`link.Link`). Messages of a `follow` are offered the same way, and since an outage cuts links,
a follower asks for its position anew when its bus comes back: so following is reliable while links are not.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Protocol

from fedbus.bus.base import Message, Storage, StreamSpec
from fedbus.bus.checks import check_spec
from fedbus.bus.memory.link import Faults, Link
from fedbus.bus.memory.stream import Expected, MemoryStream
from fedbus.bus.patterns import PatternTree, matcher, overlap
from fedbus.errors import BusError, ConfigError

PAYLOAD_BYTES_MAX = 8 * 2**20
"""As the embedded broker is set (nats-server warns above 8 MiB)."""


class Connection(Protocol):
    """What the broker knows of a bus."""

    @property
    def name(self) -> str:
        """What it is called; several may share a name (a role that was started again)."""
        ...

    @property
    def incoming(self) -> Link:
        """The link to it."""
        ...

    def lost(self) -> None:
        """Hear that the connection broke."""
        ...

    def regained(self) -> None:
        """Hear that the connection is back."""
        ...


class Receiver(Protocol):
    """What the broker knows of a plain subscription."""

    @property
    def connection(self) -> Connection:
        """The bus it belongs to."""
        ...

    def take(self, message: Message) -> None:
        """Receive a plain message."""
        ...


class Follower(Protocol):
    """What the broker knows of a follow."""

    @property
    def connection(self) -> Connection:
        """The bus it belongs to."""
        ...

    def offer(self, message: Message) -> None:
        """Receive a message that was stored."""
        ...

    def withdraw(self, message: Message) -> None:
        """Hear that a message was removed."""
        ...

    def resume(self) -> None:
        """Hear that the stream was made anew."""
        ...


class MemoryBroker:
    """State shared by the buses of one world. ``faults`` may be replaced at any time (to let a world come to rest)."""

    def __init__(self, seed: int = 0, faults: Faults | None = None, *, payload_max: int = PAYLOAD_BYTES_MAX) -> None:
        self.payload_max = payload_max
        self.restarts = 0
        self.is_down = False
        self._attached = 0
        self._random = random.Random(seed)
        self._streams: dict[str, MemoryStream] = {}
        self._receivers: PatternTree[Receiver] = PatternTree()
        self._followers: dict[str, PatternTree[Follower]] = {}
        self._connections: dict[Connection, None] = {}
        self._partitioned: dict[str, None] = {}
        self.faults = faults or Faults()

    @property
    def faults(self) -> Faults:
        """The odds in force."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._calm = faults.none
        self._may_corrupt = matcher(faults.corrupted)

    # ---- levers of misfortune

    def restart(self, *, wipe_memory: bool = True) -> None:
        """Stop and start at once: what is on its way is lost, MEMORY streams too, FILE streams stay."""
        self.restarts += 1
        if wipe_memory:
            self._forget(Storage.MEMORY)
        affected = [c for c in self._connections if self.reachable(c.name)]
        for connection in affected:
            connection.lost()
        for connection in affected:
            connection.regained()

    def wipe(self) -> None:
        """Start again with an empty store: nothing is left, not even FILE streams."""
        self._forget(Storage.FILE)
        self.restart()

    def _forget(self, storage: Storage) -> None:
        for name in [n for n, s in self._streams.items() if s.spec.storage is storage]:
            del self._streams[name]

    def down(self) -> None:
        """Become unreachable for everybody until `up`. What is stored stays."""
        self._change(down=True)

    def up(self) -> None:
        """Become reachable again."""
        self._change(down=False)

    def partition(self, name: str) -> None:
        """Become unreachable for the buses of one name until `heal`."""
        self._change(cut=name)

    def heal(self, name: str) -> None:
        """Become reachable again for the buses of one name."""
        self._change(healed=name)

    def _change(self, *, down: bool | None = None, cut: str | None = None, healed: str | None = None) -> None:
        before = {c: self.reachable(c.name) for c in self._connections}
        self.is_down = self.is_down if down is None else down
        if cut is not None:
            self._partitioned[cut] = None
        if healed is not None:
            self._partitioned.pop(healed, None)
        for connection, was in before.items():
            if was and not self.reachable(connection.name):
                connection.lost()
            if not was and self.reachable(connection.name):
                connection.regained()

    def reachable(self, name: str) -> bool:
        """Whether buses of a name are connected now."""
        return not self.is_down and name not in self._partitioned

    # ---- what links ask of it

    def delay_s(self) -> float:
        """Draw the delay of one hop."""
        low, high = self._faults.delay_s
        return low if low == high else self._random.uniform(low, high)

    def disk_s(self) -> float:
        """Draw how long storing takes."""
        low, high = self._faults.disk_s
        return low if low == high else self._random.uniform(low, high)

    def strikes(self, odds: float) -> bool:
        """Draw whether a misfortune strikes."""
        return odds > 0.0 and self._random.random() < odds

    # ---- what buses ask of it, at the end of their outgoing links

    def attach(self, connection: Connection) -> int:
        """Know a bus; returns a number that no other bus of this broker gets."""
        self._connections[connection] = None
        self._attached += 1
        return self._attached

    def detach(self, connection: Connection) -> None:
        """Forget a bus."""
        self._connections.pop(connection, None)

    def listen(self, pattern: str, receiver: Receiver) -> None:
        """Begin a plain subscription."""
        self._receivers.add(pattern, receiver)

    def unlisten(self, pattern: str, receiver: Receiver) -> None:
        """End a plain subscription."""
        self._receivers.remove(pattern, receiver)

    def route(self, message: Message) -> int:
        """Deliver a plain message, and store it where a stream takes its subject; returns how many will hear of it."""
        heard = self._deliver(message)
        for stream in self._streams.values():
            if stream.takes(message.subject):
                heard += 1
                with suppress(BusError):  # who asks for no acknowledgement does not hear of a refusal
                    self._store(stream, message, None, None, self._now())
        return heard

    def _deliver(self, message: Message) -> int:
        receivers = self._receivers.match(message.subject)
        if self._calm:
            for receiver in receivers:
                receiver.connection.incoming.send(0, receiver.take, message)
        else:
            for receiver in receivers:
                self._deliver_by_odds(receiver, message)
        return len(receivers)

    def _deliver_by_odds(self, receiver: Receiver, message: Message) -> None:
        faults, link = self._faults, receiver.connection.incoming
        if self.strikes(faults.loss):
            return
        if faults.truncation or faults.corruption:
            message = self._damaged(message)
        for _ in range(2 if self.strikes(faults.repetition) else 1):
            if self.strikes(faults.reordering):
                late_s = self.delay_s() + self._random.uniform(0.0, faults.reordering_s_max)
                link.overtaken(late_s, receiver.take, message)
            else:
                link.send(0, receiver.take, message)

    def _damaged(self, message: Message) -> Message:
        """Return a message as it arrives: cut short, or with a bit flipped, if that strikes."""
        data = bytearray(message.data)
        if data and self.strikes(self._faults.truncation):
            del data[self._random.randrange(len(data)) :]
        elif data and self._may_corrupt(message.subject) and self.strikes(self._faults.corruption):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        else:
            return message
        return Message(message.subject, bytes(data), message.headers, reply=message.reply)

    def ensure(self, spec: StreamSpec) -> None:
        """Create or change a stream; raises `ConfigError`."""
        check_spec(spec)
        for other in self._streams.values():
            if other.spec.name != spec.name and overlap(other.spec.subjects, spec.subjects):
                raise ConfigError(f"stream {spec.name!r}: its subjects overlap with those of {other.spec.name!r}")
        known = self._streams.get(spec.name)
        if known is not None:
            known.adopt(spec)
            return
        self._streams[spec.name] = MemoryStream(spec, self._removed)
        for follower in self._followers.get(spec.name, PatternTree[Follower]()).everything():
            follower.connection.incoming.send(0, follower.resume)

    def stream(self, name: str) -> MemoryStream | None:
        """Return a stream, rid of what is too old, or None when there is none of that name."""
        stream = self._streams.get(name)
        if stream is not None:
            stream.expire(self._now())
        return stream

    def append(self, stream: MemoryStream, message: Message, expected: Expected | None, message_id: str | None) -> int:
        """Store a message and pass it on. Raises `Conflict`, `BusFull`, `ConfigError`."""
        if not stream.takes(message.subject):
            name, subjects = stream.spec.name, stream.spec.subjects
            raise ConfigError(f"stream {name!r} takes {subjects}, not {message.subject!r}")
        before = stream.last_sequence
        sequence = self._store(stream, message, expected, message_id, self._now())
        if stream.last_sequence > before:
            self._deliver(message)
        return sequence

    def _store(
        self, stream: MemoryStream, message: Message, expected: Expected | None, message_id: str | None, now: float
    ) -> int:
        before = stream.last_sequence
        sequence = stream.append(message, expected, message_id, now)
        stored = stream.get(sequence) if sequence > before else None
        followers = self._followers.get(stream.spec.name)
        if stored is not None and followers is not None:
            for follower in followers.match(message.subject):
                follower.connection.incoming.send(0, follower.offer, stored)
        return sequence

    def follow(self, name: str, pattern: str, follower: Follower) -> None:
        """Let a follower know of what is stored from now on."""
        self._followers.setdefault(name, PatternTree()).add(pattern, follower)

    def unfollow(self, name: str, pattern: str, follower: Follower) -> None:
        """Forget a follower."""
        if name in self._followers:
            self._followers[name].remove(pattern, follower)

    def _removed(self, name: str, message: Message) -> None:
        followers = self._followers.get(name)
        if followers is not None:
            for follower in followers.match(message.subject):
                follower.withdraw(message)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
