"""Backups of a workspace: taken while sessions run, once or again and again, and brought back."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fedbus.access import known
from fedbus.access.audit import Audit
from fedbus.access.credentials import Credentials
from fedbus.access.seals import seal_of
from fedbus.access.signing import credentials_at
from fedbus.bus.nats import NatsBus, connect
from fedbus.cli.output import line_of, names_text, print_json, size
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import BusError, ConfigError, NotFound
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import Archive
from fedbus.store.backup import Backup, Taken
from fedbus.store.restore import Restore, Restored
from fedbus.store.sealing import Seal
from fedbus.workers import Threads

log = logging.getLogger("fedbus.cli")

RESTORE = "workspace.restore"
"""The deed, as the audit calls it."""

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(text: str) -> float:
    """Return a time span written as ``60s``, ``5m``, ``1h``, ``1d``, or in seconds; `ConfigError` for none."""
    number, unit = (text[:-1], UNITS_S[text[-1]]) if text[-1:] in UNITS_S else (text, 1.0)
    try:
        span_s = float(number) * unit
    except ValueError:
        span_s = 0.0
    if not 1.0 <= span_s <= 366 * 86_400.0:
        raise ConfigError(f"expected a time span like 60s, 5m or 1h, of at least a second, got {text!r}")
    return span_s


@dataclass(frozen=True, slots=True)
class _Reached:
    """A workspace, and as whom it was reached; ``credentials`` None where nobody is asked."""

    bus: NatsBus
    subjects: Subjects
    workers: Threads
    credentials: Credentials | None

    @property
    def seal(self) -> Seal | None:
        return seal_of(self.credentials)

    async def note_restored(self, done: Restored) -> None:
        """Write down what was brought in, and by whom, behind the audit that may have come with it."""
        if self.credentials is None:
            return
        me = Peer(self.credentials.role, self.credentials.name)
        audit = Audit(self.bus, self.subjects, me, SystemClock())
        told = {"sessions": len(done.sessions), "models": len(done.blobs), "sealed": len(done.blobs_sealed)}
        await audit.write(RESTORE, by=me.author, target=self.subjects.workspace, origin="local", details=told)
        await audit.finish()


@asynccontextmanager
async def _connected(place: Place) -> AsyncIterator[_Reached]:
    workers = Threads(2, "fedbus-backup")
    try:
        path: str | Path | None = place.credentials
        path = path or await asyncio.to_thread(known.find, place.url, place.workspace)
        async with await connect(place.url, name="fedbus-backup", credentials=path) as bus:
            credentials = await asyncio.to_thread(credentials_at, path)
            yield _Reached(bus, Subjects(place.workspace), workers, credentials)
    finally:
        workers.close()


async def back_up(place: Place, directory: Path, every_s: float | None, *, json: bool) -> None:
    """Take a backup; with ``every_s`` another so often, until cancelled."""
    archive = Archive(directory)
    with archive.locked():
        async with _connected(place) as there:
            backup = Backup(there.bus, there.subjects, there.workers, archive, there.seal)
            while True:
                began = time.monotonic()
                try:
                    _tell_taken(directory, await backup.take(time.time()), json=json)
                except (BusError, NotFound, OSError) as error:
                    if every_s is None:
                        raise
                    # a broker that is away, a disk that is full: the last backup stands, and the next may succeed
                    print(f"no backup this time: {error}", file=sys.stderr)
                if every_s is None:
                    return
                await asyncio.sleep(max(0.0, every_s - (time.monotonic() - began)))


def _tell_taken(directory: Path, taken: Taken, *, json: bool) -> None:
    contents = taken.contents
    if json:
        print_json(
            {
                "directory": str(directory),
                "at": contents.at,
                "sessions": len(contents.journals),
                "entries": sum(journal.count for journal in contents.journals),
                "blobs": len(contents.blobs),
                "nbytes": contents.nbytes,
                "new": {"entries": taken.entries, "blobs": taken.blobs, "nbytes": taken.nbytes},
                "skipped": contents.skipped,
            }
        )
        return
    held = f"{len(contents.journals)} sessions and {len(contents.blobs)} models, {size(contents.nbytes)}"
    print(f"{directory}: {held}; new: {taken.entries} entries, {taken.blobs} models, {size(taken.nbytes)}", flush=True)
    for skipped in contents.skipped:
        print(f"not in it: {skipped.what}: {skipped.reason}", file=sys.stderr)


async def restore(place: Place, directory: Path, *, from_open: bool = False, json: bool) -> None:
    """Bring a backup back; ``from_open``: one of an open workspace, into one that seals its models."""
    archive = Archive(directory)
    archive.load()  # where there is none, that is to be said, and no directory made
    with archive.locked():
        async with _connected(place) as there:
            bringing = Restore(there.bus, there.subjects, there.workers, archive, there.seal, from_open=from_open)
            done = await bringing.restore()
            await there.note_restored(done)
    _tell_restored(done, json=json)


def _tell_restored(done: Restored, *, json: bool) -> None:
    if json:
        print_json(
            {
                "sessions": done.sessions,
                "sessions_there": done.sessions_there,
                "entries": done.entries,
                "blobs": done.blobs,
                "blobs_there": done.blobs_there,
                "blobs_sealed": done.blobs_sealed,
                "versions": done.versions,
                "nbytes": done.nbytes,
                "behind": done.behind,
                "deeds": done.deeds,
                "skipped": done.contents.skipped,
            }
        )
        return
    print(f"restored {len(done.sessions)} sessions ({done.entries} entries) and {len(done.blobs)} models", end="")
    print(f", {size(done.nbytes)}; {done.versions} versions are in the catalogue")
    if done.blobs_sealed:
        print(f"sealed on the way: {len(done.blobs_sealed)} models; the backup itself has them as they were, open")
    if done.sessions_there or done.blobs_there:
        there = f"{len(done.sessions_there)} sessions and {len(done.blobs_there)} models"
        print(f"there already, and left as they are: {there}")
    going_on = [one.session for one in done.contents.journals if not one.ended and one.session in done.sessions]
    if going_on:
        print(f"go on as soon as a coordinator is there: {names_text(going_on)}")
    if done.deeds:
        print(f"the audit goes on behind {done.deeds} deeds")
    if done.deeds_lacking:
        print(f"the audit is not brought back: {line_of(done.deeds_lacking)}", file=sys.stderr)
    if done.behind:
        print(
            "the journal was not empty: restart the clients and combiners of these sessions that lived through the "
            "loss, or they may wait for tasks that are newer than what they have seen",
            file=sys.stderr,
        )
    for skipped in done.contents.skipped:
        print(f"not in the backup: {skipped.what}: {skipped.reason}", file=sys.stderr)
