"""What a session's machine was told and the journal does not say yet: who is there, what was asked and reported.

All of it may be lost at any time without harm: whoever reported something says it again until it is acknowledged, and
it is acknowledged only when the journal has it, or when it is of no use (any more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fedbus.coordinator.events import RosterChanged, StartAsked, StopAsked
from fedbus.coordinator.layout import candidates, region_of
from fedbus.coordinator.sightings import Sighting
from fedbus.coordinator.sums import Totals
from fedbus.coordinator.verdicts import Parts
from fedbus.messages import records, reports
from fedbus.messages.ids import Peer

Said = tuple[Peer, str]
"""A report: who sent it, and its id."""


@dataclass(slots=True)
class Known:
    """What a machine was told.

    ``loads``: bytes that combiners expect for other sessions. ``answers``: of the evaluation under way, a client's
    metrics, or why there are none; ``declined``: of those whose owners do not want it; ``totals``: what they sent to be
    added up. ``parts``: verdicts on parts of updates,
    where chunks are shared out. ``missing``: a blob that the broker has lost, and since when. ``held_since``: since
    when the journal is seen to be written again, and not whole; 0: it is whole.
    """

    roster: RosterChanged = field(default_factory=lambda: RosterChanged({}, {}))
    loads: Mapping[str, int] = field(default_factory=dict)
    start: StartAsked | None = None
    stop: StopAsked | None = None
    verdicts: list[tuple[str, reports.UpdatesJudged]] = field(default_factory=list)
    failures: list[tuple[str, reports.TaskFailed]] = field(default_factory=list)
    withdrawn: list[tuple[str, reports.Withdrawn]] = field(default_factory=list)
    stored: reports.ModelStored | None = None
    merge_failed: reports.MergeFailed | None = None
    answers: dict[str, records.Measured | str] = field(default_factory=dict)
    declined: dict[str, records.RefusedUpdate] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    parts: Parts = field(default_factory=dict)
    missing: tuple[str, float] = ("", 0.0)
    held_since: float = 0.0

    def missing_since(self, blob: str) -> float:
        """Return since when the broker is known not to hold a blob; 0 where it does, as far as is known."""
        return self.missing[1] if blob and self.missing[0] == blob else 0.0

    @property
    def clients(self) -> Mapping[str, str]:
        """The clients that are there, each with its incarnation."""
        return self.roster.clients

    @property
    def combiners(self) -> Mapping[str, str]:
        """The combiners that are there, each with its incarnation."""
        return self.roster.combiners

    @property
    def combiner_regions(self) -> dict[str, str]:
        """The combiners that are there, each with its region."""
        return {name: self.roster.combiner_regions.get(name, "") for name in self.roster.combiners}

    @property
    def left(self) -> Mapping[str, float]:
        """The clients that said `Bye`, and when; also those that have come back since."""
        return self.roster.left

    def sight(self, client: str) -> Sighting:
        """Return what is known of a client now."""
        sighting = self.roster.sight(client)
        here = client in self.roster.clients
        return sighting if sighting.here or not here else replace(sighting, here=True, left=False)

    def attributes(self, client: str) -> Mapping[str, str]:
        """Return what a client declares of itself."""
        return self.roster.client_attributes.get(client, {})

    def policy(self, client: str) -> str:
        """Return a digest of what a client's owner has decided, empty where that is nothing."""
        return self.roster.client_policies.get(client, "")

    def region(self, client: str) -> str:
        """Return where a client is."""
        return self.roster.client_regions.get(client, "")

    def may_send(self, residency: str) -> Mapping[str, str]:
        """Return the clients that are there and whose updates some combiner may take, if one is there."""
        if residency == "prefer" or not self.roster.combiners:
            return self.roster.clients
        regions = {name: region_of(text) for name, text in self.combiner_regions.items()}
        homes: dict[str, bool] = {}
        found = {}
        for client, incarnation in self.roster.clients.items():
            home = self.region(client)
            if home not in homes:
                homes[home] = bool(candidates(region_of(home), regions, residency))
            if homes[home]:
                found[client] = incarnation
        return found

    def measured(self) -> dict[str, records.Measured]:
        """Return the metrics that are here, by client."""
        return {name: one for name, one in sorted(self.answers.items()) if isinstance(one, records.Measured)}


@dataclass(slots=True)
class Acknowledgements:
    """The reports that are still to be acknowledged, and what each waits for.

    ``ready``: for nothing. ``measuring``: for the record of the evaluation that they are part of. ``judging``: for the
    fate of updates, of which other combiners hold other parts; with those that are left, as client and attempt.
    """

    ready: list[Said] = field(default_factory=list)
    measuring: dict[Said, None] = field(default_factory=dict)
    judging: dict[Said, list[tuple[str, int]]] = field(default_factory=dict)

    def waits(self, said: Said) -> bool:
        """Whether a report is here already, repeated as it has to be - or settled long ago by an entry not read yet."""
        return said in self.judging or said in self.measuring

    def take(self, *, evaluating: bool, is_settled: Callable[[str, int], bool]) -> Iterator[tuple[Peer, list[str]]]:
        """Take what waits for nothing any more, by receiver, in messages that may be sent."""
        if not evaluating and self.measuring:
            self.ready += self.measuring
            self.measuring.clear()
        for said, left in list(self.judging.items()):
            while left and is_settled(*left[-1]):
                left.pop()
            if not left:
                del self.judging[said]
                self.ready.append(said)
        by_peer: dict[Peer, list[str]] = {}
        for peer, report in self.ready:
            by_peer.setdefault(peer, []).append(report)
        self.ready = []
        for peer, ids in by_peer.items():
            for first in range(0, len(ids), reports.REPORTS_MAX):
                yield peer, ids[first : first + reports.REPORTS_MAX]
