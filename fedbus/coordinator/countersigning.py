"""The signatures in the catalogue that others' entries lack: of versions that people bring in, or bring back.

A version of a session is signed when it is entered (`fedbus.coordinator.chores`). One that somebody imports is signed
as soon as it stands there. And one that came from an open workspace, by a restore, is signed when the journal of its
session, which came too, says that the session has published it with this digest: whoever may write the catalogue, and
not the journal, gets nothing signed under a session's name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

from fedbus.bus.base import Bus
from fedbus.bus.patience import patiently
from fedbus.coordinator.chores import Chores
from fedbus.errors import BadMessage
from fedbus.messages.envelope import decode
from fedbus.messages.records import RESTORING, ModelPublished, SessionStarted
from fedbus.messages.registry import IMPORTED
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journal

log = logging.getLogger("fedbus.coordinator")

SESSIONS_MAX = 10_000
"""Sessions of which entries wait for their journal; of more the catalogue is read again by the next leader."""


class Countersigning:
    """Has entries signed that were written without; the chores do it."""

    def __init__(self, bus: Bus, subjects: Subjects, journal: Journal, chores: Chores) -> None:
        self._bus = bus
        self._subjects = subjects
        self._journal = journal
        self._chores = chores
        self._waiting: dict[str, dict[str, ModelPublished]] = {}

    async def run(self) -> None:
        """Look at every entry of the catalogue, and at new ones as they come; runs until cancelled.

        Where nothing is signed it ends at once.
        """
        if not self._chores.signs:
            return
        self._waiting.clear()
        stream, pattern = self._subjects.stream("model"), self._subjects.model()
        entries = await patiently(self._bus, lambda: self._bus.follow(stream, pattern), tries_max=None)
        try:
            async for message in entries:
                try:
                    entry = decode(message.data, message.subject).body
                except BadMessage as error:
                    log.warning("an entry of the catalogue is not signed: %s", error)
                    continue
                if isinstance(entry, ModelPublished) and not entry.signature and not entry.removed_at:
                    self._look_at(entry)
        finally:
            await entries.close()

    def _look_at(self, entry: ModelPublished) -> None:
        if entry.session == IMPORTED:
            self._chores.enter(entry)
        elif entry.session in self._waiting or len(self._waiting) < SESSIONS_MAX:
            self._waiting.setdefault(entry.session, {})[entry.version] = entry
            self.restored(entry.session)

    def restored(self, session: str) -> None:
        """Look again whether the journal of a session names versions that wait: it was brought back just now."""
        if session in self._waiting:
            self._chores.put(f"versions of {session} are signed", partial(self._sign, session))

    async def _sign(self, session: str) -> None:
        entries = [one.entry for one in await self._journal.read(session)]
        marks = [entry.mark for entry in entries if entry.mark]
        if not entries or marks[-1:] == [RESTORING]:
            return  # versions come before the journal that names them: `restored` tells when it is whole
        waiting = self._waiting.pop(session, {})
        for record in (record for entry in entries for record in entry.unpack()):
            for version, blob, digest in _published(record):
                found = waiting.get(version)
                if found is not None and (found.blob, found.digest) == (blob, digest):
                    self._chores.enter(waiting.pop(version))
        if waiting:
            log.warning("%s: its journal does not say that it has published %s", session, ", ".join(waiting)[:200])


def _published(record: object) -> Iterator[tuple[str, str, str]]:
    if isinstance(record, SessionStarted | ModelPublished):
        yield record.version, record.blob, record.digest
