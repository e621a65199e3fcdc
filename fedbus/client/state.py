"""What a client has beyond its process: updates that are made and not settled yet, and what it keeps of its sessions.

A `State` is where they stand: a directory (`fedbus.client.directory`), or `Memory` for simulations. A process opens it
under its name and has it alone; what a former one of that name left there is `found`. An update is saved before it is
announced, and forgotten with its receipt: so whoever comes back sends what there is, and trains nothing again. What its
client keeps from then on (`fedbus.client.keepsake`) is saved in the same step, and stays until the session has ended.

What is found is whole and as it was made, or it is not found; whether anybody still wants it, the next task tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from fedbus.bus.base import Payload
from fedbus.client.held import Held
from fedbus.client.keepsake import Keepsake, Who
from fedbus.messages.ids import Peer


class Found(NamedTuple):
    """An update that a former process has made."""

    client: str
    session: str
    held: Held


class Kept(Protocol):
    """A state that is open; called in threads, but for what an update's `Deposit` says."""

    @property
    def found(self) -> Sequence[Found]:
        """What was here: of a client and a session the newest."""
        ...

    @property
    def keepsakes(self) -> Mapping[Who, Keepsake]:
        """What clients keep of their sessions, as it was saved with the newest update, which may have been settled."""
        ...

    def save(self, client: str, session: str, held: Held) -> None:
        """Keep an update, its `Held.deposit` from now on; raises `NoRoomError`.

        Where it has a keepsake that is saved in the same step, in place of the one before, and is from now on one that
        stands here.
        """
        ...

    def settle(self, client: str, session: str, *, lost: bool) -> None:
        """What became of the update that this process saved with a client's newest keepsake; idempotent.

        ``lost``: it never counts, so the keepsake before it is in force again; that stood here until now.
        """
        ...

    def end(self, client: str, session: str) -> None:
        """Forget what a client keeps of a session, which is over; idempotent."""
        ...

    def sync(self) -> None:
        """Wait until what was saved would outlive the machine too; raises `OSError`."""
        ...

    def close(self) -> None:
        """Let the next process have it; what is said from now on is not noted. Idempotent."""
        ...


class State(Protocol):
    """Where the updates of one or many clients stand, each under its name."""

    def open(self, peer: Peer) -> Kept:
        """Open what is a client's, or a crowd's. Raises `NameTaken` while another process has it, `ConfigError`."""
        ...


class Memory:
    """A state that outlives clients, not the process: for simulations and tests.

    Who opens it takes it from whoever had it, as if that had been killed.
    """

    def __init__(self) -> None:
        self.open_by: dict[Peer, _InMemory] = {}

    def open(self, peer: Peer) -> Kept:
        """Open what is a client's, or a crowd's."""
        former = self.open_by.get(peer)
        if former is not None:
            former.close()
        opened = _InMemory(former.updates if former else {}, former.kept if former else {})
        self.open_by[peer] = opened
        return opened


@dataclass(slots=True)
class _Update:
    client: str
    session: str
    held: Held


class _InMemory:
    """What a process has of the state in memory."""

    def __init__(self, left: dict[int, _Update], kept: dict[Who, Keepsake]) -> None:
        self.updates = dict(left)
        self.kept = dict(kept)
        self._before: dict[Who, Keepsake | None] = {}
        self.closed = False
        self._count = max(left, default=0)

    @property
    def found(self) -> Sequence[Found]:
        """What was here."""
        newest = {(kept.client, kept.session): number for number, kept in self.updates.items()}
        self.updates = {number: self.updates[number] for number in newest.values()}
        return [
            Found(
                kept.client, kept.session, replace(kept.held, deposit=_Deposit(self, number), adopted=True, spent=None)
            )
            for number, kept in self.updates.items()
        ]

    @property
    def keepsakes(self) -> Mapping[Who, Keepsake]:
        """What was kept."""
        return dict(self.kept)

    def save(self, client: str, session: str, held: Held) -> None:
        """Keep an update, and what belongs to it."""
        if self.closed:
            return
        self._count += 1
        data = b"".join(bytes(held.chunk(index)) for index in range(held.cut.count))
        kept = replace(held, place=_Bytes(data), deposit=None, keepsake=None)
        self.updates[self._count] = _Update(client, session, kept)
        held.deposit = _Deposit(self, self._count)
        made = held.keepsake
        if made is not None:
            place = _Bytes(b"".join(bytes(piece) for _, piece in made.pieces()))
            held.keepsake = replace(made, place=place)
            made.leave()
            self._before[client, session] = self.kept.pop((client, session), None)
            if made.nbytes:
                self.kept[client, session] = held.keepsake

    def settle(self, client: str, session: str, *, lost: bool) -> None:
        """Go back, where the update is lost."""
        who = client, session
        if self.closed or who not in self._before:
            return
        before = self._before.pop(who)
        if lost:
            self.kept.pop(who, None)
            if before is not None:
                self.kept[who] = before

    def end(self, client: str, session: str) -> None:
        """Forget it."""
        if not self.closed:
            self.kept.pop((client, session), None)

    def sync(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Note nothing any more."""
        self.closed = True


class _Deposit:
    """One update in memory."""

    def __init__(self, kept: _InMemory, number: int) -> None:
        self._kept = kept
        self._number = number

    def forget(self) -> None:
        """Forget it."""
        if not self._kept.closed:
            self._kept.updates.pop(self._number, None)


class _Bytes:
    """The place of an update that is there."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def put(self, offset: int, data: Payload) -> Payload:
        """Not for what is there already."""
        raise NotImplementedError

    def get(self, offset: int, nbytes: int) -> Payload:
        """Return some of it."""
        return self._data[offset : offset + nbytes]

    def leave(self) -> None:
        """Nothing is taken."""
