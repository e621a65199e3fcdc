"""Whole federations in one process, from one seed, under virtual time: the real roles, the memory bus, misfortune.

`simulate(seed)` makes a world (`fedbus.testing.plan`: who takes part, where, and what goes wrong, all drawn from the
seed), runs its sessions, and lets `fedbus.testing.judge` say whether what must hold does: every published model is what
the strategy makes of updates of that round, each at most once, bit for bit; versions form one chain; every round ends;
the session ends in bounded time. A violation raises `Violation` with the seed and the story.
"""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import suppress

import numpy as np

from fedbus.bus.base import Message
from fedbus.bus.memory import MemoryBus
from fedbus.client.app import ClientApp, EvaluateTask, Evaluation, Model, TrainTask, Update
from fedbus.client.client import Client, Crowd
from fedbus.client.state import Memory as State
from fedbus.combiner.service import Combiner
from fedbus.config.session import SessionConfig
from fedbus.coordinator.service import Coordinator
from fedbus.coordinator.state import Phase
from fedbus.errors import BusClosed, FedbusError, NotFound, SessionFailed
from fedbus.federation.service import Federation, SessionResult
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import entry_of
from fedbus.store.spool import Memory, Spool
from fedbus.store.streams import ensure_streams
from fedbus.tensors import model_digest
from fedbus.testing.bounds import check_bounds
from fedbus.testing.learning import Arrays, initial, payload_of, update_of
from fedbus.testing.lives import Lives, Report, Role, Start, Violation, loop_of_world
from fedbus.testing.loop import EPOCH, Deadlock, VirtualClock, run_virtual
from fedbus.testing.plan import CLIENT, Plan, contains
from fedbus.testing.rogues import Rogue
from fedbus.testing.strangers import Garbler, Parrot
from fedbus.testing.witness import Witness
from fedbus.workers import Inline

GONE = re.compile("came back without|is not stored|is stored")
"""How a session says that it cannot go on without what went with the broker."""

MUTE_DEADLINE_S = 150.0
"""Every round waits so long for who never answers: until all misfortune is over and everybody else has sent."""

LIMIT_S = 4 * 3600.0
"""Virtual time in which every world must have ended; its own deadlines end it long before."""


def simulate(seed: int, plan: Plan | None = None) -> Report:
    """Run one world, that of a seed or of a plan; returns what happened, or raises `Violation` with seed and story."""
    world = World(plan or Plan.draw(seed))
    try:
        return run_virtual(world.run())
    except Deadlock as error:
        world.is_alive = False
        raise world.violation(str(error)) from error


class World(Lives):
    """One world. ``living``: the roles by name as they were born last; ``coordinators``: all that were ever born."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.subjects = Subjects("default")
        self.broker.watchers.append(self._watch_borders)
        self.sessions = tuple("world" + (f"-{index}" if index else "") for index in range(plan.sessions))
        self.coordinators: list[Coordinator] = []
        self.living: dict[str, object] = {}
        self.known: dict[tuple[str, int, str], list[Arrays]] = {}
        self.spools: dict[str, dict[str, Spool]] = {}
        self.state = State() if plan.states_kept else None
        self.witness = Witness(
            plan, self.subjects, self.sessions, self.config(), self.known, lambda: loop_of_world().time(), self.fail
        )
        self.broker.witnesses.append(self.witness.hear)
        self.is_alive = False
        self.failed_sessions: set[str] = set()

    def clock(self, role: str) -> VirtualClock:
        """Return the clock of a role's machine."""
        return VirtualClock(self.plan.skew_of(role))

    def wiped(self) -> None:
        """Hear that all that was stored is about to be gone."""
        super().wiped()
        self.witness.wiped()

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
            if self.plan.is_payload and not (bad and task.round % 3):
                return Update(weight=weight, payload=payload_of(arrays))
            return Update(arrays, weight, {"loss": weight, "local_steps": 1 + weight % 7})

        if self.plan.evaluate:

            @app.evaluate
            async def evaluate(model: Model, task: EvaluateTask) -> Evaluation:
                return Evaluation(1.0, {"sum": float(np.sum(model["b"]))})

        return app

    # --- people ---

    def _people(self) -> None:
        plan = self.plan
        for name in plan.combiner_names:
            self.add(name, self._combiner(name))
        for name in plan.coordinator_names:
            self.add(name, self._coordinator(name))
        for first, count in plan.crowd_ranges:
            self.add(f"{CLIENT}{first}+{count}", self._crowd(first, count))
        for name in plan.alone:
            self.add(name, self._client(name))
        for name, kind in zip(plan.rogue_names, plan.rogues, strict=True):
            self.add(name, self._rogue(name, kind))
        for kind in plan.strangers:
            self.add(kind, self._stranger(kind))

    def _coordinator(self, name: str) -> Start:
        async def start(bus: MemoryBus, birth: int) -> None:
            coordinator = Coordinator(
                bus,
                name=name,
                incarnation=f"{name}-{birth}",
                workspace="default",
                clock=self.clock(name),
                workers=Inline(),
                crash=self.crash(name, bus),
            )
            self.coordinators.append(coordinator)
            self.living[name] = coordinator
            await coordinator.run()

        return start

    def _combiner(self, name: str) -> Start:
        async def start(bus: MemoryBus, birth: int) -> None:
            kept, spools = self.plan.spools_kept, self.spools.setdefault(name, {})
            combiner = self.living[name] = Combiner(
                bus,
                name=name,
                incarnation=f"{name}-1" if kept else f"{name}-{birth}",
                life=birth if kept else 1,
                left=tuple(spools) if kept else (),
                workspace="default",
                clock=self.clock(name),
                workers=Inline(),
                make_spool=lambda session: self.spool(name, session),
                attributes=_attributes(self.plan.combiner_region(name)),
                crash=self.crash(name, bus),
            )
            await combiner.run()

        return start

    def spool(self, combiner: str, session: str) -> Spool:
        """Return a place where a combiner keeps a session's updates: its former life's, if that survives."""
        spools = self.spools[combiner]
        if not self.plan.spools_kept or session not in spools:
            spools[session] = Memory()
        return spools[session]

    def _client(self, name: str) -> Start:
        async def start(bus: MemoryBus, birth: int) -> None:
            client = Client(
                bus,
                self.app(birth),
                name=name,
                attributes=_attributes(self.plan.client_region(name)),
                clock=self.clock(name),
                workers=Inline(),
                incarnation=f"{name}-{birth}",
                crash=self.crash(name, bus),
                state=self.state,
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
                clock=self.clock(name),
                workers=Inline(),
                incarnation=f"crowd{first}-{birth}",
                crash=self.crash(name, bus),
                state=self.state,
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
                clock=self.clock(name),
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

    # --- sessions ---

    def config(self) -> SessionConfig:
        """Return the sessions' settings.

        Rounds wait for all honest clients, so that the result does not depend on luck.
        """
        plan = self.plan
        return SessionConfig(
            rounds=plan.rounds,
            clients_min=len(plan.asked) + len(plan.rogues),
            quorum=1 if plan.is_hurried else max(1, len(plan.honest)),
            round_deadline_s=MUTE_DEADLINE_S if "mute" in plan.rogues else plan.round_deadline_s,
            round_attempts_max=1000 if plan.is_hurried else 3,
            late_updates=plan.late_updates,
            close_deadline_s=600.0,
            evaluate_deadline_s=60.0,
            evaluate_every=1 if plan.evaluate else 0,
            seed=plan.seed,
            sharding=plan.sharding,
            residency=plan.residency,
            strategy=plan.strategy,
            strategy_options=dict(plan.options),
            codec=plan.codec,
            downlink=plan.downlink,
            lossless=plan.lossless,
        )

    async def run(self) -> Report:
        """Live through the sessions, then judge."""
        self.is_alive = True
        async with (
            MemoryBus(self.broker, "engineer") as bus,
            Federation(bus, workers=Inline(), name="eve") as federation,
        ):
            await ensure_streams_patiently(bus, self.subjects)
            self._people()
            trouble = asyncio.create_task(self.misfortune())
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
            first = results.get(self.sessions[0])
            self.report.outcome, self.report.digest = (first.outcome, first.digest) if first else ("failed", "")
            try:
                for name in self.sessions:
                    await self._judge(federation, name)
                    if self.failure is not None:
                        raise self.failure
            except AssertionError as error:
                raise self.violation(str(error)) from error
            loop_of_world().thaw_all()  # who stands still has to be able to end too
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
        found: dict[str, SessionResult] = {}
        for name, task in zip(self.sessions, sessions, strict=True):
            try:
                found[name] = task.result()
            except SessionFailed as error:
                self._excuse(name, error)
        return found

    def _excuse(self, session: str, error: SessionFailed) -> None:
        """A session may fail where the broker came back empty, if it says what is gone."""
        if not (self.wipes and GONE.search(str(error))):
            raise self.violation(str(error)) from error
        self.tell(f"{session} has failed: {error}")
        self.failed_sessions.add(session)

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
        """See that the session's journal is what its judge has heard, and look every version up that it names."""
        entries = await federation.journal.read(name)
        found = [(entry.entry.at, entry.entry.records) for entry in entries]
        heard = [entry_of(Message(name, data)) for data in self.witness.journal(name)]
        assert found == [(entry.at, entry.records) for entry in heard], "the journal is not what was written into it"
        judge = self.witness.judge(name)
        if name in self.failed_sessions:
            return
        judge.finish()
        times = [entry.at for entry in heard if entry.records]
        assert times == sorted(times), "the journal's time goes back"
        if not self.plan.skew_s:
            assert times[0] >= EPOCH, "the journal tells other times than the clock"
        if name == self.sessions[0]:
            self.report.rounds = judge.number
        self.report.counted += judge.counted
        self.report.stale += judge.stale
        for fact in judge.published:
            try:
                stored = await federation.models.get(fact.version)
            except NotFound as error:
                if self.wipes:
                    continue  # it went with the broker
                raise Violation(f"a published version cannot be found: {error}") from error
            assert model_digest(stored) == fact.digest, "the stored model is another"

    # --- what must hold all the time ---

    async def _watch(self) -> None:
        """Fail at once when a role ends by itself, and look at what waits as time goes by."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.failed.wait()
            if self.failure is not None:
                raise self.failure
            for role in self.roles.values():
                self._raise_if_ended(role)
            self.witness.look()
            check_bounds(self.plan, self.broker, self.subjects, self.living)
            for coordinator in self.leading:
                self._check_waits(coordinator)

    @property
    def leading(self) -> list[Coordinator]:
        """The coordinators that live, are not frozen, and believe to lead."""
        living = [(name, self.living.get(name)) for name in self.plan.coordinator_names if self.roles[name].task]
        return [
            one
            for name, one in living
            if isinstance(one, Coordinator) and getattr(one, "leads", True) and not loop_of_world().is_frozen(name)
        ]

    @staticmethod
    def _raise_if_ended(role: Role) -> None:
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
        leading = self.leading if self.is_alive else []
        waits = [w for c in leading for m in c.machines.values() for w in m.waits()]
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
