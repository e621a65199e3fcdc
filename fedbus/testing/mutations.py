"""Defects that are built in on purpose, so that it is seen that worlds find them: tests of the tests.

Each takes one rule away that a result hangs on, by patching the real roles for as long as a ``with`` lasts. Where
another rule stands behind it and holds, both are taken away, and ``what`` says so. ``harsh`` makes a plan of a seed in
which the rule is needed often; `Plan.draw` meets each of these too, only less often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from fedbus import planning
from fedbus.bus.memory import Faults
from fedbus.client import events
from fedbus.client import machine as client
from fedbus.combiner import folder
from fedbus.combiner import machine as combiner
from fedbus.combiner.uploads import allowed_by as really_allowed_by
from fedbus.coordinator import events as of_coordinator
from fedbus.coordinator import machine as coordinator
from fedbus.coordinator import state, verdicts
from fedbus.crash import Point
from fedbus.messages import records
from fedbus.messages.plans import Plan as SessionPlan
from fedbus.messages.records import Entry
from fedbus.messages.tasks import Task
from fedbus.store.journal import Journal
from fedbus.testing.misfortune import Misfortune
from fedbus.testing.plan import Plan


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defect; ``build()`` is the context in which everybody has it."""

    name: str
    what: str
    build: Callable[[], AbstractContextManager[None]]
    harsh: Callable[[int], Plan]


def _killing(seed: int) -> Plan:
    """Combiners and coordinators die in the midst of rounds, again and again, among several slow clients."""
    rng = random.Random(f"killing-{seed}")
    faults = Faults(loss=0.1, repetition=0.1, reordering=0.1, delay_s=(0.01, 0.2))
    plan = Plan(seed, clients=5, combiners=2, rounds=2, faults=faults, slow_s=8.0, misfortune_s=60.0, evaluate=False)
    kills = [
        Misfortune(
            round(rng.uniform(0, 60.0), 2), "kill", rng.choice(("k0", "k1", "coordinator")), rng.uniform(0.1, 4.0)
        )
        for _ in range(10)
    ]
    deaths = ((rng.choice(_BORDERS), rng.randint(1, 3)), (rng.choice(_BORDERS), rng.randint(1, 4)))
    return replace(plan, deaths=deaths, misfortunes=tuple(kills))


def _moving(seed: int) -> Plan:
    """Clients are moved from one combiner to the other and back, since one of them is cut off each time.

    Some clients die with an update half sent, and train another.
    """
    rng = random.Random(f"moving-{seed}")
    plan = Plan(seed, clients=5, combiners=2, rounds=1, slow_s=30.0, misfortune_s=60.0, evaluate=False, fickle=True)
    away = [Misfortune(6.0 + 11.0 * nth + rng.uniform(0, 3), "cut", f"k{nth % 2}", 8.5) for nth in range(5)]
    deaths = tuple((Point.UPDATE_ANNOUNCED, nth) for nth in rng.sample(range(1, 6), 2))
    return replace(plan, faults=Faults(delay_s=(0.01, 0.1)), misfortunes=tuple(away), deaths=deaths)


_BORDERS = (Point.VERDICT_TOLD, Point.UPDATE_FOLDED, Point.JOURNALLED, Point.POSTED, Point.PARTIAL_SENT, Point.DECIDED)


def _damaging(seed: int) -> Plan:
    """Bits flip on the way."""
    return replace(_killing(seed), faults=Faults(corruption=0.2, corrupted="fb.*.chunk.>", delay_s=(0.01, 0.1)))


def _rivalling(seed: int) -> Plan:
    """Several coordinators far away: one after the other stands still with an append on its way, and another leads."""
    rng = random.Random(f"rivalling-{seed}")
    plan = Plan(seed, clients=6, combiners=2, coordinators=3, rounds=2, slow_s=8.0, misfortune_s=60.0, evaluate=False)
    still = [
        Misfortune(round(rng.uniform(0, 60.0), 2), "freeze", rng.choice(plan.coordinator_names), rng.uniform(3.5, 6.0))
        for _ in range(14)
    ]
    return replace(plan, faults=Faults(delay_s=(0.05, 0.25)), misfortunes=tuple(still))


def _waiting(seed: int) -> Plan:
    """A coordinator waits for its journal, again and again, and dies while it does."""
    rng = random.Random(f"waiting-{seed}")
    plan = Plan(seed, clients=5, combiners=2, rounds=1, slow_s=10.0, misfortune_s=60.0, evaluate=False)
    kills = [
        Misfortune(round(rng.uniform(3.0, 60.0), 2), "kill", "coordinator", rng.uniform(0.1, 2.0)) for _ in range(6)
    ]
    return replace(plan, faults=Faults(delay_s=(0.0, 0.02), append_loss=0.5), misfortunes=tuple(kills))


def _hurrying(seed: int) -> Plan:
    """Rounds that close without slow clients, whose updates count later."""
    plan = Plan(seed, clients=4, combiners=2, rounds=4, slow_s=10.0, evaluate=False)
    return replace(plan, late_updates="buffer", round_deadline_s=12.0, faults=Faults(loss=0.1, delay_s=(0.01, 0.1)))


def _buffering(seed: int) -> Plan:
    """Asynchronous versions of slow clients: many updates count that were made from an older one."""
    plan = Plan(seed, clients=4, combiners=2, rounds=5, slow_s=10.0, evaluate=False, faults=Faults(delay_s=(0.01, 0.1)))
    return replace(plan, strategy="fedbuff", options=(("buffer_size", 2),))


def _thinning(seed: int) -> Plan:
    """Rounds that close at their deadline without slow clients, whose strategy needs nearly all of them."""
    plan = Plan(seed, clients=5, combiners=2, rounds=2, slow_s=10.0, evaluate=False, faults=Faults(delay_s=(0.01, 0.1)))
    krum = replace(plan, strategy="krum", options=(("byzantine_max", 1),))
    return replace(krum, late_updates="buffer", round_deadline_s=12.0)


# --- the defects ---


def _table(table: dict[Any, Any], event: type, mutant: Callable[..., Any]) -> AbstractContextManager[Any]:
    return patch.dict(table, {event: mutant})


@contextmanager
def _acknowledge_when_folded() -> Iterator[None]:
    real = client._TABLE[events.Settled]  # noqa: SLF001 - what is mutated is inside

    def settled(machine: client.Machine, event: events.Settled) -> list[events.Effect]:
        effects = real(machine, event)
        if machine.phase is client.Phase.HOLDING and machine.held is not None:
            machine.phase = client.Phase.IDLE
            effects += [events.Release(machine.held, counted=True, reason="a combiner has it")]
            machine.held = None
        return effects

    with _table(client._TABLE, events.Settled, settled):  # noqa: SLF001 - as above
        yield


@contextmanager
def _forget_what_is_covered() -> Iterator[None]:
    seen: dict[tuple[str, int, str], frozenset[Any]] = {}

    def allowed_by(order: Any, name: str) -> frozenset[Any]:  # noqa: ANN401 - as the one that it stands for
        at = (f"{order.session}/{order.incarnation}", order.round, name)
        seen[at] = seen.get(at, frozenset()) | really_allowed_by(order, name)
        return seen[at]

    with patch.object(combiner, "allowed_by", allowed_by), patch.object(combiner.Machine, "check", _nothing):
        yield


@contextmanager
def _forget_what_is_accepted() -> Iterator[None]:
    real = coordinator._ABSORB[of_coordinator.Replayed]  # noqa: SLF001 - what is mutated is inside

    def replayed(
        machine: coordinator.Machine, event: of_coordinator.Replayed, now: float
    ) -> list[of_coordinator.Effect]:
        kept = [one for one in event.entry.unpack() if not isinstance(one, records.UpdatesRecorded)]
        entry = Entry.of(event.entry.at, event.entry.epoch, tuple(kept))
        return real(machine, replace(event, entry=entry), now)

    def closing(of: state.SessionState, record: records.RoundClosing, at: float) -> None:
        missing = [client for client in record.counted if client not in of.open_round.accepted]
        whole = record.model_copy(update={"counted": tuple(set(record.counted) - set(missing))})
        real_closing(of, whole, at)

    real_closing = state._APPLY[records.RoundClosing]  # noqa: SLF001 - as above
    with (
        _table(coordinator._ABSORB, of_coordinator.Replayed, replayed),  # noqa: SLF001 - as above
        _table(state._APPLY, records.RoundClosing, closing),  # noqa: SLF001 - as above
    ):
        yield


@contextmanager
def _no_expected_sequence() -> Iterator[None]:
    real = Journal._append  # noqa: SLF001 - what is mutated is inside

    async def append(journal: Journal, session: str, data: bytes, expected_last: int, message_id: str) -> int:
        del expected_last
        return await real(journal, session, data, None, message_id)  # type: ignore[arg-type]

    with patch.object(Journal, "_append", append):
        yield


@contextmanager
def _no_undo() -> Iterator[None]:
    def undo(of: folder.Folder, key: Any) -> None:  # noqa: ANN401 - as the one that it stands for
        upload = of._uploads.pop(key, None)  # noqa: SLF001 - what is mutated is inside
        if upload is not None:
            of._spool.drop(upload.serial)  # noqa: SLF001 - as above

    with patch.object(folder.Folder, "_undo", undo):
        yield


@contextmanager
def _chunks_unseen() -> Iterator[None]:
    def fold(of: folder.Folder, job: Any) -> Any:  # noqa: ANN401 - as the one that it stands for
        with patch.object(folder, "chunk_digest", lambda _: job.digest):
            return real(of, job)

    real = folder.Folder._fold  # noqa: SLF001 - what is mutated is inside
    with patch.object(folder.Folder, "_fold", fold):
        yield


@contextmanager
def _acknowledge_before_the_journal() -> Iterator[None]:
    real = coordinator._ABSORB[of_coordinator.Reported]  # noqa: SLF001 - what is mutated is inside

    def reported(
        machine: coordinator.Machine, event: of_coordinator.Reported, now: float
    ) -> list[of_coordinator.Effect]:
        return [*real(machine, event, now), of_coordinator.Acknowledge(event.sender, (event.id,))]

    with _table(coordinator._ABSORB, of_coordinator.Reported, reported):  # noqa: SLF001 - as above
        yield


@contextmanager
def _stale_twice() -> Iterator[None]:
    def refusal(*_: object) -> str:
        return ""

    def receive(machine: client.Machine, task: Task) -> list[events.Effect]:
        receipt = task.receipt
        if receipt is not None and receipt.counted:
            task = task.model_copy(update={"receipt": receipt.model_copy(update={"late": True, "settled": 0})})
        return real(machine, task)

    real = client.Machine._receive  # noqa: SLF001 - what is mutated is inside
    with (
        patch.object(verdicts, "refusal", refusal),
        patch.object(coordinator, "refusal", refusal),
        patch.object(client.Machine, "_receive", receive),
    ):
        yield


@contextmanager
def _planned(**changes: Callable[[Any], Any]) -> Iterator[None]:
    """Plan sessions with other fields than what their strategy asks for."""

    def plan(**fields: Any) -> SessionPlan:  # noqa: ANN401 - as the one that it stands for
        return SessionPlan(**fields | {name: change(fields[name]) for name, change in changes.items()})

    with patch.object(planning, "Plan", plan):
        yield


def _stale_as_new() -> AbstractContextManager[None]:
    return _planned(stale=lambda factors: (1.0,) * len(factors))


def _never_too_few() -> AbstractContextManager[None]:
    return _planned(updates_min=lambda _: 1)


def _nothing(*_: object) -> None:
    return None


MUTATIONS = {
    one.name: one
    for one in (
        Mutation(
            "acknowledge-when-folded",
            "a client forgets its update when a combiner has it, not when its round is closed",
            _acknowledge_when_folded,
            _killing,
        ),
        Mutation(
            "forget-what-is-covered",
            "a combiner goes on to fold what was moved to another, and does not see that it did (`Machine.check`)",
            _forget_what_is_covered,
            _moving,
        ),
        Mutation(
            "forget-what-is-accepted",
            "a coordinator that is born again does not know which updates it had journalled as accepted",
            _forget_what_is_accepted,
            _killing,
        ),
        Mutation(
            "no-expected-sequence",
            "a coordinator writes the journal whoever has written since it read it",
            _no_expected_sequence,
            _rivalling,
        ),
        Mutation(
            "no-undo", "a combiner forgets an update that does not count, and leaves it in the sum", _no_undo, _moving
        ),
        Mutation(
            "chunks-unseen",
            "a combiner folds chunks without a look at their digest",
            _chunks_unseen,
            _damaging,
        ),
        Mutation(
            "acknowledge-before-the-journal",
            "a coordinator acknowledges a report before what it says is journalled",
            _acknowledge_before_the_journal,
            _waiting,
        ),
        Mutation(
            "stale-twice",
            "a client sends what counted once more, as late, and the coordinator does not look whether it is settled",
            _stale_twice,
            _hurrying,
        ),
        Mutation(
            "stale-as-new",
            "an update of an older version is folded with the weight of a new one",
            _stale_as_new,
            _buffering,
        ),
        Mutation(
            "never-too-few",
            "a round of a robust strategy closes with fewer updates than it needs",
            _never_too_few,
            _thinning,
        ),
    )
}
