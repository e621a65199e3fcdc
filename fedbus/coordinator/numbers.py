"""What a coordinator counts: rounds as they end, and who is there and what waits as it is now.

Times are those of the journal's entries. Nothing here holds the name of a client or a session; a stage or a role that
somebody has made up counts as another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedbus import telemetry
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.roster import Roster
from fedbus.messages import records
from fedbus.messages.queries import Wait, kind_of
from fedbus.telemetry import Meters, metrics
from fedbus.telemetry.meters import Readings

LOOK_S = 5.0
"""How often it is looked who is there and what waits: collectors ask every ten seconds or less often."""

ROLES = ("client", "combiner", "coordinator", "gateway")

REPORTING = ("client", "combiner")
"""Who reports to a coordinator."""

STAGES = frozenset({"fetch", "train", "evaluate", "data", "update"})


@dataclass(slots=True)
class _Times:
    """When what is under way in a session began."""

    opened_at: float = 0.0
    closing_at: float = 0.0
    evaluating_at: float = 0.0


class Numbers:
    """The numbers of one coordinator; ``lag``: entries of the journal that it has not read."""

    def __init__(self, meters: Meters) -> None:
        self.lag = 0
        self._meters = meters
        self._times: dict[str, _Times] = {}
        self._looked_at = float("-inf")
        self._peers: dict[str, int] = {}
        self._waits: dict[str, tuple[int, float]] = {}
        self._refused = dict.fromkeys(REPORTING, 0)  # from nothing on, or an alert would miss the first

    @property
    def wanted(self) -> bool:
        """Whether anybody asks."""
        return self._meters.enabled

    def watch(self, *, leads: Callable[[], bool], inbox: Callable[[], int]) -> None:
        """Begin to answer who asks."""
        meters = self._meters
        meters.watch(metrics.LEADS, lambda: [(int(leads()), {})])
        meters.watch(metrics.JOURNAL_LAG, lambda: [(self.lag, {})])
        meters.watch(metrics.QUEUE_LENGTH, lambda: [(inbox(), {telemetry.QUEUE: "inbox"})])
        meters.watch(metrics.PEERS, self._read_peers)
        meters.watch(metrics.REPORTS_REFUSED, self._read_refused)
        meters.watch(metrics.WAITS, lambda: [(count, {telemetry.WAIT: kind}) for kind, (count, _) in self._seen()])
        meters.watch(metrics.WAIT_AGE, lambda: [(age, {telemetry.WAIT: kind}) for kind, (_, age) in self._seen()])

    def refused(self, role: str) -> None:
        """Count a report that is not believed, of a client or a combiner."""
        who = role if role in REPORTING else "other"
        self._refused[who] = self._refused.get(who, 0) + 1

    def _read_refused(self) -> Readings:
        return [(count, {telemetry.ROLE: role}) for role, count in self._refused.items()]

    def _read_peers(self) -> Readings:
        return [(count, {telemetry.ROLE: role}) for role, count in self._peers.items()]

    def _seen(self) -> Iterable[tuple[str, tuple[int, float]]]:
        return self._waits.items()

    def look(self, roster: Roster, waits: Callable[[], Iterable[Wait]], now: float) -> None:
        """Note who is there and what waits, not more often than anybody wants to know."""
        if 0 <= now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        peers = Counter(dict.fromkeys(ROLES, 0))
        for peer, present in roster.peers.items():
            role = "client" if peer.role == "crowd" else peer.role
            peers[role if role in ROLES else "other"] += max(1, len(present.members))
        found: dict[str, tuple[int, float]] = {}
        for wait in waits():
            kind = kind_of(wait)
            count, age = found.get(kind, (0, 0.0))
            found[kind] = count + 1, max(age, now - wait.since_at)
        gone = dict.fromkeys(self._waits.keys() - found.keys(), (0, 0.0))
        self._peers, self._waits = dict(peers), found | gone

    def noted(self, machine: Machine, decided: Iterable[records.Record], at: float) -> None:
        """Count what was journalled."""
        if not self._meters.enabled:
            return
        for record in decided:
            self._count(machine, record, at)

    def _count(self, machine: Machine, record: records.Record, at: float) -> None:  # noqa: C901 - one case a record
        meters, session = self._meters, machine.session
        times = self._times.setdefault(session, _Times())
        match record:
            case records.RoundOpened():
                self._times[session] = _Times(at)
            case records.UpdatesRecorded():
                self._count_updates(record)
            case records.RoundClosing():
                if times.opened_at and not times.closing_at:
                    self._phase("training", at - times.opened_at)
                times.closing_at = at
            case records.RoundClosed():
                self._ended(machine, "closed", at - (record.opened_at or times.opened_at or at))
                if times.closing_at:
                    self._phase("closing", at - times.closing_at)
                meters.add(metrics.ROUND_BYTES, record.bytes_up, {telemetry.DIRECTION: "up"})
                meters.add(metrics.ROUND_BYTES, record.bytes_down, {telemetry.DIRECTION: "down"})
            case records.RoundFailed():
                self._ended(machine, "failed", at - (times.opened_at or at))
            case records.EvaluationOpened():
                times.evaluating_at = at
            case records.RoundEvaluated():
                if times.evaluating_at:
                    self._phase("evaluating", at - times.evaluating_at)
            case records.SessionEnded():
                del self._times[session]
            case _:
                pass

    def _count_updates(self, record: records.UpdatesRecorded) -> None:
        if record.accepted:
            self._meters.add(metrics.UPDATES, len(record.accepted))
        stages = Counter(one.stage if one.stage in STAGES else "other" for one in record.refused)
        for stage, count in stages.items():
            self._meters.add(metrics.REFUSALS, count, {telemetry.STAGE: stage})

    def _ended(self, machine: Machine, outcome: str, seconds: float) -> None:
        about = {telemetry.OUTCOME: outcome, telemetry.STRATEGY: machine.state.config.strategy}
        self._meters.record(metrics.ROUND_DURATION, max(seconds, 0.0), about)

    def _phase(self, phase: str, seconds: float) -> None:
        self._meters.record(metrics.ROUND_PHASE, max(seconds, 0.0), {telemetry.PHASE: phase})
