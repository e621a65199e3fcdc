r"""How a session is run: the decisions of the coordinator, without a clock, a bus or a tensor.

                     StartAsked
            NEW -------------------> GATHERING <-----------------------------------------+
             | (config not valid)     |  |   ^ \                                         |
             |   enough clients       |  |   |  \ last round done, target reached,        |
             |   and a combiner       |  |   |   \ stop asked, gather deadline            |
             |          +-------------+  |   |    +-----------------------> ENDED         |
             |          v                |   | quorum missed                  ^           |
             |       TRAINING -----------+---+--------------------------------+ (stop)    |
             |          | enough updates,|   ^ merge failed                   |           |
             |          | or deadline    |   | or deadline                    |           |
             |          v   with quorum  |   |                                |           |
             |       CLOSING ------------+---+--------------------------------+ (stop)    |
             |          | model stored: ModelPublished, RoundClosed                       |
             |          +-----------------------------------------------------------------+
             |                           | an evaluation is due                           |
             |                           v                                                |
             |                       EVALUATING ------ all answered, or deadline ---------+
             +---> ENDED (refused)

Two steps. `Machine.handle` takes note of what happened (`_ABSORB`: event -> function) and answers what needs no
decision. `Machine.decide` says what becomes true now (`fedbus.coordinator.decisions`: phase -> function), and what
becomes true by that, until nothing more does: records to append, as one entry, since a round's fixed cost is its synced
writes. Nothing changes the state but a record that is in the journal - what follows from a record is found on a copy
of the state, which is thrown away: journal first, effects behind it. What a round waits for is `Machine.waits`.

A combiner that is lost (gone, or another incarnation) takes with it what it had folded: its clients are moved and send
again what they hold. The set of updates that count is fixed by `RoundClosing`; a crash before the model is stored may
repeat it with a higher attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedbus.coordinator.ahead import is_ahead
from fedbus.coordinator.boards import Boards, asked_of
from fedbus.coordinator.closing import is_of_closing, is_of_root
from fedbus.coordinator.decisions import decide
from fedbus.coordinator.events import (
    Acknowledge,
    Append,
    Appended,
    Catalogue,
    Discard,
    Effect,
    Event,
    Expire,
    LoadsChanged,
    ModelMissing,
    NotPosted,
    ReadAgain,
    Recovered,
    Replayed,
    Reported,
    RosterChanged,
    StartAsked,
    StopAsked,
)
from fedbus.coordinator.known import Acknowledgements, Known
from fedbus.coordinator.late import refusal
from fedbus.coordinator.state import Phase, RoundState, SessionState, apply
from fedbus.coordinator.sums import Totals
from fedbus.coordinator.verdicts import declined_by, is_settled
from fedbus.coordinator.waits import wait_of
from fedbus.messages import records, reports
from fedbus.messages.ids import Sums
from fedbus.messages.queries import Wait
from fedbus.messages.records import Record

ENTRY_RECORDS_MAX = 16
"""Most records of one entry. A round's end and the next one's beginning are five; more would be a circle."""

ENTRY_WEIGHT_MAX = 50_000
"""Most names, or numbers of clients, in the records of one entry where it is more than one record.

Each is some 130 bytes at most, and 8 MB is what one message holds: a round's opening alone may name so many.
"""

TEXT_WEIGHT = 15
"""A reason in words, by the same measure."""


@dataclass(slots=True)
class Machine:
    """The decisions of one session."""

    session: str
    state: SessionState = field(init=False)
    known: Known = field(default_factory=Known)
    said: Acknowledgements = field(default_factory=Acknowledgements)
    boards: Boards = field(default_factory=Boards)

    def __post_init__(self) -> None:
        self.state = SessionState(self.session)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of an event; returns the effects that follow at once."""
        return _ABSORB[type(event)](self, event, now)

    def decide(self, now: float) -> list[Effect]:
        """Return what is to be journalled now, if anything; call it again after the `Appended`."""
        self.known.held_since = (self.known.held_since or now) if self.state.held else 0.0
        decided = self._becomes_true(now)
        if decided:
            return [Append(decided, self.state.sequence)]
        evaluating = self.state.evaluation is not None
        taken = self.said.take(evaluating=evaluating, is_settled=lambda *of: is_settled(self.state, *of))
        return [Acknowledge(peer, tuple(ids)) for peer, ids in taken]

    def forget(self) -> None:
        """Forget all but what the journal says: what was told to a former leader may be of no use to the next."""
        self.known, self.said, self.boards = Known(), Acknowledgements(), Boards()

    @property
    def is_refused(self) -> bool:
        """Whether its start was asked for, and will be refused."""
        start = self.known.start
        return start is not None and bool(start.refusal) and self.state.phase is Phase.NEW

    def waits(self, now: float = 0.0) -> list[Wait]:
        """Return what this session waits for: on whom, since when, until when, and what happens then.

        ``now``: by it, whoever declined until some time does so no longer.
        """
        return wait_of(self.state, self.known, now)

    def load(self) -> dict[str, int]:
        """Return how many bytes each combiner expects for this session: of clients that have not answered yet."""
        loads: dict[str, int] = {}
        if self.state.phase is Phase.TRAINING:
            current = self.state.open_round
            for client in current.missing:
                for combiner in current.shards or (current.places[client],):
                    share = self.state.nbytes // max(1, len(current.shards))
                    loads[combiner] = loads.get(combiner, 0) + max(1, share)
        return loads

    def check(self) -> None:
        """Assert what must hold after every step."""
        state, current = self.state, self.state.round
        assert (current is not None) == (state.phase in (Phase.TRAINING, Phase.CLOSING))
        assert (state.evaluation is not None) == (state.phase is Phase.EVALUATING)
        assert state.evaluated <= state.rounds_closed
        assert state.best is None or state.config.best_metric is not None
        if current is not None:
            self._check_plan(current)
            assert current.number == state.rounds_closed + 1
            assert current.accepted.keys() <= current.places.keys() and current.attempts.keys() == current.places.keys()
            assert current.refused.keys() <= current.places.keys()
            assert current.accepted.keys().isdisjoint(current.refused), "an update both accepted and refused"
            for update in (*current.accepted.values(), *current.counting.values()):
                assert not refusal(state, update.client, update.stale), "an update that may have counted before"
            if current.closing is not None:
                assert tuple(current.counting) == current.closing.counted
                assert current.counting.keys() <= current.places.keys()

    def _check_plan(self, current: RoundState) -> None:
        """Assert that a round is as the session's strategy needs it."""
        state, plan = self.state, self.state.plan
        if plan.buffer:
            assert current.target == min(plan.buffer, len(current.places)), "a version of another number of updates"
        if plan.single or (plan.whole and not current.shards):
            assert not (plan.single and current.shards), "parts, where one combiner has to have everything"
            clients = (current.counting if current.closing else current.places).keys() - current.refused.keys()
            places = {current.places[client] for client in clients}
            assert len(places) <= 1, "updates that have to be seen side by side, at several combiners"
        if current.closing is not None:
            assert len(current.closing.counted) >= plan.updates_min, "fewer updates than the strategy needs"
        for update in (*current.accepted.values(), *current.counting.values()):
            assert state.fold_weight(update) > 0, "an update without a weight"

    def _becomes_true(self, now: float) -> tuple[Record, ...]:
        """Decide, and decide again on the state as it will be, until nothing more becomes true."""
        decided: list[Record] = []
        state, weight = self.state, 0
        while len(decided) < ENTRY_RECORDS_MAX:
            found = decide(state, self.known, now)
            weight += sum(map(_weight, found))
            if not found or (decided and weight > ENTRY_WEIGHT_MAX):
                break
            decided += found
            if self.known.verdicts or self.known.failures or self.known.withdrawn:
                break  # those that are left have an entry of their own: each may be as large as a message
            if state is self.state:
                state = state.copied()
            for record in found:
                apply(state, record, now)
        return tuple(decided)

    # --- what happened ---

    def _start_asked(self, event: StartAsked, now: float) -> list[Effect]:
        if self.state.phase is Phase.NEW:
            self.known.start = event
        return []

    def _stop_asked(self, event: StopAsked, now: float) -> list[Effect]:
        self.known.stop = event
        return []

    def _replayed(self, event: Replayed, now: float) -> list[Effect]:
        phase = self.state.phase
        if event.entry.mark:
            self.state.held = event.entry.mark == records.RESTORING
        for record in event.entry.unpack():
            apply(self.state, record, event.entry.at)
        self.state.sequence = event.sequence
        if self.state.phase is not phase:
            self.check()  # not for each batch of updates: it looks at every client
        return []

    def _recovered(self, event: Recovered, now: float) -> list[Effect]:
        effects = self._catalogued() if self.state.phase is not Phase.ENDED else []
        return [*effects, *self.boards.everything(self.state, self.known.combiners)]

    def _not_posted(self, event: NotPosted, now: float) -> list[Effect]:
        return self.boards.again(self.state, self.known.combiners, event.clients, event.combiners)

    def _appended(self, event: Appended, now: float) -> list[Effect]:
        effects: list[Effect] = []
        touched: dict[str, object] = {}
        orders = False
        phase = self.state.phase
        for record in event.records:
            touched.update(asked_of(self.state, record))
            apply(self.state, record, event.at)
            effects += self._follows(record)
            orders = orders or not isinstance(record, _NO_ORDERS)
        self.state.sequence = event.sequence
        if self.state.phase is not phase or orders:
            self.check()
        if orders:
            effects += self.boards.orders(self.state, self.known.combiners)
        return [*effects, *self.boards.tasks(self.state, touched)]

    def _follows(self, record: Record) -> list[Effect]:
        """Take note of what a record ends or begins; returns what it asks for besides posts."""
        match record:
            case records.SessionStarted() | records.ModelPublished():
                return self._catalogued()
            case records.RoundClosed():
                return [Discard(blob) for blob in self.state.litter]
            case records.SessionEnded():
                litter = (*self.state.litter, *_measured(self.state))
                return [*(Discard(blob) for blob in litter), *map(Expire, self.state.expired)]
            case records.RoundClosing():
                self.known.stored = self.known.merge_failed = None
                # Only now: the new version is written over the pages that the system has just got back.
                return [*map(Expire, self.state.expired)]
            case records.EvaluationOpened() | records.RoundEvaluated():
                self.known.answers, self.known.totals, self.known.declined = {}, Totals(), {}
            case records.RoundOpened():
                self.known.parts = {}
            case _:
                pass
        return []

    def _catalogued(self) -> list[Effect]:
        """Enter the newest version into the catalogue; but a session that only evaluates a model makes none."""
        model = self.state.model
        return [Catalogue(model)] if model is not None and self.state.config.rounds else []

    def _roster_changed(self, event: RosterChanged, now: float) -> list[Effect]:
        before, self.known.roster = self.known.roster, event
        effects: list[Effect] = []
        if before.combiners != event.combiners:
            for name in _come(before.combiners, event.combiners):
                self.boards.posted.pop(name, None)
            effects += self.boards.orders(self.state, event.combiners)
        come = _come(before.clients, event.clients) if before.clients != event.clients else []
        return [*effects, *self.boards.tasks(self.state, self.boards.tasked(self.state, come))]

    def _loads_changed(self, event: LoadsChanged, now: float) -> list[Effect]:
        self.known.loads = event.loads
        return []

    def _model_missing(self, event: ModelMissing, now: float) -> list[Effect]:
        if event.since_at and not self.known.missing_since(event.blob):
            self.known.missing = (event.blob, event.since_at)
        elif not event.since_at and self.known.missing_since(event.blob):
            self.known.missing = ("", 0.0)
        return []

    def _reported(self, event: Reported, now: float) -> list[Effect]:
        report, name, said = event.report, event.sender.name, (event.sender, event.id)
        if is_ahead(self.state, report) or self.said.waits(said):
            return [ReadAgain()]
        match report:
            case reports.UpdatesJudged() if self.state.round is not None:
                self.known.verdicts.append((name, report))
                if self.state.round.shards and report.round == self.state.round.number:
                    self.said.judging[said] = [(one.client, one.attempt) for one in report.verdicts]
                    return []
            case reports.TaskFailed() if report.stage == "evaluate":
                if self._not_evaluated(name, report):
                    self.said.measuring[said] = None
                    return []
            case reports.TaskFailed() | reports.Withdrawn() if self.state.round is not None:
                self._failed(name, report, now)
            case reports.ModelStored() if is_of_root(self.state, name, report):
                self.known.stored = report
            case reports.MergeFailed() if is_of_closing(self.state, report):
                self.known.merge_failed = report
            case reports.Evaluated() if self._is_awaited(name, report):
                self._measured(name, report)
                self.said.measuring[said] = None
                return []
            case _:
                pass  # of no use, or not any more
        self.said.ready.append(said)
        return []

    def _not_evaluated(self, name: str, report: reports.TaskFailed) -> bool:
        """Take note of who does not evaluate, and why; whether that is waited for."""
        evaluation = self.state.evaluation
        if evaluation is None or report.round != evaluation.round or name not in evaluation.clients:
            return False
        self.known.answers.setdefault(name, report.reason or "no reason given")
        if report.policy and isinstance(self.known.answers[name], str):
            self.known.declined[name] = declined_by(name, report)
        return True

    def _failed(self, name: str, report: reports.TaskFailed | reports.Withdrawn, now: float) -> None:
        """Take note of a task that failed; where the model could not be had, it has to be looked for."""
        if isinstance(report, reports.Withdrawn):
            self.known.withdrawn.append((name, report))
            return
        self.known.failures.append((name, report))
        if report.stage == "fetch" and not self.known.missing_since(self.state.blob):
            self.known.missing = (self.state.blob, now)

    def _is_awaited(self, client: str, report: reports.Evaluated) -> bool:
        evaluation = self.state.evaluation
        return evaluation is not None and report.version == evaluation.version and client in evaluation.clients

    def _measured(self, client: str, report: reports.Evaluated) -> None:
        if isinstance(self.known.answers.get(client), records.Measured):
            return
        why = "" if report.weight > 0 else f"expected a weight above 0, got {report.weight}"
        why = why or self.known.totals.add(client, report.sums)
        if why:
            self.known.answers.setdefault(client, why)
        else:
            self.known.answers[client] = records.Measured(
                client=client, weight=report.weight, metrics=report.metrics, fetched=report.fetched
            )


def _measured(state: SessionState) -> tuple[str, ...]:
    """Return the blob of a model that was stored to be evaluated and for nothing else."""
    own = not state.config.rounds and state.blob.startswith(f"{state.session}-0-")
    return (state.blob,) if own else ()


def _come(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return who is there and was not, or as another incarnation: what it has read of the boards may be older."""
    return [name for name, incarnation in now.items() if before.get(name) != incarnation]


_NO_ORDERS = (records.UpdatesRecorded, records.ModelPublished, records.EvaluationOpened, records.RoundEvaluated)
"""Records that change no order: what combiners do depends on the round, and on who counts."""


def _weight(record: Record) -> int:
    """Return about how many names of clients, or numbers of theirs, a record holds, where it may hold many."""
    match record:
        case records.RoundOpened() | records.EvaluationOpened():
            return len(record.clients)
        case records.UpdatesRecorded():
            told = len(record.refused) + len(record.withdrawn)
            return sum(3 + len(one.metrics) for one in record.accepted) + TEXT_WEIGHT * told
        case records.ClientsMoved():
            return len(record.moves)
        case records.RoundClosing():
            return len(record.counted) + (record.missing.count if record.missing else 0)
        case records.RoundClosed():
            return 2 * len(record.not_counted)
        case records.RoundEvaluated():
            return sum(1 + len(one.metrics) for one in record.clients) + 2 * len(record.missing) + _numbers(record.sums)
        case _:
            return 0


def _numbers(sums: Sums) -> int:
    return sum(map(len, sums.values()))


_ABSORB: dict[type[Event], Callable[..., list[Effect]]] = {
    StartAsked: Machine._start_asked,
    StopAsked: Machine._stop_asked,
    Replayed: Machine._replayed,
    Recovered: Machine._recovered,
    NotPosted: Machine._not_posted,
    Appended: Machine._appended,
    RosterChanged: Machine._roster_changed,
    LoadsChanged: Machine._loads_changed,
    ModelMissing: Machine._model_missing,
    Reported: Machine._reported,
}
