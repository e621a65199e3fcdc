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
decision. `Machine.decide` says what becomes true now (`_DECIDE`: phase -> function): records to append. Nothing changes
the state but a record that is in the journal: journal first, effects behind it. What a round waits for is
`Machine.waits`.

A combiner that is lost (gone, or another incarnation) takes with it what it had folded: its clients are moved and send
again what they hold. The set of updates that count is fixed by `RoundClosing`; a crash before the model is stored may
repeat it with a higher attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum

from fedbus.coordinator.events import (
    Acknowledge,
    Append,
    Appended,
    Catalogue,
    Discard,
    Effect,
    Event,
    PostOrder,
    PostTask,
    Recovered,
    Replayed,
    Reported,
    RosterChanged,
    StartAsked,
    StopAsked,
)
from fedbus.coordinator.metrics import weighted_mean
from fedbus.coordinator.posts import orders_for, task_for
from fedbus.coordinator.selection import place, select
from fedbus.coordinator.state import Phase, SessionState, apply
from fedbus.coordinator.verdicts import record_of
from fedbus.coordinator.waits import closing as closing_wait
from fedbus.coordinator.waits import gathering, wait_of
from fedbus.messages import records, reports
from fedbus.messages.ids import Peer
from fedbus.messages.queries import Wait
from fedbus.messages.records import Record

Decision = tuple[Record, ...]

WEIGHTS_MAX = 2048
"""Largest sum of weights of a round, as a multiple of ``weight_max``.

2^11 contributions below 2^51 stay below 2^62 (docs: exactness).
"""


@dataclass(slots=True)
class Machine:
    """The decisions of one session."""

    session: str
    state: SessionState = field(init=False)
    clients: Mapping[str, str] = field(default_factory=dict)
    combiners: Mapping[str, str] = field(default_factory=dict)
    start: StartAsked | None = None
    stop: StopAsked | None = None
    verdicts: list[tuple[str, reports.UpdatesJudged]] = field(default_factory=list)
    failures: list[tuple[str, reports.TaskFailed]] = field(default_factory=list)
    stored: reports.ModelStored | None = None
    merge_failed: reports.MergeFailed | None = None
    measured: dict[str, records.Measured] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    acknowledge: list[tuple[Peer, str]] = field(default_factory=list)
    measuring: list[tuple[Peer, str]] = field(default_factory=list)
    ordered: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = SessionState(self.session)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of an event; returns the effects that follow at once."""
        return _ABSORB[type(event)](self, event, now)

    def decide(self, now: float) -> list[Effect]:
        """Return what is to be journalled now, if anything; call it again after the `Appended`."""
        decision = self._stopping() or _DECIDE[self.state.phase](self, now)
        if decision:
            return [Append(decision, self.state.sequence)]
        return self._acknowledgements()

    def check(self) -> None:
        """Assert what must hold after every step."""
        state, current = self.state, self.state.round
        assert (current is not None) == (state.phase in (Phase.TRAINING, Phase.CLOSING))
        assert (state.evaluation is not None) == (state.phase is Phase.EVALUATING)
        if current is not None:
            assert current.number == state.rounds_closed + 1
            assert set(current.accepted) <= set(current.places) and set(current.attempts) == set(current.places)
            assert not set(current.accepted) & set(current.refused), "an update both accepted and refused"
            if current.closing is not None:
                assert set(current.closing.counted) <= set(current.places)

    # --- what happened ---

    def _start_asked(self, event: StartAsked, now: float) -> list[Effect]:
        if self.state.phase is Phase.NEW:
            self.start = event
        return []

    def _stop_asked(self, event: StopAsked, now: float) -> list[Effect]:
        self.stop = event
        return []

    def _replayed(self, event: Replayed, now: float) -> list[Effect]:
        for record in event.entry.unpack():
            apply(self.state, record, event.entry.at)
        self.state.sequence = event.sequence
        self.check()
        return []

    def _recovered(self, event: Recovered, now: float) -> list[Effect]:
        self.ordered.clear()
        effects: list[Effect] = []
        if self.state.phase not in (Phase.NEW, Phase.ENDED) and self.state.rounds_closed >= 0 and self.state.blob:
            effects.append(Catalogue(self.model()))
        return effects + self._post_tasks(self._participants()) + self._post_orders()

    def _appended(self, event: Appended, now: float) -> list[Effect]:
        before = set(self._participants())
        self._replayed(Replayed(event.entry, event.sequence), now)
        effects: list[Effect] = []
        touched: set[str] = set()
        orders = False
        for record in event.entry.unpack():
            match record:
                case records.SessionStarted():
                    effects.append(Catalogue(self.model()))
                case records.ModelPublished():
                    effects.append(Catalogue(record))
                case records.RoundClosed() | records.SessionEnded():
                    effects += [Discard(blob) for blob in self.state.litter]
                    touched |= before | set(self._participants())
                    orders = True
                case records.ClientsMoved():
                    touched |= set(record.moves)
                    orders = True
                case records.UpdatesRecorded():
                    orders = orders or self.state.phase is Phase.CLOSING
                case records.RoundClosing():
                    orders, self.stored, self.merge_failed = True, None, None
                case records.EvaluationOpened():
                    self.measured, self.unmeasured = {}, {}
                    touched |= set(record.clients)
                case _:
                    touched |= before | set(self._participants())
                    orders = True
        return effects + self._post_tasks(touched) + (self._post_orders() if orders else [])

    def _roster_changed(self, event: RosterChanged, now: float) -> list[Effect]:
        self.clients, self.combiners = event.clients, event.combiners
        return self._post_orders()

    def _reported(self, event: Reported, now: float) -> list[Effect]:
        report, name = event.report, event.sender.name
        match report:
            case reports.UpdatesJudged() if self.state.round is not None:
                self.verdicts.append((name, report))
            case reports.TaskFailed() if report.stage == "evaluate":
                evaluation = self.state.evaluation
                if evaluation is not None and report.round == evaluation.round and name in evaluation.clients:
                    self.unmeasured[name] = report.reason
                    return self._keep(event)
            case reports.TaskFailed() if self.state.round is not None:
                self.failures.append((name, report))
            case reports.ModelStored() if self._is_of_root(name, report):
                self.stored = report
            case reports.MergeFailed() if self._is_of_closing(report):
                self.merge_failed = report
            case reports.Evaluated() if self._is_awaited(name, report):
                self._measured(name, report)
                return self._keep(event)
            case _:
                pass  # of no use, or not any more
        self.acknowledge.append((event.sender, event.id))
        return []

    def _keep(self, event: Reported) -> list[Effect]:
        """Acknowledge a report only when the evaluation that it is part of is journalled: it may be lost with us."""
        said = (event.sender, event.id)
        if said not in self.measuring:
            self.measuring.append(said)
        return []

    def _is_of_root(self, name: str, report: reports.ModelStored) -> bool:
        """Whether a report is the one that the round waits for; an older one must not take its place."""
        closing = self.state.round.closing if self.state.round else None
        return (
            closing is not None
            and self._is_of_closing(report)
            and (name, report.blob) == (closing.root, closing.publish)
        )

    def _is_of_closing(self, report: reports.ModelStored | reports.MergeFailed) -> bool:
        current = self.state.round
        closing = current.closing if current else None
        return (
            current is not None
            and closing is not None
            and (report.round, report.revision) == (current.number, closing.attempt)
        )

    def _is_awaited(self, client: str, report: reports.Evaluated) -> bool:
        evaluation = self.state.evaluation
        return evaluation is not None and report.version == evaluation.version and client in evaluation.clients

    def _measured(self, client: str, report: reports.Evaluated) -> None:
        if report.weight > 0:
            measured = records.Measured(
                client=client, weight=report.weight, metrics=report.metrics, fetched=report.fetched
            )
            self.measured.setdefault(client, measured)
        else:
            self.unmeasured[client] = f"expected a weight above 0, got {report.weight}"

    # --- what becomes true ---

    def _stopping(self) -> Decision:
        if self.stop is None or self.state.phase in (Phase.NEW, Phase.ENDED):
            return ()
        return (self._ended("stopped", self.stop.reason),)

    def _new(self, now: float) -> Decision:
        start = self.start
        if start is None:
            return ()
        if start.refusal:
            return (self._ended("refused", start.refusal),)
        version = f"{self.session}-0"
        return (
            records.SessionStarted(
                config=start.config,
                version=version,
                blob=start.blob,
                digest=start.digest,
                nbytes=start.nbytes,
                by=start.by,
            ),
        )

    def _gathering(self, now: float) -> Decision:
        state, config = self.state, self.state.config
        if self._evaluation_due(state.rounds_closed):
            return (self._evaluation_of(now, state.rounds_closed, state.version, state.blob),)
        if state.evaluated == state.rounds_closed and state.rounds_closed and config.reached(state.metrics):
            return (self._ended("completed", f"{config.target_metric} reached in round {state.rounds_closed}"),)
        if state.rounds_closed >= config.rounds:
            return (self._ended("completed", f"{state.rounds_closed} rounds done"),)
        if state.failures >= config.round_attempts_max:
            attempts = f"round {state.rounds_closed + 1} failed {state.failures} times"
            return (self._ended("failed", f"{attempts}; the last time: {state.reason}"),)
        if len(self.clients) >= config.clients_needed and self.combiners:
            return self._open_round(now)
        if now >= state.since_at + config.gather_deadline_s:
            return (
                self._ended(
                    "failed", f"{gathering(self.state, self.clients).what}: not within {config.gather_deadline_s:g} s"
                ),
            )
        return ()

    def _open_round(self, now: float) -> Decision:
        state, config = self.state, self.state.config
        number = state.rounds_closed + 1
        chosen, target = select(self.clients, config.clients_per_round, config.oversample, config.seed, number)
        return (
            records.RoundOpened(
                round=number,
                attempt=state.attempt + 1,
                version=state.version,
                blob=state.blob,
                clients=place(chosen, self.combiners),
                incarnations=dict(self.combiners),
                target=target,
                deadline_at=now + config.round_deadline_s,
            ),
        )

    def _training(self, now: float) -> Decision:
        current = self.state.open_round
        recorded = self._record_updates()
        if recorded:
            return recorded
        moved = self._move_lost("its combiner was lost")
        if moved:
            return moved
        if self._lost():
            return self._training_deadline(now, "no combiner is there")
        if len(current.accepted) >= current.target:
            return self._close(now, f"{len(current.accepted)} of {current.target} updates arrived")
        if len(current.accepted) + len(current.refused) == len(current.places):
            if len(current.accepted) >= self.state.config.quorum_effective:
                return self._close(now, "every client has answered")
            return self._fail(f"{self._quorum_text()}, and every client has answered: {self._refusals()}")
        return self._training_deadline(now, f"missing: {', '.join(self.state.open_round.missing[:10])}")

    def _training_deadline(self, now: float, why: str) -> Decision:
        current = self.state.open_round
        if now < current.deadline_at:
            return ()
        if len(current.accepted) >= self.state.config.quorum_effective and not self._lost():
            return self._close(now, f"deadline with {len(current.accepted)} of {current.target} updates")
        return self._fail(f"{self._quorum_text()} at the deadline; {why}")

    def _closing(self, now: float) -> Decision:
        current = self.state.open_round
        closing = current.closing
        assert closing is not None
        recorded = self._record_updates()
        if recorded:
            return recorded
        if self.stored and self._is_of_root(closing.root, self.stored):
            return self._publish(now, self.stored)
        if self.merge_failed and self._is_of_closing(self.merge_failed):
            return self._fail(f"the root combiner {closing.root} could not make the model: {self.merge_failed.reason}")
        moved = self._move_lost("its combiner was lost while closing")
        if moved:
            return moved
        if now >= closing.deadline_at:
            counted = [client for client in closing.counted if client in current.accepted]
            if len(counted) < len(closing.counted) and len(counted) >= self.state.config.quorum_effective:
                return self._close(now, f"only {len(counted)} of {len(closing.counted)} updates could be recovered")
            return self._fail(
                f"not merged within {self.state.config.close_deadline_s:g} s: {closing_wait(self.state).what}"
            )
        recovered = all(client in current.accepted for client in closing.counted)
        if self._reopened() and recovered and not self._lost():
            return self._close(now, "the updates of a lost combiner were recovered", closing.counted)
        return ()

    def _reopened(self) -> bool:
        """Whether clients were moved after the set was fixed, so that the orders to merge must be given anew."""
        closing = self.state.open_round.closing
        return closing is not None and self.state.attempt > closing.attempt

    def _publish(self, now: float, stored: reports.ModelStored) -> Decision:
        current, state = self.state.open_round, self.state
        closing = current.closing
        assert closing is not None
        counted = [current.counting[client] for client in sorted(closing.counted)]
        model = records.ModelPublished(
            round=current.number,
            version=f"{self.session}-{current.number}",
            parent=state.version,
            session=self.session,
            blob=stored.blob,
            digest=stored.digest,
            nbytes=stored.nbytes,
            at=now,
        )
        closed = records.RoundClosed(
            round=current.number,
            counted=len(counted),
            metrics=weighted_mean({update.client: (update.weight, update.metrics) for update in counted}),
            bytes_up=sum(update.nbytes for update in (current.counting | current.accepted).values()),
            bytes_down=sum(update.fetched for update in (current.counting | current.accepted).values()),
            opened_at=current.opened_at,
            not_counted=self._not_counted(set(closing.counted)),
        )
        if not self._evaluation_due(current.number):
            return (model, closed)
        # One append for the three: a round's fixed cost is its synced writes.
        return (model, closed, self._evaluation_of(now, current.number, model.version, model.blob))

    def _evaluating(self, now: float) -> Decision:
        evaluation = self.state.evaluation
        assert evaluation is not None
        missing = {
            client: self.unmeasured.get(client) or ("left" if client not in self.clients else "")
            for client in evaluation.clients
            if client not in self.measured
        }
        if not all(missing.values()) and now < evaluation.deadline_at:
            return ()
        late = f"no answer within {self.state.config.evaluate_deadline_s:g} s"
        measured = {name: (one.weight, one.metrics) for name, one in self.measured.items()}
        return (
            records.RoundEvaluated(
                round=evaluation.round,
                version=evaluation.version,
                metrics=weighted_mean(measured),
                clients=self._each_measured(),
                missing={name: (why or late)[:2000] for name, why in missing.items()},
            ),
        )

    def _each_measured(self) -> tuple[records.Measured, ...]:
        """Return each client's own metrics; without them where they are more than one message holds."""
        numbers = sum(len(measured.metrics) + 1 for measured in self.measured.values())
        if numbers > 2 * reports.NUMBERS_MAX:
            return tuple(self.measured[n].model_copy(update={"metrics": {}}) for n in sorted(self.measured))
        return tuple(self.measured[name] for name in sorted(self.measured))

    def _nothing(self, now: float) -> Decision:
        return ()

    # --- pieces of decisions ---

    def _record_updates(self) -> Decision:
        """Turn what was reported of updates into one record."""
        sizes = [sum(len(verdict.metrics) for verdict in report.verdicts) for _, report in self.verdicts]
        size = reports.fitting(sizes)
        taken, self.verdicts = self.verdicts[:size], self.verdicts[size:]
        recorded = record_of(self.state, taken, self.failures)
        self.failures = []
        return recorded or (self._record_updates() if self.verdicts else ())

    def _lost(self) -> list[str]:
        """Return the clients whose combiner is gone, or is another incarnation, and took their update with it.

        Those that were refused have nothing to send again.
        """
        current = self.state.open_round
        here = (client for client in current.places if client not in current.refused)
        clients: Iterable[str] = self.state.counted if self.state.phase is Phase.CLOSING else here
        gone = {n for n in set(current.places.values()) if self.combiners.get(n) != current.incarnations.get(n)}
        return [client for client in clients if current.places[client] in gone] if gone else []

    def _move_lost(self, reason: str) -> Decision:
        """Give the clients of lost combiners to those that are there."""
        lost = self._lost() if self.combiners else []
        if not lost:
            return ()
        current, state = self.state.open_round, self.state
        moves = place(sorted(lost), self.combiners, start=state.attempt)
        used = {current.places[client] for client in current.places if client not in moves} | set(moves.values())
        incarnations = {name: inc for name, inc in self.combiners.items() if name in used}
        names = ", ".join(sorted({current.places[client] for client in lost}))
        return (
            records.ClientsMoved(
                round=current.number,
                attempt=state.attempt + 1,
                moves=moves,
                incarnations=incarnations,
                reason=f"{reason}: {names}"[:2000],
            ),
        )

    def _close(self, now: float, reason: str, counted: Iterable[str] | None = None) -> Decision:
        """Fix the set of updates that count; the combiner that holds most of them becomes the root."""
        current, state = self.state.open_round, self.state
        names = sorted(current.accepted if counted is None else counted)
        weight_sum = fsum(current.accepted[client].weight for client in names)
        if weight_sum > WEIGHTS_MAX * state.config.weight_max:
            largest = f"{WEIGHTS_MAX} x weight_max ({state.config.weight_max:g})"
            return self._fail(
                f"the weights sum up to {weight_sum:g}, more than {largest}; start the session with a larger weight_max"
            )
        held: dict[str, int] = {}
        for client in names:
            held[current.places[client]] = held.get(current.places[client], 0) + 1
        root = min(held, key=lambda name: (-held[name], name))
        attempt = state.attempt + 1
        return (
            records.RoundClosing(
                round=current.number,
                attempt=attempt,
                counted=tuple(names),
                root=root,
                publish=f"{self.session}-{current.number}-{attempt}",
                reason=reason,
                deadline_at=now + state.config.close_deadline_s,
            ),
        )

    def _fail(self, reason: str) -> Decision:
        return (
            records.RoundFailed(round=self.state.open_round.number, attempt=self.state.attempt, reason=reason[:2000]),
        )

    def _ended(self, outcome: str, reason: str) -> records.SessionEnded:
        state = self.state
        fields = {"outcome": outcome, "reason": reason[:2000], "version": state.version, "digest": state.digest}
        return records.SessionEnded.model_validate(fields)

    def _evaluation_due(self, done: int) -> bool:
        every = self.state.config.evaluate_every
        return every > 0 and done > self.state.evaluated and (done % every == 0 or done == self.state.config.rounds)

    def _evaluation_of(self, now: float, number: int, version: str, blob: str) -> records.EvaluationOpened:
        return records.EvaluationOpened(
            round=number,
            version=version,
            blob=blob,
            clients=tuple(sorted(self.clients)),
            deadline_at=now + self.state.config.evaluate_deadline_s,
        )

    def _not_counted(self, counted: set[str]) -> dict[str, str]:
        current = self.state.open_round
        reasons = {}
        for client in current.places:
            if client in current.refused:
                refused = current.refused[client]
                reasons[client] = f"{refused.stage}: {refused.reason}"[:2000]
            elif client not in counted:
                reasons[client] = (
                    "arrived after the round had enough" if client in current.accepted else "no update in time"
                )
        return reasons

    def model(self) -> records.ModelPublished:
        """Return the catalogue's entry of the version that stands now."""
        state = self.state
        parent = f"{self.session}-{state.rounds_closed - 1}" if state.rounds_closed else ""
        return records.ModelPublished(
            round=state.rounds_closed,
            version=state.version,
            parent=parent,
            session=self.session,
            blob=state.blob,
            digest=state.digest,
            nbytes=state.nbytes,
            at=state.since_at,
        )

    # --- what stands on the boards ---

    def _participants(self) -> list[str]:
        """Return the clients whose task the present state decides."""
        state = self.state
        if state.phase is Phase.ENDED:
            return sorted(set(state.receipts) | set(self.clients))
        if state.round is not None:
            return sorted(set(state.round.places) | set(state.receipts))
        if state.evaluation is not None:
            return sorted(set(state.evaluation.clients) | set(state.receipts))
        return sorted(state.receipts)

    def _post_tasks(self, clients: Iterable[str]) -> list[Effect]:
        return [PostTask(client, task_for(self.state, client)) for client in sorted(clients)]

    def _post_orders(self) -> list[Effect]:
        """Post the orders that differ from what was posted last."""
        if not self.state.version:
            return []  # not begun, or refused: there is no model to give orders about
        here = dict(self.combiners)
        current = self.state.round
        if current is not None:
            # An order is for the incarnation that the journal names: a reborn combiner gets its own after ClientsMoved.
            here = {n: inc for n, inc in here.items() if current.incarnations.get(n, inc) == inc}
        effects: list[Effect] = []
        for name, order in orders_for(self.state, here).items():
            text = repr(order.model_copy(update={"revision": 0}))
            if self.ordered.get(name) != text:
                self.ordered[name] = text
                effects.append(PostOrder(name, order))
        return effects

    def _acknowledgements(self) -> list[Effect]:
        """Acknowledge every report that is journalled by now, or of no use."""
        if self.state.evaluation is None:
            self.acknowledge += self.measuring
            self.measuring = []
        by_peer: dict[Peer, list[str]] = {}
        for peer, report in self.acknowledge:
            by_peer.setdefault(peer, []).append(report)
        self.acknowledge = []
        return [
            Acknowledge(peer, tuple(ids[first : first + reports.REPORTS_MAX]))
            for peer, ids in by_peer.items()
            for first in range(0, len(ids), reports.REPORTS_MAX)
        ]

    # --- what waits ---

    def waits(self) -> list[Wait]:
        """Return what this session waits for: on whom, since when, until when, and what happens then."""
        return wait_of(self.state, self.clients, self.measured.keys() | self.unmeasured.keys())

    def _quorum_text(self) -> str:
        accepted = len(self.state.open_round.accepted)
        return f"{accepted} updates where {self.state.config.quorum_effective} are the quorum"

    def _refusals(self) -> str:
        refused = self.state.open_round.refused
        return "; ".join(f"{name}: {refused[name].reason}" for name in sorted(refused)[:5])


_ABSORB: dict[type[Event], Callable[..., list[Effect]]] = {
    StartAsked: Machine._start_asked,
    StopAsked: Machine._stop_asked,
    Replayed: Machine._replayed,
    Recovered: Machine._recovered,
    Appended: Machine._appended,
    RosterChanged: Machine._roster_changed,
    Reported: Machine._reported,
}

_DECIDE: dict[Phase, Callable[[Machine, float], Decision]] = {
    Phase.NEW: Machine._new,
    Phase.GATHERING: Machine._gathering,
    Phase.TRAINING: Machine._training,
    Phase.CLOSING: Machine._closing,
    Phase.EVALUATING: Machine._evaluating,
    Phase.ENDED: Machine._nothing,
}
