"""A client's state in a directory: ``DIR/<role>-<name>/`` with the updates' bytes, an index of them, and a lock.

``updates`` has the bytes, each update in a stretch of its own; a stretch that was left is written over. ``kept`` has
in the same way what clients keep of their sessions. ``index`` is appended to: an update was saved (where it lies, and
all that is to be known of it; with it, in the same entry, what its client keeps from then on), or was left, or a
session is over. Each entry has a checksum of its own, and names the digests of the update's chunks. One layout serves a
client with one large update and a crowd with thousands of small ones, which would be as many files to make in each
round.

Bytes are written before the entry that names them, so a process that is killed leaves whole updates or none. They are
not on the disk then, but in the system's cache: `sync` follows, and nobody waits for it. What a power failure takes is
found by the checksums and costs a training, as it would without a state; to wait would cost each round the time in
which the disk writes the update. To save 45 MB takes 15 ms, 10 KB 30 us.

A full disk costs no update either: it is held in memory, as without a state.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedbus.client.file import File, NoRoomError, room
from fedbus.client.held import Held
from fedbus.client.index import Index
from fedbus.client.keepsake import Keepsake, Who
from fedbus.client.keptfile import Entry, KeptFile, opened
from fedbus.client.lock import Lock
from fedbus.client.saved import DAMAGED, Saved, about_of, fits, held_of
from fedbus.client.state import Found, Kept
from fedbus.errors import BadMessage, ConfigError
from fedbus.messages.ids import Peer
from fedbus.tensors import ModelSpec

log = logging.getLogger("fedbus.client")

KEPT_S_MAX = 7 * 86400.0
"""Older updates are dropped: their session is over, and nobody was told. The clock of this machine may be wrong: then
it is a training that is lost, or a file that is kept for longer."""

GARBAGE_MAX = 4096
"""Entries of the index that say nothing any more, beyond as many as those that do, before it is written anew."""


class Directory:
    """The states of clients under one path."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def open(self, peer: Peer) -> Kept:
        """Open what is a client's, or a crowd's.

        Raises `NameTaken` while another process has it, `ConfigError` where there can be no such directory.
        """
        place = self.path / f"{peer.role}-{peer.name}"
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = Lock(place / "lock", peer)
        except OSError as error:
            raise ConfigError(f"state directory {place}: {error.strerror or error}; name another one") from error
        try:
            return _Open(place, peer, lock)
        except OSError as error:
            lock.release()
            raise ConfigError(f"state directory {place}: {error.strerror or error}; name another one") from error


def _end_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Open:
    """What one process has of it."""

    def __init__(self, path: Path, peer: Peer, lock: Lock) -> None:
        self._path = path
        self._peer = peer
        self._guard = threading.Lock()
        self._lock: Lock | None = lock
        self._index = Index(path / "index")
        self._saved: dict[int, Saved] = {}
        self._kept = KeptFile()
        self._specs: dict[str, Any] = {}
        self._count = 0
        self._garbage = 0
        self._dirty = False
        self._ends = {name: _end_of(path / name) for name in ("updates", "kept")}
        for entry in self._index.read():
            self._take(entry)
        self._drop_what_is_old()
        used = [(saved.offset, saved.nbytes) for saved in self._saved.values()]
        self._file = File(partial(opened, path / "updates"), self._no_room, used)
        self._kept.open(partial(opened, path / "kept"), self._no_room)
        self.found: Sequence[Found] = self._adopt()
        self.keepsakes: Mapping[Who, Keepsake] = self._adopt_keepsakes()

    # --- reading ---

    def _take(self, entry: list[Any]) -> None:
        """Take an entry of the index for what it says; what cannot be is dropped with the update that it is of."""
        match entry:
            case ["spec", str() as digest, wire]:
                self._specs[digest] = wire
            case ["saved", int() as number, *fields] if fits(Saved, fields, self._ends["updates"]):
                count = len(Saved._fields)
                self._count = max(self._count, number)
                saved = self._saved[number] = Saved(*fields[:count])
                if fits(Entry, fields[count:], self._ends["kept"]):
                    self._garbage += self._kept.note((saved.client, saved.session), fields[count:])
            case ["kept", str() as client, str() as session, *fields] if fits(Entry, fields, self._ends["kept"]):
                self._kept.note((client, session), fields)
            case ["over", str() as client, str() as session]:
                self._garbage += 1 + self._kept.forget((client, session))
            case ["left", int() as number]:
                self._garbage += 2
                self._saved.pop(number, None)
            case _:
                log.debug("%s: an entry of the index says nothing: %r", self._path, entry)

    def _drop_what_is_old(self) -> None:
        newest = {(saved.client, saved.session): number for number, saved in self._saved.items()}
        for number, saved in list(self._saved.items()):
            if newest[saved.client, saved.session] != number:
                self._drop(number, "a later one of its session is there")
            elif time.time() > saved.at + KEPT_S_MAX:
                self._drop(number, f"it was made more than {KEPT_S_MAX / 86400:g} days ago")
        # On a full disk it is not noted that one was left, and another was written over it.
        before: int | None = None
        for number, saved in sorted(self._saved.items(), key=lambda item: item[1].offset):
            other = None if before is None else self._saved[before]
            if before is None or other is None or other.offset + other.nbytes <= saved.offset:
                before = number
                continue
            self._drop(min(before, number), "another one was written over it")
            before = max(before, number)

    def _drop(self, number: int, why: str) -> None:
        saved = self._saved.pop(number)
        log.info("%s: the update for %s in %s is dropped: %s", saved.client, saved.session, self._path, why)
        self._forgotten(number)

    def _adopt(self) -> list[Found]:
        """Read all that there is, and drop what is not as it was made."""
        found = []
        for number, saved in list(self._saved.items()):
            try:
                held = held_of(saved, self._specs[saved.spec], self._file, _Deposit(self, number))
            except (BadMessage, ConfigError, *DAMAGED) as error:
                self._file.left(saved.offset, saved.nbytes)
                self._drop(number, f"it is damaged ({error})")
            else:
                found.append(Found(saved.client, saved.session, held))
        return found

    def _adopt_keepsakes(self) -> dict[Who, Keepsake]:
        """Read all keepsakes, and drop what is not as it was made."""
        found = {}
        for client, session in list(self._kept.entries):
            try:
                found[client, session] = self._kept.read((client, session), self._specs)
            except (BadMessage, *DAMAGED) as error:
                log.info("%s: what is kept of %s in %s is dropped: %s", client, session, self._path, error)
                self.end(client, session)
        return found

    # --- writing ---

    def save(self, client: str, session: str, held: Held) -> None:
        """Keep an update: its bytes, then the entry that names them. Raises `NoRoomError`.

        What is to be kept beyond it is named by the same entry: whoever reads it finds both, or neither.
        """
        cut, spec, made = held.cut, held.layout.spec, held.keepsake
        stretch = room(cut.nbytes) if held.encoding.form == "payload" else cut.nbytes
        offset, kept = self._file.take(stretch), None
        try:
            for index in range(cut.count):
                self._file.write(offset + cut.edges[index], held.chunk(index))
            kept = None if made is None else self._kept.write(made)
            saved = Saved(client, session, offset, stretch, time.time(), spec.digest, about_of(held))
            with self._guard:
                number = self._enter(saved, kept, [spec, *([] if made is None else [made.spec])])
        except BaseException as error:
            self._file.left(offset, stretch)
            self._kept.leave(kept)
            if isinstance(error, OSError):
                raise self._no_room(error) from error
            raise
        held.deposit = _Deposit(self, number)
        if made is not None and kept is not None:
            held.keepsake = self._kept.saved(made, kept)

    def _enter(self, saved: Saved, kept: Entry | None, specs: Sequence[ModelSpec]) -> int:
        if self._lock is None:
            raise NoRoomError("the client is leaving")
        for spec in specs:
            if spec.digest not in self._specs:
                wire = spec.to_wire()
                self._index.append(["spec", spec.digest, wire])
                self._specs[spec.digest] = wire
        if self._garbage > GARBAGE_MAX + len(self._saved) + len(self._kept.entries):
            self._write_anew(keep=[spec.digest for spec in specs])
        self._count += 1
        self._index.append(["saved", self._count, *saved, *(kept or ())])
        self._saved[self._count] = saved
        self._dirty = True
        if kept is not None:
            self._garbage += 1
            self._kept.replace((saved.client, saved.session), kept)
        return self._count

    def _write_anew(self, keep: Sequence[str]) -> None:
        """Write what there is, and the specs that are about to be used."""
        kept = self._kept.entries
        used = self._kept.specs.union(keep, (saved.spec for saved in self._saved.values()))
        specs = [["spec", digest, wire] for digest, wire in self._specs.items() if digest in used]
        updates = (["saved", number, *saved] for number, saved in self._saved.items())
        self._index.replace([*specs, *updates, *(["kept", *who, *entry] for who, entry in kept.items())])
        self._specs = {digest: wire for _, digest, wire in specs}
        self._garbage = 0

    def forget(self, number: int) -> None:
        """An update is not to be found again."""
        with self._guard:
            saved = None if self._lock is None else self._saved.pop(number, None)
            if saved is None:
                return
            self._forgotten(number)
        self._file.left(saved.offset, saved.nbytes)

    def settle(self, client: str, session: str, *, lost: bool) -> None:
        """Where the update was lost, what was kept before it is kept again; a process after this one cannot tell."""
        who = client, session
        with self._guard:
            if self._lock is not None and self._kept.settle(who, lost=lost):
                entry = self._kept.entries.get(who)
                self._append_or_not(["over", *who] if entry is None else ["kept", *who, *entry])

    def end(self, client: str, session: str) -> None:
        """What a client keeps of a session is not to be found again."""
        with self._guard:
            if self._lock is not None and self._kept.forget((client, session)):
                self._append_or_not(["over", client, session])

    def _forgotten(self, number: int) -> None:
        self._append_or_not(["left", number])

    def _append_or_not(self, entry: list[Any]) -> None:
        try:
            self._index.append(entry)
        except OSError as error:  # whoever finds it is told by a task, or by its bytes, that it is over
            log.debug("%s: %s", self._path, error)
        self._garbage += 2
        self._dirty = True

    def sync(self) -> None:
        """Wait until all is on the disk; raises `OSError`."""
        with self._guard:
            if not self._dirty or self._lock is None:
                return
            self._dirty = False
            index = self._index.again()
        try:
            self._file.sync()
            self._kept.file.sync()
            os.fdatasync(index)
        finally:
            os.close(index)

    def close(self) -> None:
        """Let the next process have it."""
        with self._guard:
            lock, self._lock = self._lock, None
            if lock is not None:
                self._file.close()
                self._kept.file.close()
                self._index.close()
                lock.release()

    def _no_room(self, error: OSError) -> NoRoomError:
        return NoRoomError(
            f"{self._peer.name}: the state directory {self._path} takes no more: {error.strerror or error}; updates "
            "are held in memory only, and made anew should this process end: free room there, or name another directory"
        )


class _Deposit:
    """One update in the directory."""

    __slots__ = ("_number", "_open")

    def __init__(self, opened: _Open, number: int) -> None:
        self._open = opened
        self._number = number

    def forget(self) -> None:
        """Forget it."""
        self._open.forget(self._number)
