"""Whole federations in one process, from one seed, under virtual time: the real roles, the memory bus, misfortune.

`simulate(seed)` makes a world (how many clients and combiners, what faults, who is killed when: all drawn from the
seed), runs one session in it, and checks what must hold: every published model is the exact weighted sum of updates of
that round, each at most once; versions form one chain; every round ends; the session ends in bounded time. What is
checked against is computed here with Python's own whole numbers and fractions, not with the accumulator. A violation
raises `Violation` with the seed and the story.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from fedbus.aggregation import scale_for
from fedbus.bus.memory import Faults, MemoryBroker, MemoryBus
from fedbus.client.app import ClientApp, EvaluateTask, Evaluation, Model, TrainTask, Update
from fedbus.client.client import Client
from fedbus.combiner.service import Combiner
from fedbus.config.session import SessionConfig
from fedbus.coordinator.service import Coordinator
from fedbus.crash import Point
from fedbus.errors import BusClosed, FedbusError, NotFound
from fedbus.federation.service import Federation, SessionResult
from fedbus.messages import records
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journalled
from fedbus.store.spool import Memory
from fedbus.store.streams import ensure_streams
from fedbus.tensors import Manifest, model_digest
from fedbus.testing.loop import EPOCH, VirtualClock, run_virtual
from fedbus.workers import Inline

SESSION = "world"
LIMIT_S = 4 * 3600.0
"""Virtual time in which every world must have ended; its own deadlines end it long before."""


PATIENCE_S = 150.0
"""Longest that a round may take beyond its training and the misfortunes of its world.

An evaluation's deadline, and retries.
"""


class Violation(AssertionError):
    """Something that must hold did not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a world is made of; `Plan.draw` draws one from a seed.

    ``deaths``: points at which the role that passes them for the n-th time (counted over the world) is killed.
    """

    seed: int
    clients: int = 3
    combiners: int = 1
    rounds: int = 2
    faults: Faults = field(default_factory=Faults)
    kills: int = 0
    broker_restarts: int = 0
    misfortune_s: float = 60.0
    bad_clients: int = 0
    slow_s: float = 0.0
    chunk_bytes: int = 16
    values: int = 16
    evaluate: bool = True
    deaths: tuple[tuple[Point, int], ...] = ()

    @staticmethod
    def draw(seed: int) -> Plan:
        """Draw a world: most are small and harsh."""
        rng = random.Random(f"plan-{seed}")
        clients = rng.randint(1, 5)
        faults = Faults(
            loss=rng.choice([0.0, 0.02, 0.1, 0.2]),
            repetition=rng.choice([0.0, 0.05, 0.2]),
            reordering=rng.choice([0.0, 0.05, 0.2]),
            reordering_s_max=rng.choice([0.1, 2.0]),
            delay_s=rng.choice([(0.0, 0.0), (0.001, 0.02), (0.01, 0.4)]),
            append_loss=rng.choice([0.0, 0.0, 0.02, 0.1]),
            ack_loss=rng.choice([0.0, 0.0, 0.02, 0.1]),
        )
        return Plan(
            seed=seed,
            clients=clients,
            combiners=rng.randint(1, 3),
            rounds=rng.randint(1, 3),
            faults=faults,
            kills=rng.choice([0, 1, 2, 4, 8]),
            broker_restarts=rng.choice([0, 0, 0, 1, 2]),
            misfortune_s=rng.choice([10.0, 40.0]),
            bad_clients=rng.choice([0, 0, 0, 1]) if clients > 1 else 0,
            slow_s=rng.choice([0.0, 1.0, 10.0]),
            deaths=tuple((rng.choice(list(Point)), rng.randint(1, 6)) for _ in range(rng.choice([0, 0, 1, 3]))),
            values=rng.choice([0, 1, 7, 30, 90]),
            chunk_bytes=rng.choice([16, 64, 512 * 1024]),
            evaluate=rng.random() < 0.5,
        )


@dataclass(slots=True)
class Report:
    """What happened in a world."""

    plan: Plan
    outcome: str = ""
    digest: str = ""
    rounds: int = 0
    counted: int = 0
    crashes: int = 0
    virtual_s: float = 0.0
    story: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Role:
    """A role that lives, dies, and is born again."""

    name: str
    start: Callable[[MemoryBus, int], Coroutine[Any, Any, None]]
    bus: MemoryBus | None = None
    task: asyncio.Task[None] | None = None
    births: int = 0


def simulate(seed: int, plan: Plan | None = None) -> Report:
    """Run one world; returns what happened, or raises `Violation` with the seed and the story."""
    return run_virtual(World(plan or Plan.draw(seed)).run())


class World:
    """One world. Its clients' updates are a pure function of model and task, so that they can be recomputed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"world-{plan.seed}")
        self.report = Report(plan)
        self.subjects = Subjects("default")
        self.clock = VirtualClock()
        self.broker = MemoryBroker(plan.seed, plan.faults)
        self.roles: dict[str, _Role] = {}
        self.models: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
        self.coordinators: list[Coordinator] = []
        self.failure: Violation | None = None
        self.passed: dict[Point, int] = {}
        self._dying: set[asyncio.Task[None]] = set()

    # --- the learning task: exact to recompute ---

    def initial(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the first model: two arrays, one of them possibly empty."""
        values = np.arange(self.plan.values, dtype=np.float32) / 7
        return {"a": values, "b": np.array([0.5, -2.0], dtype=np.float64)}

    @staticmethod
    def update_of(model: Mapping[str, np.ndarray[Any, Any]], name: str, round_: int) -> tuple[dict[str, Any], float]:
        """Return what an honest client gives for a model in a round."""
        digest = hashlib.blake2b(f"{name}/{round_}".encode(), digest_size=8).digest()
        shift, weight = digest[0] / 16 - 8, 1.0 + digest[1] % 50
        return {key: (value + value.dtype.type(shift) / 3).astype(value.dtype) for key, value in model.items()}, weight

    def app(self, name: str) -> ClientApp:
        """Return the app of a client, made at its birth; bad ones misbehave, each in its own way by round."""
        app = ClientApp()
        trained: set[int] = set()
        bad = name in {f"c{i}" for i in range(self.plan.bad_clients)}

        @app.train
        async def train(model: Model, task: TrainTask) -> Update:
            if self.plan.slow_s:
                await asyncio.sleep(self.plan.slow_s * (1 + len(name) % 3) * self.rng.random())
            arrays, weight = self.update_of(model, name, task.round)
            if task.round in trained and not bad and self.failure is None:
                self.failure = Violation(f"{name} was asked to train twice for round {task.round}")
            trained.add(task.round)
            if bad and task.round % 3 == 0:
                raise ValueError("a bad client")
            if bad and task.round % 3 == 1:
                arrays["b"] = np.array([np.nan, 1.0])
            if bad and task.round % 3 == 2:
                arrays["b"] = np.zeros(3)
            return Update(arrays, weight, {"loss": weight})

        if self.plan.evaluate:

            @app.evaluate
            async def evaluate(model: Model, task: EvaluateTask) -> Evaluation:
                return Evaluation(1.0, {"sum": float(np.sum(model["b"]))})

        return app

    # --- birth and death ---

    def add(self, name: str, start: Callable[[MemoryBus, int], Coroutine[Any, Any, None]]) -> None:
        """Add a role and let it live."""
        self.roles[name] = _Role(name, start)
        self.bear(name)

    def bear(self, name: str) -> None:
        """Start a role, as a new process would."""
        role = self.roles[name]
        role.births += 1
        role.bus = MemoryBus(self.broker, name)
        role.task = asyncio.create_task(role.start(role.bus, role.births), name=f"{name}-{role.births}")

    async def kill(self, name: str) -> None:
        """End a role as kill -9 would: nothing more goes out."""
        role = self.roles[name]
        if role.bus is None or role.task is None:
            return  # dead already
        task, role.task = role.task, None  # from here on nobody else kills it, or wonders that it ends
        role.bus.kill()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and not isinstance(task.exception(), BusClosed):
            self.failure = Violation(f"{name} ended with an error")
            self.failure.__cause__ = task.exception()
        self.report.crashes += 1
        self.tell(f"{name} is killed")

    def crash(self, name: str, bus: MemoryBus) -> Callable[[Point], None]:
        """Return what a role calls at each point: it dies there if the plan says so, and is born again soon."""

        def passing(point: Point) -> None:
            self.passed[point] = self.passed.get(point, 0) + 1
            if (point, self.passed[point]) in self.plan.deaths and self.roles[name].bus is bus:
                bus.kill()  # at once: nothing that this process does from here on goes out
                self.tell(f"{name} dies at {point.name}")
                task = asyncio.create_task(self._die(name))
                self._dying.add(task)
                task.add_done_callback(self._dying.discard)

        return passing

    async def _die(self, name: str) -> None:
        await self.kill(name)
        await self._return(name, self.rng.uniform(0.1, 8.0))

    def tell(self, what: str) -> None:
        """Add to the story."""
        self.report.story.append(f"{asyncio.get_running_loop().time():9.3f} {what}")

    def _raise_if_failed(self, role: _Role) -> None:
        if role.task is not None and role.task.done() and not role.task.cancelled():
            error = role.task.exception()
            if error is not None:
                raise Violation(f"{role.name} ended with an error") from error
            raise Violation(f"{role.name} ended by itself")

    def _people(self) -> None:
        for index in range(self.plan.combiners):
            self.add(f"k{index}", self._combiner(f"k{index}"))
        self.add("coordinator", self._coordinator)
        for index in range(self.plan.clients):
            self.add(f"c{index}", self._client(f"c{index}"))

    async def _coordinator(self, bus: MemoryBus, birth: int) -> None:
        coordinator = Coordinator(
            bus,
            name="coordinator",
            incarnation=f"coordinator-{birth}",
            workspace="default",
            clock=self.clock,
            workers=Inline(),
            crash=self.crash("coordinator", bus),
        )
        self.coordinators.append(coordinator)
        await coordinator.run()

    def _combiner(self, name: str) -> Callable[[MemoryBus, int], Coroutine[Any, Any, None]]:
        async def start(bus: MemoryBus, birth: int) -> None:
            await Combiner(
                bus,
                name=name,
                incarnation=f"{name}-{birth}",
                workspace="default",
                clock=self.clock,
                workers=Inline(),
                make_spool=lambda _session: Memory(),
                crash=self.crash(name, bus),
            ).run()

        return start

    def _client(self, name: str) -> Callable[[MemoryBus, int], Coroutine[Any, Any, None]]:
        async def start(bus: MemoryBus, birth: int) -> None:
            client = Client(
                bus,
                self.app(name),
                name=name,
                clock=self.clock,
                workers=Inline(),
                incarnation=f"{name}-{birth}",
                crash=self.crash(name, bus),
            )
            async with client:
                await client.run()

        return start

    # --- misfortune ---

    async def _misfortune(self) -> None:
        """Kill and bear roles, restart the broker; then let everything heal."""
        moments = sorted(self.rng.uniform(0, self.plan.misfortune_s) for _ in range(self.plan.kills))
        restarts = sorted(self.rng.uniform(0, self.plan.misfortune_s) for _ in range(self.plan.broker_restarts))
        todo = sorted([(at, "kill") for at in moments] + [(at, "broker") for at in restarts])
        loop = asyncio.get_running_loop()
        begin = loop.time()
        returns: list[asyncio.Task[None]] = []
        for at, what in todo:
            await asyncio.sleep(max(0.0, begin + at - loop.time()))
            if what == "broker":
                self.tell("the broker is restarted; what it held in memory is gone")
                self.broker.restart(wipe_memory=True)
                continue
            name = self.rng.choice(sorted(self.roles))
            if self.roles[name].task is not None:
                await self.kill(name)
                returns.append(asyncio.create_task(self._return(name, self.rng.uniform(0.05, 15.0))))
        for task in returns:
            await task

    async def _return(self, name: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.tell(f"{name} is back")
        self.bear(name)

    # --- a session ---

    def config(self) -> SessionConfig:
        """Return the session's settings.

        Rounds wait for all honest clients, so that the result does not depend on luck.
        """
        plan = self.plan
        return SessionConfig(
            rounds=plan.rounds,
            clients_min=plan.clients,
            quorum=max(1, plan.clients - plan.bad_clients),
            round_deadline_s=900.0,
            close_deadline_s=600.0,
            evaluate_deadline_s=60.0,
            evaluate_every=1 if plan.evaluate else 0,
            seed=plan.seed,
        )

    async def run(self) -> Report:
        """Live through the session, then judge."""
        async with (
            MemoryBus(self.broker, "engineer") as bus,
            Federation(bus, workers=Inline(), name="eve") as federation,
        ):
            await ensure_streams_patiently(bus, self.subjects)
            self._people()
            trouble = asyncio.create_task(self._misfortune())
            watch = asyncio.create_task(self._watch())
            session = asyncio.create_task(self._session(federation))
            try:
                await asyncio.wait({session, watch}, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    raise self.violation(str(watch.exception())) from watch.exception()
                if not session.done():
                    raise self.violation("the session did not end")
                result = session.result()
            finally:
                for task in (trouble, watch, session):
                    task.cancel()
                    await asyncio.wait([task])
            entries = await federation.journal.read(SESSION)
            self.report.outcome, self.report.digest = result.outcome, result.digest
            self.report.virtual_s = asyncio.get_running_loop().time()
            try:
                await self.judge(federation, entries)
            except AssertionError as error:
                raise self.violation(str(error)) from error
            for role in self.roles.values():
                if role.task is not None:
                    role.task.cancel()
                    with suppress(asyncio.CancelledError, FedbusError):
                        await role.task
        return self.report

    async def _session(self, federation: Federation) -> SessionResult:
        while True:
            try:
                session = await federation.start_session(
                    self.config(), model=self.initial(), name=SESSION, chunk_bytes=self.plan.chunk_bytes
                )
                return await session.wait()
            except BusClosed:
                raise
            except FedbusError as error:
                self.tell(f"the engineer tries again: {error}")
                await asyncio.sleep(5.0)

    async def _watch(self) -> None:
        """Fail at once when a role ends by itself, and check each machine's invariants as time goes by."""
        while True:
            await asyncio.sleep(1.0)
            if self.failure is not None:
                raise self.failure
            for role in self.roles.values():
                self._raise_if_failed(role)

    def violation(self, what: str) -> Violation:
        """Return the error with the seed and the story."""
        waits = [w for c in self.coordinators[-1:] for m in c.machines.values() for w in m.waits()]
        story = "\n".join([*self.report.story[-60:], *(f"waits: {wait.what} {wait.on}" for wait in waits)])
        return Violation(f"seed {self.plan.seed}: {what}\n{self.plan}\n{story}")

    # --- judgement ---

    async def judge(self, federation: Federation, entries: list[Journalled]) -> None:
        """Check the whole journal and every model that it names."""
        facts = [record for journalled in entries for record in journalled.entry.unpack()]
        model = self.initial()
        version, number = f"{SESSION}-0", 0
        accepted: dict[str, records.AcceptedUpdate] = {}
        closing: records.RoundClosing | None = None
        counting: dict[str, records.AcceptedUpdate] = {}
        for fact in facts:
            match fact:
                case records.RoundOpened():
                    assert (fact.round, fact.version) == (number + 1, version), "a round of another model"
                    accepted = {}
                case records.UpdatesRecorded():
                    assert fact.round == number + 1, "an update of one round in another"
                    accepted |= {update.client: update for update in fact.accepted}
                case records.ClientsMoved():
                    for client in fact.moves:
                        accepted.pop(client, None)
                case records.RoundClosing():
                    assert len(set(fact.counted)) == len(fact.counted), "an update counted twice"
                    assert set(fact.counted) <= set(accepted), "counted, but never accepted"
                    closing, counting = fact, {client: accepted[client] for client in fact.counted}
                case records.ModelPublished():
                    assert closing is not None and fact.round == number + 1 and fact.parent == version, "no chain"
                    model = self.expected(model, fact.round, sorted(counting))
                    assert model_digest(model) == fact.digest, f"round {fact.round}: the model is not the exact sum"
                    await self._judge_stored(federation, fact)
                    number, version = fact.round, fact.version
                    self.report.rounds, self.report.counted = number, self.report.counted + len(counting)
                case records.RoundEvaluated():
                    asked = dict.fromkeys([measured.client for measured in fact.clients], float(np.sum(model["b"])))
                    found = {measured.client: measured.metrics["sum"] for measured in fact.clients}
                    assert (fact.version, found) == (version, asked), "metrics of another model"
                case records.RoundFailed():
                    assert self.plan.bad_clients, f"round {fact.round} failed: {fact.reason}"
                case _:
                    pass
        self._judge_end(facts[-1], number, self.report.virtual_s - (entries[0].entry.at - EPOCH))

    async def _judge_stored(self, federation: Federation, fact: records.ModelPublished) -> None:
        """Check that a published version can be found and fetched, and is what the journal says."""
        try:
            stored = await federation.models.get(fact.version)
        except NotFound as error:
            raise Violation(f"a published version cannot be found: {error}") from error
        assert model_digest(stored) == fact.digest, "the stored model is another"

    def _judge_end(self, ended: records.Record, number: int, took_s: float) -> None:
        """Check how the session ended, and that it took no longer than its misfortunes explain."""
        assert isinstance(ended, records.SessionEnded), "the session did not end in the journal"
        if self.plan.bad_clients == 0:
            assert ended.outcome == "completed", f"expected completed, got {ended.outcome}: {ended.reason}"
            assert number == self.plan.rounds and self.report.counted == self.plan.rounds * self.plan.clients, (
                "an update lost"
            )
        else:
            honest = self.plan.clients - self.plan.bad_clients
            assert ended.outcome == "completed" and self.report.counted == self.plan.rounds * honest, (
                "an honest update lost"
            )
        patience_s = self.plan.misfortune_s + 60.0 + self.plan.rounds * (PATIENCE_S + 3 * self.plan.slow_s)
        assert took_s < patience_s, f"it took {took_s:.0f} s, more than {patience_s:.0f}"

    def expected(self, model: dict[str, Any], round_: int, clients: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Compute the next model with whole numbers: the definition of docs/explanation/exactness, not its code."""
        manifest = Manifest.of(model)
        scale = scale_for(manifest.spec, manifest.absmax, self.config().weight_max)
        updates = [self.update_of(model, name, round_) for name in clients]
        weight_sum = sum(Fraction(weight) for _, weight in updates)
        new = {}
        for bits, (key, base) in zip(scale.bits, model.items(), strict=True):
            sums = [
                sum(round(Fraction(float(np.float64(w) * 2.0**bits * np.float64(a[key][i])))) for a, w in updates)
                for i in range(base.size)
            ]
            means = [float(np.float64(total) / (float(weight_sum) * 2.0**bits)) for total in sums]
            new[key] = np.array(means, dtype=np.float64).astype(base.dtype).reshape(base.shape)
        return new


async def ensure_streams_patiently(bus: MemoryBus, subjects: Subjects) -> None:
    """Create the streams on a bus that loses things."""
    while True:
        with suppress(FedbusError):
            await ensure_streams(bus, subjects)
            return
        await asyncio.sleep(1.0)
