"""The spools of one combiner, in a directory of its own, over the lives of its process.

    DIR/lock                 held while a process lives; its pid stands in it
    DIR/life                 the incarnation, and the how manieth process of it this is
    DIR/sessions/SESSION/    a spool each (`fedbus.store.spool.Directory`)

A process that finds all that the former one had entered, byte for byte, is its next *life*: it keeps the incarnation,
so nobody takes it for one that has lost something. If anything is missing, damaged, or of before the machine was
started, it begins with nothing, as a new incarnation. Which it is must stand on disk before the first word is said, and
before anything is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgpack

from fedbus.errors import ConfigError
from fedbus.store.index import Owner, Torn
from fedbus.store.spool import Directory, Quota

log = logging.getLogger("fedbus.store")

LOCK_S = 2.0
"""How long a lock is waited for: the system takes it from a process that was killed when it is done with it."""

LOCK_POLL_S = 0.05

NO_LIMIT = 2**62
"""Bytes: more than any disk has; what is held is counted all the same."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""What changes when the machine is started; elsewhere than on Linux nothing outlives a process."""


class Left(NamedTuple):
    """What a former process left of a session: for which round, how many updates, of how many bytes."""

    session: str
    round: int
    updates: int
    nbytes: int


class Spools:
    """The spools of one combiner; `close` at the end.

    ``incarnation`` and ``life`` are for its `Combiner`; ``left``: what it goes on with; ``anew``: why it does not.
    """

    def __init__(self, path: Path, bytes_max: int = 0) -> None:
        """Take a directory, and what is left there; ``bytes_max`` 0: without a limit of ours.

        `ConfigError` where another process holds it, or where it cannot be written. It blocks: it reads all that was
        left, and waits up to `LOCK_S` for the lock.
        """
        self._path = path
        self._sessions = path / "sessions"
        self._quota = Quota(bytes_max or NO_LIMIT)
        self._found: dict[str, Directory] = {}
        self.left: list[Left] = []
        self.anew = ""
        try:
            self._sessions.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: expected a directory that can be written, got: {error.strerror}") from error
        try:
            self._take_lock()
            self._owner = self._begin()
        except OSError as error:
            self.close()
            raise ConfigError(f"{path}: expected room for a few words, got: {error.strerror}; free some") from error
        except BaseException:
            self.close()
            raise

    @property
    def incarnation(self) -> str:
        """The incarnation that owns what is here."""
        return self._owner.incarnation

    @property
    def nbytes(self) -> int:
        """Bytes that updates take here now."""
        return self._quota.held

    def open(self, session: str) -> Directory:
        """Return the spool of a session: as it was left, or empty."""
        found = self._found.pop(session, None)
        return found or Directory(self._sessions / session, self._owner, self._quota)

    def close(self) -> None:
        """Let the directory go; what was entered stays for the next process."""
        for spool in self._found.values():
            spool.close()
        os.close(self._lock)

    def _take_lock(self) -> None:
        end = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < end:
                    time.sleep(LOCK_POLL_S)
                    continue
                holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
                raise ConfigError(
                    f"{self._path}: process {holder} uses this directory, also if it stands still (SIGSTOP): "
                    f"end it, or give this combiner another directory"
                ) from error
            with suppress(OSError):  # no room to say who has it
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, str(os.getpid()).encode(), 0)
            return

    def _begin(self) -> Owner:
        """Go on with what is left, or begin anew; returns as whom."""
        boot = boot_id()
        try:
            incarnation, life = self._former()
            owner = Owner(incarnation, boot)
            self._adopt(owner)
        except Torn as why:
            self.anew = str(why)
            owner, self.life = Owner(secrets.token_hex(8), boot), 1
            self._write_life(owner)
            shutil.rmtree(self._sessions)
            self._sessions.mkdir(mode=0o700)
        else:
            self.life = life + 1
            self._write_life(owner)
        return owner

    def _former(self) -> tuple[str, int]:
        """Return the former incarnation, and which process of it there was last."""
        path = self._path / "life"
        if not path.exists() and not any(self._sessions.iterdir()):
            raise Torn("")  # the first process here
        try:
            incarnation, life, boot = msgpack.unpackb(path.read_bytes())
        except (OSError, ValueError, TypeError, msgpack.UnpackException) as error:
            raise Torn(f"{path}: {error}") from error
        if not boot or boot != boot_id():
            raise Torn("the machine was started since, and what the last process wrote was not synced")
        return incarnation, life

    def _adopt(self, owner: Owner) -> None:
        try:
            for path in sorted(self._sessions.iterdir()):
                self._found[path.name] = Directory(path, owner, self._quota, adopt=True)
        except Torn:
            for spool in self._found.values():
                spool.abandon()
            self._found = {}
            raise
        for session, spool in self._found.items():
            head, updates, nbytes = spool.left
            if head is not None and updates:
                self.left.append(Left(session, head.round, updates, nbytes))

    def _write_life(self, owner: Owner) -> None:
        fresh = self._path / "life.new"
        fresh.write_bytes(msgpack.packb((owner.incarnation, self.life, owner.boot)))
        fresh.rename(self._path / "life")

    @property
    def sessions(self) -> list[str]:
        """The sessions of which something is left that was not opened yet."""
        return list(self._found)


def boot_id() -> str:
    """Return what tells this start of the machine from the others; empty where the system does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
