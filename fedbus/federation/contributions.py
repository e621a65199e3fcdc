"""What clients gave, over all sessions: a fold over the journals' records, in their order.

Each round that ends is settled once, by its report (`fedbus.federation.rounds`): what became of each client that it
asked. Sums are kept of every client, single contributions of the newest only, so that memory is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fedbus.federation.report import ClientReport, Outcome, RoundReport
from fedbus.federation.rounds import Rounds
from fedbus.messages import records
from fedbus.messages.records import Record

HISTORY_OF_CLIENT = 200
"""Newest contributions that are kept of one client: a page of them."""

HISTORY_MAX = 50_000
"""Contributions that are kept of all clients together, some 25 MB; the oldest go first."""

CLIENTS_MAX = 200_000
"""Clients of which sums are kept: twice of what a session may have. Who came first goes first."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What became of a client in one attempt at a round, settled ``at`` that time."""

    session: str
    round: int
    outcome: Outcome
    at: float
    weight: float = 0.0
    nbytes: int = 0
    what: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """A client's sums. ``asked``, ``counted``, ``refused``: attempts at rounds; ``weight``: of what counted.

    ``last_at``: when it was last heard of in a journal. ``history``: oldest first.
    """

    sessions: int = 0
    asked: int = 0
    counted: int = 0
    refused: int = 0
    weight: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    last_at: float = 0.0
    history: deque[Contribution] = field(default_factory=deque)
    _evicted: int = 0


@dataclass(slots=True)
class Load:
    """What a combiner has in the rounds that are open: clients that are to send to it, and what it has accepted."""

    clients: int = 0
    updates: int = 0
    nbytes: int = 0


@dataclass(slots=True)
class _Session:
    rounds: Rounds
    seen: set[str] = field(default_factory=set)


class Contributions:
    """What clients gave; ``tallies``: by client, in the order in which they were first asked."""

    def __init__(self, *, history_max: int = HISTORY_MAX, clients_max: int = CLIENTS_MAX) -> None:
        self.tallies: dict[str, Tally] = {}
        self._sessions: dict[str, _Session] = {}
        self._order: deque[str] = deque()
        self._history_max = history_max
        self._clients_max = clients_max

    def take(self, session: str, record: Record, at: float) -> None:
        """Take note of a record."""
        if isinstance(record, records.SessionStarted):
            self._sessions[session] = _Session(Rounds(session))
        of = self._sessions.get(session)
        if of is None:
            return
        was_open = of.rounds.attempt is not None and not of.rounds.attempt.ended_at
        of.rounds.take(record, at)
        if was_open and of.rounds.attempt is not None and of.rounds.attempt.ended_at:
            report = of.rounds.report()
            assert report is not None, "an attempt that has ended has a report"
            self._settle(of, report)
        if isinstance(record, records.SessionEnded):
            del self._sessions[session]

    def loads(self) -> dict[str, Load]:
        """Return what combiners have in the rounds that are open, by name."""
        found: dict[str, Load] = {}
        for of in self._sessions.values():
            attempt = of.rounds.attempt
            if attempt is None or attempt.ended_at:
                continue
            for client, combiner in attempt.places.items():
                load = found.setdefault(combiner, Load())
                load.clients += 1
                if client in attempt.accepted:
                    load.updates += 1
                    load.nbytes += attempt.accepted[client][0].nbytes
        return found

    def report(self, session: str) -> RoundReport | None:
        """Return the report of the newest round of a session that has not ended; None where there is none."""
        of = self._sessions.get(session)
        return of.rounds.report() if of else None

    def _settle(self, of: _Session, report: RoundReport) -> None:
        for one in report.clients:
            tally = self._tally(one.client)
            if one.client not in of.seen:
                of.seen.add(one.client)
                tally.sessions += 1
            settled_at = report.ended_at if one.seconds is None else report.opened_at + one.seconds
            self._add(tally, one, settled_at)
            self._remember(tally, one, report)

    def _tally(self, client: str) -> Tally:
        found = self.tallies.get(client)
        if found is None:
            if len(self.tallies) >= self._clients_max:
                del self.tallies[next(iter(self.tallies))]
            found = self.tallies[client] = Tally()
        return found

    def _add(self, tally: Tally, one: ClientReport, at: float) -> None:
        tally.asked += 1
        tally.counted += one.outcome in ("counted", "stale")
        tally.refused += one.outcome == "refused"
        tally.weight += one.weight if one.outcome in ("counted", "stale") else 0.0
        tally.bytes_up += one.nbytes
        tally.bytes_down += one.fetched
        tally.last_at = at if one.seconds is not None else tally.last_at

    def _remember(self, tally: Tally, one: ClientReport, report: RoundReport) -> None:
        tally.history.append(
            Contribution(
                report.session,
                report.round,
                one.outcome,
                report.ended_at,
                one.weight,
                one.nbytes,
                one.what,
                one.metrics,
            )
        )
        self._order.append(one.client)
        if len(tally.history) > HISTORY_OF_CLIENT:
            tally.history.popleft()
            tally._evicted += 1  # noqa: SLF001 - its mark in the order of all is passed over when it comes
        while len(self._order) > self._history_max:
            self._forget(self._order.popleft())

    def _forget(self, client: str) -> None:
        """Drop a client's oldest contribution, unless it has gone already."""
        tally = self.tallies.get(client)
        if tally is None:
            return
        if tally._evicted:  # noqa: SLF001
            tally._evicted -= 1  # noqa: SLF001
        elif tally.history:
            tally.history.popleft()


def newest_first(tally: Tally) -> Iterator[Contribution]:
    """Yield a client's contributions, newest first."""
    return reversed(tally.history)
