"""Stands between a client and the bus for the owner of its data: judges tasks, trims what leaves, says why not.

`fedbus.client.owner` decides, `fedbus.client.watched` is the door, `fedbus.client.outgoing` the book beside it; here
they are put together for the `Hub`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from fedbus.bus.base import Bus
from fedbus.client.events import Report
from fedbus.client.norms import norm_of
from fedbus.client.outgoing import OutgoingLog
from fedbus.client.owner import Owner, Verdict, Wishes
from fedbus.client.sending import Sending
from fedbus.client.watched import About, WatchedBus
from fedbus.clock import Clock
from fedbus.messages import reports
from fedbus.messages.tasks import Task, Train
from fedbus.workers import Workers

log = logging.getLogger("fedbus.client")

SMALL_BYTES_MAX = 64 * 1024
"""Up to here the norm of an update is taken on the loop: 10 us, less than the way to a thread."""

WITHOUT_TEXT = "its app raised an error, whose text its owner does not let out"

TAKEN_BACK = "its owner took it back"

SAID_MAX = 100_000
"""Refusals that are known to have been said: the same is not said twice."""


class Warden:
    """One for each client process; raises `ConfigError` where the policy cannot be."""

    def __init__(
        self,
        wishes: Wishes,
        workspace: str,
        clock: Clock,
        bus: Bus,
        workers: Workers,
        about: Callable[[str, str], About],
    ) -> None:
        self.owner = Owner(wishes, workspace, clock)
        self._wishes = wishes
        self._clock = clock
        self._workers = workers
        self._outgoing: OutgoingLog | None = None
        self._dropped: set[tuple[str, str]] = set()
        self._said: dict[tuple[str, str], object] = {}
        self.door = WatchedBus(bus, self.owner, about)
        self.norms: dict[tuple[str, str], float | None] = {}

    def open(self) -> None:
        """Read what was decided before, and open the log; `ConfigError` where that is impossible."""
        self.owner.open()
        path = self._wishes.log_file
        if path is not None:
            self._outgoing = self.door.outgoing = OutgoingLog(path, self._clock)
        if self.owner.paused:
            self.door.shut()
            log.warning("its owner has paused it: nothing is done or said; fedbus client resume")

    def close(self) -> None:
        """Write what is left to be written; idempotent."""
        self.owner.close()
        if self._outgoing is not None:
            self._outgoing.close()

    # --- what comes in ---

    def refusal(self, client: str, task: Task, verdict: Verdict) -> Report | None:
        """Return what to tell the coordinator of a task that is not done; None where it was told, or is not to be."""
        train, evaluate = task.train if task.state == "train" else None, task.evaluate
        if verdict.silent or (train is None and evaluate is None):
            return None
        digest, key = self.owner.digest, (client, task.session)
        if train is not None and train.round == self.owner.withdrew(task.session):
            # A former process may have been killed before anybody had heard of it.
            withdrawn = self.withdrawal(client, task.session, train)
            return None if withdrawn is None else Report(withdrawn)
        of_round = (train.round, train.attempt) if train is not None else (evaluate.round if evaluate else 0, 0)
        said = (of_round, train is None, digest, verdict.reason)
        if self._said.get(key) == said:
            return None
        self._note_said(key, said)
        return Report(
            reports.TaskFailed(
                session=task.session,
                round=of_round[0],
                attempt=of_round[1],
                stage="policy" if train is not None else "evaluate",
                reason=verdict.reason,
                policy=digest,
                until_at=verdict.until_at,
            )
        )

    def withdrawal(self, client: str, session: str, train: Train) -> reports.Withdrawn | None:
        """Return what to tell the coordinator of an update that is taken back; None where it was told."""
        key, said = (client, session), ("withdrawn", train.round, train.attempt)
        if self._said.get(key) == said:
            return None
        self._note_said(key, said)
        return reports.Withdrawn(
            session=session, round=train.round, attempt=train.attempt, reason=TAKEN_BACK, policy=self.owner.digest
        )

    def _note_said(self, key: tuple[str, str], said: object) -> None:
        self._said[key] = said
        if len(self._said) > SAID_MAX:
            self._said.pop(next(iter(self._said)))

    # --- what goes out ---

    async def leaving(self, sending: Sending) -> Mapping[str, float]:
        """Make ready that an update leaves: its norm for the log; returns the metrics that may go with it."""
        if self._outgoing is not None:
            held = sending.held
            small = held.cut.nbytes <= SMALL_BYTES_MAX
            norm = norm_of(held) if small else await self._workers.run(norm_of, held)
            self.norms[sending.client, sending.session] = norm
        return self.let_out(sending.session, sending.held.metrics)

    def let_out(self, session: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics that may leave; of the others the log tells, once for each name."""
        policy = self.owner.policy
        if policy is None:
            return dict(metrics)
        kept = {name: value for name, value in metrics.items() if policy.lets_out(name)}
        self._tell_dropped(session, metrics.keys() - kept.keys())
        return kept

    def _tell_dropped(self, session: str, names: set[str]) -> None:
        new = {name for name in names if (session, name) not in self._dropped}
        if new and len(self._dropped) < SAID_MAX:
            self._dropped |= {(session, name) for name in new}
            log.warning("%s: stays here by its owner's policy: %s", session, ", ".join(map(repr, sorted(new))))

    def trimmed(self, report: Report, *, answers: bool) -> Report:
        """Return what of a report may leave; ``answers``: its sums are answers to questions, which have no names."""
        body, policy = report.body, self.owner.policy
        if policy is None:
            return report
        match body:
            case reports.Evaluated():
                sums = body.sums
                if not answers:
                    sums = {key: numbers for key, numbers in sums.items() if policy.lets_out(key.partition("[")[0])}
                    self._tell_dropped(body.session, body.sums.keys() - sums.keys())
                metrics = self.let_out(body.session, body.metrics)
                return Report(body.model_copy(update={"metrics": metrics, "sums": sums}))
            case reports.TaskFailed() if not body.policy and not policy.outgoing.errors:
                return Report(body.model_copy(update={"reason": WITHOUT_TEXT}))
            case _:
                return report
