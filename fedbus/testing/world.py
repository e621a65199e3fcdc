"""Whole federations in one process, from one seed, under virtual time: the real roles, the memory bus, misfortune.

`simulate(seed)` makes a world (`fedbus.testing.plan`: who takes part, where, and what goes wrong, all drawn from the
seed), runs its sessions, and lets `fedbus.testing.judge` say whether what must hold does: every published model is the
exact weighted mean of updates of that round, each at most once; versions form one chain; every round ends; the session
ends in bounded time. A violation raises `Violation` with the seed and the story.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedbus.bus.base import Message
from fedbus.bus.memory import MemoryBus
from fedbus.client.app import ClientApp, EvaluateTask, Evaluation, Model, TrainTask, Update
from fedbus.client.client import Client, Crowd
from fedbus.combiner.service import Combiner
from fedbus.config.session import SessionConfig
from fedbus.coordinator.service import Coordinator
from fedbus.coordinator.state import Phase
from fedbus.crash import Point
from fedbus.errors import BusClosed, FedbusError, NotFound, SessionFailed
from fedbus.federation.service import Federation, SessionResult
from fedbus.messages.subjects import Subjects
from fedbus.store.spool import Memory, Spool
from fedbus.store.streams import ensure_streams
from fedbus.tensors import model_digest
from fedbus.testing.judge import Judge
from fedbus.testing.learning import Arrays, initial, update_of
from fedbus.testing.loop import EPOCH, VirtualClock, run_virtual
from fedbus.testing.plan import CLIENT, Plan, contains
from fedbus.testing.rogues import Rogue
from fedbus.testing.strangers import Garbler, Parrot, WatchedBroker
from fedbus.workers import Inline

LIMIT_S = 4 * 3600.0
"""Virtual time in which every world must have ended; its own deadlines end it long before."""

Start = Callable[[MemoryBus, int], Coroutine[Any, Any, None]]
"""What a role does from its birth on: given its connection, and how often it was born."""


class Violation(AssertionError):
    """Something that must hold did not."""


@dataclass(slots=True)
class Report:
    """What happened in a world; ``digest``, ``outcome``, ``rounds`` are of its first session, ``digests`` of each."""

    plan: Plan
    outcome: str = ""
    digest: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    counted: int = 0
    crashes: int = 0
    virtual_s: float = 0.0
    story: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Role:
    """A role that lives, dies, and is born again."""

    name: str
    start: Start
    bus: MemoryBus | None = None
    task: asyncio.Task[None] | None = None
    births: int = 0


def simulate(seed: int, plan: Plan | None = None) -> Report:
    """Run one world; returns what happened, or raises `Violation` with the seed and the story."""
    return run_virtual(World(plan or Plan.draw(seed)).run())


class World:
    """One world. ``living``: the roles by name as they were born last."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"world-{plan.seed}")
        self.report = Report(plan)
        self.subjects = Subjects("default")
        self.clock = VirtualClock()
        self.broker = WatchedBroker(plan.seed, plan.faults)
        self.broker.watchers.append(self._watch_borders)
        self.sessions = tuple("world" + (f"-{index}" if index else "") for index in range(plan.sessions))
        self.roles: dict[str, _Role] = {}
        self.coordinators: list[Coordinator] = []
        self.living: dict[str, object] = {}
        self.known: dict[tuple[str, int, str], list[Arrays]] = {}
        self.failure: Violation | None = None
        self.passed: dict[Point, int] = {}
        self._dying: set[asyncio.Task[None]] = set()

    def app(self, birth: int) -> ClientApp:
        """Return the app of a process, made at its birth; bad clients misbehave, each in its own way by round."""
        app = ClientApp()
        trained: set[tuple[str, str, int]] = set()

        @app.train
        async def train(model: Model, task: TrainTask) -> Update:
            name = task.client
            bad = name in self.plan.bad
            if self.plan.slow_s:
                await asyncio.sleep(self.plan.slow_s * (1 + len(model.version) % 3) * self.rng.random())
            arrays, weight = update_of(task.session, model, name, task.round, birth if self.plan.fickle else 0)
            if (name, task.session, task.round) in trained and not bad:
                self.fail(f"{name} was asked to train twice for round {task.round} of {task.session}")
            trained.add((name, task.session, task.round))
            if bad and task.round % 3 == 0:
                raise ValueError("a bad client")
            if bad and task.round % 3 == 1:
                arrays["b"] = np.array([np.nan, 1.0])
            if bad and task.round % 3 == 2:
                arrays["b"] = np.zeros(3)
            self.known.setdefault((task.session, task.round, name), []).append(arrays)
            return Update(arrays, weight, {"loss": weight})

        if self.plan.evaluate:

            @app.evaluate
            async def evaluate(model: Model, task: EvaluateTask) -> Evaluation:
                return Evaluation(1.0, {"sum": float(np.sum(model["b"]))})

        return app

    # --- birth and death ---

    def add(self, name: str, start: Start) -> None:
        """Add a role and let it live."""
        self.roles[name] = _Role(name, start)
        self.bear(name)

    def bear(self, name: str) -> None:
        """Start a role, as a new process would."""
        role = self.roles[name]
        role.births += 1
        role.bus = MemoryBus(self.broker, name)
        role.task = asyncio.create_task(role.start(role.bus, role.births), name=f"{name}-{role.births}")

    async def kill(self, name: str) -> bool:
        """End a role as kill -9 would: nothing more goes out. Returns whether it lived until now."""
        role = self.roles[name]
        if role.bus is None or role.task is None:
            return False
        task, role.task = role.task, None  # from here on nobody else kills it, or wonders that it ends
        role.bus.kill()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and not isinstance(task.exception(), BusClosed):
            self.fail(f"{name} ended with an error", task.exception())
        self.report.crashes += 1
        self.tell(f"{name} is killed")
        return True

    def crash(self, name: str, bus: MemoryBus) -> Callable[[Point], None]:
        """Return what a role calls at each point: it dies there if the plan says so, and is born again soon."""

        def passing(point: Point) -> None:
            if bus.closed:
                return  # dead already, if only its last steps were not cancelled yet
            self.passed[point] = self.passed.get(point, 0) + 1
            if (point, self.passed[point]) in self.plan.deaths and self.roles[name].bus is bus:
                bus.kill()  # at once: nothing that this process does from here on goes out
                self.tell(f"{name} dies at {point.name}")
                task = asyncio.create_task(self._die(name))
                self._dying.add(task)
                task.add_done_callback(self._dying.discard)

        return passing

    async def _die(self, name: str) -> None:
        if await self.kill(name):
            await self._return(name, self.rng.uniform(0.1, 8.0))

    async def _return(self, name: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.tell(f"{name} is back")
        self.bear(name)

    def tell(self, what: str) -> None:
        """Add to the story."""
        self.report.story.append(f"{asyncio.get_running_loop().time():9.3f} {what}")

    def fail(self, what: str, cause: BaseException | None = None) -> None:
        """Note a violation; the first one ends the world."""
        if self.failure is None:
            self.failure = Violation(what)
            self.failure.__cause__ = cause

    # --- people ---

    def _people(self) -> None:
        plan = self.plan
        for name in plan.combiner_names:
            self.add(name, self._combiner(name))
        self.add("coordinator", self._coordinator)
        for first, count in plan.crowd_ranges:
            self.add(f"{CLIENT}{first}+{count}", self._crowd(first, count))
        for name in plan.alone:
            self.add(name, self._client(name))
        for name, kind in zip(plan.rogue_names, plan.rogues, strict=True):
            self.add(name, self._rogue(name, kind))
        for kind in plan.strangers:
            self.add(kind, self._stranger(kind))

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
        self.living["coordinator"] = coordinator
        await coordinator.run()

    def _combiner(self, name: str) -> Start:
        async def start(bus: MemoryBus, birth: int) -> None:
            combiner = self.living[name] = Combiner(
                bus,
                name=name,
                incarnation=f"{name}-{birth}",
                workspace="default",
                clock=self.clock,
                workers=Inline(),
                make_spool=lambda _session: self.spool(name),
                attributes=_attributes(self.plan.combiner_region(name)),
                crash=self.crash(name, bus),
            )
            await combiner.run()

        return start

    def spool(self, combiner: str) -> Spool:
        """Return a place where a combiner keeps a session's updates."""
        del combiner  # whoever keeps them in files gives each its own
        return Memory()

    def _client(self, name: str) -> Start:
        async def start(bus: MemoryBus, birth: int) -> None:
            client = Client(
                bus,
                self.app(birth),
                name=name,
                attributes=_attributes(self.plan.client_region(name)),
                clock=self.clock,
                workers=Inline(),
                incarnation=f"{name}-{birth}",
                crash=self.crash(name, bus),
            )
            async with client:
                await client.run()

        return start

    def _crowd(self, first: int, count: int) -> Start:
        name = f"{CLIENT}{first}+{count}"

        async def start(bus: MemoryBus, birth: int) -> None:
            crowd = Crowd(
                bus,
                self.app(birth),
                name=CLIENT,
                first=first,
                count=count,
                attributes=_attributes(self.plan.client_region(f"{CLIENT}-{first}")),
                clock=self.clock,
                workers=Inline(),
                incarnation=f"crowd{first}-{birth}",
                crash=self.crash(name, bus),
            )
            async with crowd:
                await crowd.run()

        return start

    def _rogue(self, name: str, kind: str) -> Start:
        async def start(bus: MemoryBus, birth: int) -> None:
            region = self.plan.client_region(name)
            incarnation, rng = f"{name}-{birth}", random.Random(f"{name}-{self.plan.seed}-{birth}")
            await Rogue(
                bus,
                kind,
                name=name,
                incarnation=incarnation,
                clock=self.clock,
                region=region,
                known=self.known,
                rng=rng,
            ).run()

        return start

    def _stranger(self, kind: str) -> Start:
        rng = random.Random(f"{kind}-{self.plan.seed}")

        async def start(bus: MemoryBus, birth: int) -> None:
            if kind == "parrot":
                await Parrot(bus, self.broker, rng).run()
            else:
                await Garbler(bus, self.subjects, rng, self.sessions).run()

        return start

    # --- misfortune ---

    async def _misfortune(self) -> None:
        """Kill and bear roles, restart the broker, cut links; then let everything heal, and send strangers away."""
        plan = self.plan
        todo = [(self.rng.uniform(0, plan.misfortune_s), "kill") for _ in range(plan.kills)]
        todo += [(self.rng.uniform(0, plan.misfortune_s), "broker") for _ in range(plan.broker_restarts)]
        todo += [(self.rng.uniform(0, plan.misfortune_s), "cut") for _ in range(plan.partitions)]
        loop = asyncio.get_running_loop()
        begin = loop.time()
        returns: list[asyncio.Task[None]] = []
        for at, what in sorted(todo):
            await asyncio.sleep(max(0.0, begin + at - loop.time()))
            if what == "broker":
                self.tell("the broker is restarted; what it held in memory is gone")
                self.broker.restart(wipe_memory=True)
                continue
            name = self.rng.choice(sorted(self.roles))
            if what == "cut":
                returns.append(asyncio.create_task(self._cut(name, self.rng.uniform(0.5, 12.0))))
            elif await self.kill(name):
                returns.append(asyncio.create_task(self._return(name, self.rng.uniform(0.05, 15.0))))
        for task in returns:
            await task
        await asyncio.sleep(max(0.0, begin + plan.misfortune_s - loop.time()))
        for kind in plan.strangers:
            await self.kill(kind)

    async def _cut(self, name: str, for_s: float) -> None:
        """Cut a role off the broker for a while."""
        self.tell(f"{name} is cut off")
        self.broker.partition(name)
        await asyncio.sleep(for_s)
        self.tell(f"{name} is reached again")
        self.broker.heal(name)

    # --- sessions ---

    def config(self) -> SessionConfig:
        """Return the sessions' settings.

        Rounds wait for all honest clients, so that the result does not depend on luck.
        """
        plan = self.plan
        return SessionConfig(
            rounds=plan.rounds,
            clients_min=len(plan.asked) + len(plan.rogues),
            quorum=max(1, len(plan.honest)),
            round_deadline_s=240.0 if "mute" in plan.rogues else 900.0,
            close_deadline_s=600.0,
            evaluate_deadline_s=60.0,
            evaluate_every=1 if plan.evaluate else 0,
            seed=plan.seed,
            sharding=plan.sharding,
            residency=plan.residency,
        )

    async def run(self) -> Report:
        """Live through the sessions, then judge."""
        async with (
            MemoryBus(self.broker, "engineer") as bus,
            Federation(bus, workers=Inline(), name="eve") as federation,
        ):
            await ensure_streams_patiently(bus, self.subjects)
            self._people()
            trouble = asyncio.create_task(self._misfortune())
            watch = asyncio.create_task(self._watch())
            sessions = [asyncio.create_task(self._session(federation, name)) for name in self.sessions]
            try:
                results = await self._results(sessions, watch)
            finally:
                for task in (trouble, watch, *sessions):
                    task.cancel()
                    await asyncio.wait([task])
            self.report.virtual_s = asyncio.get_running_loop().time()
            self.report.digests = {name: result.digest for name, result in results.items()}
            first = results[self.sessions[0]]
            self.report.outcome, self.report.digest = first.outcome, first.digest
            try:
                for name in self.sessions:
                    await self._judge(federation, name)
            except AssertionError as error:
                raise self.violation(str(error)) from error
            for role in self.roles.values():
                if role.task is not None:
                    role.task.cancel()
                    with suppress(asyncio.CancelledError, FedbusError):
                        await role.task
        return self.report

    async def _results(
        self, sessions: list[asyncio.Task[SessionResult]], watch: asyncio.Task[None]
    ) -> dict[str, SessionResult]:
        """Wait for all sessions, or until something is seen that must not be."""
        waiting = {*sessions}
        while waiting:
            left_s = LIMIT_S - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait({*waiting, watch}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                raise self.violation(str(watch.exception())) from watch.exception()
            if not done:
                raise self.violation("a session did not end")
            waiting -= done
        if self.failure is not None:
            raise self.violation(str(self.failure)) from self.failure
        try:
            return dict(zip(self.sessions, [task.result() for task in sessions], strict=True))
        except SessionFailed as error:
            raise self.violation(str(error)) from error

    async def _session(self, federation: Federation, name: str) -> SessionResult:
        model = initial(name, self.plan.values)
        while True:
            try:
                session = await federation.start_session(
                    self.config(), model=model, name=name, chunk_bytes=self.plan.chunk_bytes
                )
                return await session.wait()
            except (BusClosed, SessionFailed):
                raise
            except FedbusError as error:
                self.tell(f"the engineer tries again: {error}")
                await asyncio.sleep(5.0)

    async def _judge(self, federation: Federation, name: str) -> None:
        """Let a judge hear the session's journal, and look every version up that it names."""
        judge = Judge(self.plan, name, self.config(), self.known)
        entries = await federation.journal.read(name)
        for journalled in entries:
            for record in journalled.entry.unpack():
                judge.hear(record)
        begun_at = next(j.entry.at for j in entries if j.entry.records)
        ended_at = max(j.entry.at for j in entries)
        judge.finish(ended_at - begun_at)
        assert EPOCH <= begun_at <= ended_at, "the journal tells other times than the clock"
        if name == self.sessions[0]:
            self.report.rounds = judge.number
        self.report.counted += judge.counted
        for fact in judge.published:
            try:
                stored = await federation.models.get(fact.version)
            except NotFound as error:
                raise Violation(f"a published version cannot be found: {error}") from error
            assert model_digest(stored) == fact.digest, "the stored model is another"

    # --- what must hold all the time ---

    async def _watch(self) -> None:
        """Fail at once when a role ends by itself, and look at what waits as time goes by."""
        while True:
            await asyncio.sleep(1.0)
            if self.failure is not None:
                raise self.failure
            for role in self.roles.values():
                self._raise_if_ended(role)
            for coordinator in self.coordinators[-1:]:
                self._check_waits(coordinator)

    @staticmethod
    def _raise_if_ended(role: _Role) -> None:
        if role.task is not None and role.task.done() and not role.task.cancelled():
            error = role.task.exception()
            if error is not None:
                raise Violation(f"{role.name} ended with an error") from error
            raise Violation(f"{role.name} ended by itself")

    @staticmethod
    def _check_waits(coordinator: Coordinator) -> None:
        """A session under way waits for something, until some time, and says what happens then."""
        for name, machine in coordinator.machines.items():
            waits = machine.waits()
            if machine.state.phase not in (Phase.NEW, Phase.ENDED) and not waits:
                raise Violation(f"{name} waits, and does not say what for")
            for wait in waits:
                if not (wait.what and wait.then and wait.since_at < wait.until_at):
                    raise Violation(f"{name} does not say what for, until when, or what then: {wait}")

    def _watch_borders(self, message: Message) -> None:
        """With ``residency="require"`` no update leaves its region, whoever decides what and whenever."""
        tokens = message.subject.split(".")
        if self.plan.residency == "require" and tokens[2] in ("up", "chunk") and tokens[4] == "client":
            combiner, client = tokens[3], tokens[5]
            if combiner in self.plan.combiner_names and client in (*self.plan.client_names, *self.plan.rogue_names):
                there, home = self.plan.combiner_region(combiner), self.plan.client_region(client)
                if not contains(there, home):
                    self.fail(f"an update of {client} in {home!r} went to {combiner} in {there!r}")

    def violation(self, what: str) -> Violation:
        """Return the error with the seed and the story."""
        waits = [w for c in self.coordinators[-1:] for m in c.machines.values() for w in m.waits()]
        story = "\n".join([*self.report.story[-60:], *(f"waits: {wait.what} {wait.on}" for wait in waits)])
        return Violation(f"seed {self.plan.seed}: {what}\n{self.plan}\n{story}")


def _attributes(region: str) -> dict[str, str]:
    return {"region": region} if region else {}


async def ensure_streams_patiently(bus: MemoryBus, subjects: Subjects) -> None:
    """Create the streams on a bus that loses things."""
    while True:
        with suppress(FedbusError):
            await ensure_streams(bus, subjects)
            return
        await asyncio.sleep(1.0)
