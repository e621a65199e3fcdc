"""What a gateway knows of the journal: one fold over all entries, in memory that hardly depends on their number.

Sessions that run are held with their rounds, those that have ended in one line, their settings cut down to what a
listing shows; the rounds of the newest of them are kept for as long as there is room (`Books`). All else is read from
the session's own journal when somebody asks.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage
from fedbus.federation.contributions import Contributions
from fedbus.federation.info import SessionInfo, SessionSummary
from fedbus.federation.versions import Versions
from fedbus.gateway.index import Index, Position
from fedbus.messages import records
from fedbus.messages.records import RESTORED, Record
from fedbus.store.journal import Journalled

log = logging.getLogger("fedbus.gateway")

ROUNDS_MAX = 20_000
"""Rounds of sessions that have ended that are held at hand, about 1 KB each; others are read when asked for."""

REFUSALS_MAX = 10_000
"""Refusals of one running session that are held at hand, the newest; its journal has them all."""


class Books:
    """Ended sessions with their rounds, those that were asked for last."""

    def __init__(self, *, rounds_max: int = ROUNDS_MAX) -> None:
        self._found: OrderedDict[str, SessionInfo] = OrderedDict()
        self._rounds = 0
        self._rounds_max = rounds_max

    def get(self, session: str) -> SessionInfo | None:
        """Return a session; None where it is not at hand."""
        found = self._found.get(session)
        if found is not None:
            self._found.move_to_end(session)
        return found

    def put(self, info: SessionInfo) -> None:
        """Hold a session, and let others go that were not asked for as long."""
        self.drop(info.session)
        self._found[info.session] = info
        self._rounds += _weight(info)
        while self._rounds > self._rounds_max:
            _, other = self._found.popitem(last=False)
            self._rounds -= _weight(other)

    def drop(self, session: str) -> None:
        """Let a session go."""
        other = self._found.pop(session, None)
        if other is not None:
            self._rounds -= _weight(other)


def _weight(info: SessionInfo) -> int:
    named = sum(len(found.not_counted) for found in info.rounds)
    return len(info.rounds) + (len(info.refused) + named) // 4 + 4


class Folded:
    """What the journal says up to an entry.

    ``sessions``: all, in the order of their start; those that have not ended are `SessionInfo`. ``position``: of the
    newest event; ``sequence``: of the newest entry; ``restored``: of the newest mark behind an old journal that was
    written again. ``sequences``: of each session's newest entry.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, SessionSummary] = {}
        self.contributions = Contributions()
        self.versions = Versions()
        self.index = Index()
        self.books = Books()
        self.position = Position(0, -1)
        self.sequence = 0
        self.restored = 0
        self.sequences: dict[str, int] = {}
        self._configs: dict[tuple[int, str, str, int], SessionConfig] = {}

    def take(self, journalled: Journalled) -> tuple[Record, ...]:
        """Take note of the next entry; returns its records: none where it is a mark, or nobody can read it."""
        self.sequence = journalled.sequence
        if journalled.entry.mark == RESTORED:
            self.restored = journalled.sequence
        try:
            found = journalled.entry.unpack()
        except BadMessage as error:
            log.warning("%s: entry %d is passed over: %s", journalled.session, journalled.sequence, error)
            return ()
        if found:
            self.sequences[journalled.session] = journalled.sequence
        for number, record in enumerate(found):
            self.position = Position(journalled.sequence, number)
            try:
                self._take(journalled.session, record, journalled.entry.at)
            except Exception:
                # it stands there for good: a gateway that ended of it would end again whenever it is started
                log.exception("%s: %s is passed over: it fits to nothing before", journalled.session, self.position)
        return found

    def _take(self, session: str, record: Record, at: float) -> None:
        self.index.add(self.position, session, record.kind, at)
        self.contributions.take(session, record, at)
        self.versions.take(session, record)
        info = self.sessions.get(session)
        if info is None or isinstance(record, records.SessionStarted):
            info = self.sessions[session] = SessionInfo(session)
            self.books.drop(session)
        info.apply(record, at)
        if isinstance(info, SessionInfo):
            if len(info.refused) > REFUSALS_MAX:
                del info.refused[: REFUSALS_MAX // 2]
            if isinstance(record, records.SessionEnded):
                self.books.put(info)
                self.sessions[session] = self._slim(info)

    def _slim(self, info: SessionInfo) -> SessionSummary:
        """Return an ended session in one line; sessions whose listed settings are the same share them."""
        config = info.config
        rounds, strategy, codec, clients_min = config.rounds, config.strategy, config.codec, config.clients_min
        key = rounds, strategy, codec, clients_min
        shared = self._configs.get(key)
        if shared is None:
            shared = SessionConfig(rounds=rounds, strategy=strategy, codec=codec, clients_min=clients_min)
            self._configs[key] = shared
        fields: dict[str, Any] = {name: getattr(info, name) for name in SessionSummary.__slots__}
        return SessionSummary(**(fields | {"config": shared, "closed_at": ()}))

    def info(self, session: str) -> SessionInfo | None:
        """Return a session with its settings and rounds, where it is at hand."""
        found = self.sessions.get(session)
        return found if isinstance(found, SessionInfo) else self.books.get(session)
