"""Runs a client: tasks in; the owner's functions, uploads and reports out.

One inbox feeds one machine per session; fetching, the owner's functions and sending run as tasks of one group, and what
they learn comes back into the inbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np

from fedbus import telemetry
from fedbus.bus.base import Bus, Message, Subscription
from fedbus.client.app import (
    ClientApp,
    EvaluateTask,
    Model,
    TrainTask,
    Update,
    check_evaluation,
    check_update,
    is_async,
)
from fedbus.client.machine import (
    Effect,
    Event,
    Machine,
    Measured,
    Release,
    Report,
    Settled,
    StartEvaluating,
    StartSending,
    StartTraining,
    StopSending,
    StopWork,
    TaskSeen,
    Trained,
    WorkFailed,
)
from fedbus.client.newest import Fetched, NewestModel
from fedbus.clock import Clock
from fedbus.crash import Crash, Point
from fedbus.errors import BadUpdate, BusClosed, FedbusError
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.station import Station, hash_of
from fedbus.exchange.upload.service import Parcel, Upload
from fedbus.messages.ids import Peer
from fedbus.messages.tasks import Evaluate, Task, Train
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.store.models import ModelStore
from fedbus.telemetry import Kind, Telemetry
from fedbus.tensors import Manifest, Source
from fedbus.together import together
from fedbus.workers import Threads, Workers

log = logging.getLogger("fedbus.client")

HEARTBEAT_S = 5.0
"""How often a client says that it lives: some 200 a second of thousand clients, and known as gone after 28 s."""

REFRESH_S = 30.0
"""How often tasks are read again even if nothing seems to be missed."""

SESSIONS_MAX = 1000
"""Sessions that a client takes part in at once; those that ended are forgotten."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Who a client is and what it works with; ``workers`` None: threads of its own."""

    app: ClientApp
    peer: Peer
    workspace: str
    attributes: Mapping[str, str]
    clock: Clock
    traces: Telemetry
    incarnation: str
    workers: Workers | None
    crash: Crash


@dataclass(slots=True)
class _Held:
    """The update of a round, until its receipt."""

    round: int
    manifest: Manifest
    source: Source
    weight: float
    metrics: Mapping[str, float]
    fetched: int


@dataclass(slots=True)
class _Session:
    """What a session has in this process."""

    machine: Machine
    held: _Held | None = None
    headers: dict[str, str] = field(default_factory=dict)
    work: asyncio.Task[None] | None = None
    sending: asyncio.Task[None] | None = None
    upload: Upload | None = None


class Service:
    """One call of `Client.run`: everything that lives as long as it does."""

    def __init__(self, setup: Setup, bus: Bus, newest: NewestModel) -> None:
        self._app = setup.app
        self._name = setup.peer.name
        self._bus = bus
        self._newest = newest
        self._traces = setup.traces
        self._crash = setup.crash
        self._station = Station(
            bus,
            setup.workspace,
            setup.peer,
            setup.incarnation,
            setup.clock,
            heartbeat_s=HEARTBEAT_S,
            attributes=setup.attributes,
        )
        self._station.doing = self._doing
        self._subjects = self._station.subjects
        self._outbox = Outbox(self._station)
        self._ours = setup.workers is None
        self._workers: Workers = setup.workers or Threads(2, f"fedbus-{self._name}")
        # The owner's functions have a thread of their own: two never run at once, and a long training holds nobody up.
        self._app_thread: Workers = setup.workers or Threads(1, f"fedbus-{self._name}-app")
        self._app_lock = asyncio.Lock()
        self._store = ModelStore(bus, self._subjects, self._workers)
        self._inbox: asyncio.Queue[tuple[str, Event, dict[str, str]]] = asyncio.Queue()
        self._sessions: dict[str, _Session] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Take part until cancelled."""
        me = self._station.peer
        tasks = await self._station.listen(self._subjects.task(me.name))
        down = await self._station.listen(self._subjects.down(me))
        acks = await self._station.listen(self._subjects.ack(me))
        every_s = REFRESH_S * (1 + (hash_of(me.name) % 100) / 200)  # each client at its own time
        try:
            async with together() as group:
                self._group = group
                for work in (
                    self._station.present(),
                    self._outbox.run(),
                    self._hear_tasks(tasks),
                    self._hear_states(down),
                    self._outbox.hear(acks),
                    self._station.read_board(self._subjects.task(me.name), self._take_task, every_s),
                    self._decide(),
                ):
                    group.create_task(work)
        finally:
            with suppress(FedbusError):
                await self._station.leave()
            for subscription in (tasks, down, acks):
                await subscription.close()
            if self._ours:
                self._workers.close()
                self._app_thread.close()

    def _doing(self) -> str:
        phases = {name: session.machine.phase.value for name, session in self._sessions.items()}
        return ", ".join(f"{phase} for {name}" for name, phase in phases.items() if phase != "idle") or "idle"

    # --- what comes in ---

    async def _hear_tasks(self, tasks: Subscription) -> None:
        async for message in tasks:
            self._take_task(message)

    def _take_task(self, message: Message) -> None:
        heard = self._station.read(message)
        if heard is not None and isinstance(heard.envelope.body, Task):
            task = heard.envelope.body
            self._inbox.put_nowait((task.session, TaskSeen(task), dict(message.headers)))

    async def _hear_states(self, down: Subscription) -> None:
        async for heard in self._station.hear(down):
            state = heard.envelope.body
            if isinstance(state, UploadState):
                combiner = self._subjects.tokens(heard.message.subject, "down", 3)[2]
                session = self._sessions.get(state.session)
                if session is not None and session.upload is not None and session.upload.combiner == combiner:
                    session.upload.hear(state)

    # --- deciding ---

    async def _decide(self) -> None:
        sessions = self._sessions
        while True:
            name, event, headers = await self._inbox.get()
            session = sessions.get(name)
            if session is None:
                if not isinstance(event, TaskSeen) or event.task.state == "ended" or len(sessions) >= SESSIONS_MAX:
                    continue
                session = sessions[name] = _Session(Machine(name))
            if isinstance(event, TaskSeen) and headers:
                session.headers = headers
            effects = session.machine.handle(event)
            session.machine.check()
            for effect in effects:
                await self._act(session, effect)
            if isinstance(event, TaskSeen) and event.task.state == "ended":
                await self._stop(session.work)
                await self._stop(session.sending)
                del sessions[name]

    async def _act(self, session: _Session, effect: Effect) -> None:
        group = self._group
        assert group is not None
        match effect:
            case StartTraining(train, work):
                session.work = group.create_task(self._train(session, train, work))
            case StartEvaluating(evaluate):
                session.work = group.create_task(self._evaluate(session, evaluate))
            case StopWork():
                await self._stop(session.work)
            case StartSending(train):
                session.sending = group.create_task(self._send(session, train))
            case StopSending():
                await self._stop(session.sending)
            case Release(round_, counted, reason):
                self._release(session, round_, counted=counted, reason=reason)
            case Report(body):
                await self._outbox.put(body, session.headers)
            case _:
                assert_never(effect)

    @staticmethod
    async def _stop(task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    def _release(self, session: _Session, round_: int, *, counted: bool, reason: str) -> None:
        if session.held is not None and session.held.round == round_:
            session.held = None
        text = "counts" if counted else f"does not count: {reason}"
        log.info("%s: %s: the update of round %d %s", self._name, session.machine.session, round_, text)

    def _tell(self, session: _Session, event: Event) -> None:
        self._inbox.put_nowait((session.machine.session, event, {}))

    # --- working ---

    async def _train(self, session: _Session, train: Train, work: int) -> None:
        """Fetch, train, prepare the update."""
        name = session.machine.session
        stage = "fetch"
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: name,
            telemetry.ROUND: train.round,
            telemetry.CLIENT: self._name,
            telemetry.MODEL_VERSION: train.version,
        }
        try:
            fetched = await self._fetch(session, train, attributes)
            stage = "train"
            function = self._function("train")
            task = TrainTask(name, train.round, train.config, train.seed, train.deadline_at)
            with self._traces.span("train", parent=session.headers, attributes=attributes) as span:
                update = check_update(await self._call(function, fetched.model, task))
                span.set(telemetry.WEIGHT, update.weight)
                held = await self._workers.run(_prepare, fetched, update, train)
        except BusClosed:
            raise  # terminal: the client ends, nobody retries
        except Exception as error:  # noqa: BLE001 - the one broad except: the owner's function may raise anything
            self._failed(session, train.round, stage, error, work)
            return
        session.held = held
        self._crash(Point.UPDATE_MADE)
        self._tell(session, Trained(train.round, work))

    async def _evaluate(self, session: _Session, evaluate: Evaluate) -> None:
        """Fetch, evaluate, report."""
        name = session.machine.session
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: name,
            telemetry.ROUND: evaluate.round,
            telemetry.CLIENT: self._name,
            telemetry.MODEL_VERSION: evaluate.version,
        }
        try:
            function = self._function("evaluate")
            fetched = await self._fetch(session, evaluate, attributes)
            task = EvaluateTask(name, evaluate.round, evaluate.config, evaluate.seed, evaluate.deadline_at)
            with self._traces.span("evaluate", parent=session.headers, attributes=attributes):
                found = check_evaluation(await self._call(function, fetched.model, task))
        except BusClosed:
            raise
        except Exception as error:  # noqa: BLE001 - as in _train
            self._failed(session, evaluate.round, "evaluate", error)
            return
        self._tell(
            session, Measured(evaluate.round, evaluate.version, found.weight, dict(found.metrics), fetched.nbytes)
        )

    def _failed(self, session: _Session, round_: int, stage: str, error: Exception, work: int = 0) -> None:
        """Report why the task could not be done; the traceback stays here, with the owner."""
        ours = isinstance(error, FedbusError)
        reason = str(error) if ours else f"{type(error).__name__}: {error}"
        quiet = ours and stage == "evaluate"
        log.log(
            logging.DEBUG if quiet else logging.WARNING,
            "%s: %s: round %d: %s failed: %s",
            self._name,
            session.machine.session,
            round_,
            stage,
            reason,
            exc_info=None if ours else error,
        )
        self._tell(session, WorkFailed(round_, stage, reason[:2000], work))

    def _function(self, what: str) -> Callable[..., Any]:
        """Return one of the owner's functions."""
        function = self._app.functions.get(what)
        if function is None:
            raise BadUpdate(f"this client's app has no @app.{what} function")
        return function

    async def _fetch(
        self, session: _Session, task: Train | Evaluate, attributes: Mapping[str, telemetry.AttributeValue]
    ) -> Fetched:
        """Fetch the model of a task, unless it is here."""
        subject = self._subjects.blob(task.blob)
        messages = telemetry.messaging("fetch", "receive", subject, self._name, 0)
        with self._traces.span(
            "fetch model", parent=session.headers, attributes={**attributes, **messages}, kind=Kind.CLIENT
        ) as span:
            fetched = await self._newest.fetch(self._store, task.blob, task.version)
            span.set(telemetry.BYTES, fetched.nbytes)
            if fetched.nbytes:
                span.set(telemetry.MESSAGING_BATCH_COUNT, fetched.manifest.layout.count)
        return fetched

    async def _call(self, function: Callable[..., Any], model: Model, task: TrainTask | EvaluateTask) -> object:
        """Run the owner's function, one at a time."""
        async with self._app_lock:
            result = function(model, task) if is_async(function) else await self._app_thread.run(function, model, task)
            return await result if asyncio.iscoroutine(result) or isinstance(result, asyncio.Future) else result

    async def _send(self, session: _Session, train: Train) -> None:
        """Send the held update to the combiner of the task; verdicts come back as events."""
        held = session.held
        assert held is not None and held.round == train.round
        begin = UploadBegin(
            session=session.machine.session,
            round=train.round,
            attempt=train.attempt,
            spec=held.manifest.spec.digest,
            digest=held.manifest.digest,
            nbytes=held.manifest.spec.nbytes,
            chunks=held.manifest.layout.count,
            weight=held.weight,
            metrics=dict(held.metrics),
            fetched=held.fetched,
        )
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: begin.session,
            telemetry.ROUND: train.round,
            telemetry.ATTEMPT: train.attempt,
            telemetry.CLIENT: self._name,
            telemetry.COMBINER: train.combiner,
            telemetry.WEIGHT: begin.weight,
            telemetry.BYTES: begin.nbytes,
            telemetry.CHUNKS: begin.chunks,
            **telemetry.messaging(
                "upload", "send", self._subjects.up(train.combiner, self._station.peer), self._name, begin.chunks
            ),
        }
        with self._traces.span("upload", parent=session.headers, attributes=attributes, kind=Kind.PRODUCER) as span:
            headers = span.headers or session.headers
            parcel = Parcel(begin, held.source.chunk, held.manifest.chunk_digests)
            upload = session.upload = Upload(self._station, train.combiner, parcel, headers, self._crash)
            try:
                outcome = await upload.run()
            finally:
                if session.upload is upload:
                    session.upload = None
            span.set(telemetry.RETRANSMITTED, outcome.resent)
            span.set(telemetry.VERDICT, "accepted" if outcome.accepted else "refused")
            if not outcome.accepted:
                span.fail(outcome.reason)
                log.warning(
                    "%s: %s: the update of round %d was refused: %s",
                    self._name,
                    begin.session,
                    train.round,
                    outcome.reason,
                )
        self._tell(session, Settled(train.round, train.attempt, outcome.accepted, outcome.reason))


def _prepare(fetched: Fetched, update: Update, train: Train) -> _Held:
    """Check an update against the model and digest it; in the model's order of arrays, whatever the app's was.

    The arrays are copied: the app may go on to write into its own while we may still have to send these again.
    """
    if not update.weight <= train.weight_max:
        raise BadUpdate(f"expected a weight of at most {train.weight_max:g} (weight_max), got {update.weight}")
    base = fetched.manifest
    base.spec.check(update.arrays)
    arrays = {array.name: np.array(update.arrays[array.name], order="C") for array in base.spec.arrays}
    manifest = Manifest.of(arrays, base.chunk_bytes)
    source = Source(manifest.layout, arrays)
    return _Held(train.round, manifest, source, update.weight, update.metrics, fetched.nbytes)
