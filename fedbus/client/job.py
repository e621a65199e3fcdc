"""One job: a model fetched, one of the owner's functions called, what it returned checked, copied and digested.

What the function raises, or what is wrong with what it returned, becomes the reason why its client does not take part;
only a bus that is closed for good is everybody's concern. When jobs are done, and for whom, is decided in `work`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np

from fedbus import telemetry
from fedbus.access.signing import ModelVerifier
from fedbus.client.app import (
    NOTHING,
    ClientApp,
    DataTask,
    EvaluateTask,
    Model,
    TrainTask,
    Update,
    check_evaluation,
    check_update,
    is_async,
)
from fedbus.client.events import Event, Measured, Trained, WorkFailed
from fedbus.client.held import Held, prepare
from fedbus.client.keepsake import Keepsake, Keepsakes
from fedbus.client.newest import Fetched, NewestModel
from fedbus.client.queries import answer, columns_of
from fedbus.client.shelf import Shelf
from fedbus.crash import Crash
from fedbus.errors import BadUpdate, BusClosed, FedbusError
from fedbus.messages.ids import Spent
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Evaluate, Train
from fedbus.store.models import ModelStore
from fedbus.store.sealing import GivenKeys
from fedbus.telemetry import Kind, Span, Telemetry
from fedbus.tensors import Manifest
from fedbus.workers import Workers

log = logging.getLogger("fedbus.client")

SMALL_BYTES_MAX = 64 * 1024
"""Up to here an update that was made on the loop is digested there: 25 us for 10 KB, less than the way to a thread."""

NO_MODEL = Fetched(Model({}), Manifest.of({"nothing": np.zeros(1, np.uint8)}), 0)
"""What is fetched for a question about data."""

FAILURES_SHOWN = 100
"""Failures logged one by one; of more, each hundredth: thousands of clients may fail alike."""


@dataclass(slots=True, eq=False)
class Job:
    """One thing to be done for one client in one session; ``work`` is that of the `StartTraining`.

    ``since``: when its task came; ``fetch_s``: how long its model took; ``called``: when its function was. By the time
    of the loop.
    """

    client: str
    session: str
    task: Train | Evaluate
    work: int
    headers: Mapping[str, str]
    dropped: bool = False
    since: float = 0.0
    fetch_s: float = 0.0
    called: float = 0.0

    @property
    def function(self) -> str:
        """Which of the owner's functions it takes."""
        if isinstance(self.task, Train):
            return "train"
        return "data" if self.task.queries else "evaluate"

    @property
    def stage(self) -> str:
        """What it is to those who read why it failed."""
        return "train" if isinstance(self.task, Train) else "evaluate"

    def spent(self, now: float) -> Spent:
        """Where the time has gone until its update is made, which is ``now``."""
        wait_s = self.called - self.since - self.fetch_s
        return Spent(max(wait_s, 0.0), self.fetch_s, max(now - self.called, 0.0))

    def is_like(self, other: Job) -> bool:
        """Whether both want the same of the same model."""
        return self.task.blob == other.task.blob and self.function == other.function


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a job: what the machine is to know, and the update where it is one."""

    job: Job
    event: Event
    held: Held | None = None

    @property
    def fetched(self) -> int:
        """Bytes of the model that were fetched for it."""
        return self.held.fetched if self.held is not None else getattr(self.event, "fetched", 0)

    def leave(self) -> None:
        """Nobody wants it: its place is free."""
        if self.held is not None:
            self.held.leave()


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A plain function gave something to be awaited."""

    result: Awaitable[object]


@dataclass(frozen=True, slots=True)
class Means:
    """What work is done with: ``thread`` runs the owner's functions, ``workers`` what is ours.

    ``models``: knows what the workspace has published; None where it does not sign.
    """

    store: ModelStore
    newest: NewestModel
    subjects: Subjects
    shelf: Shelf
    workers: Workers
    thread: Workers
    traces: Telemetry
    crash: Crash
    keepsakes: Keepsakes = field(default_factory=Keepsakes)
    models: ModelVerifier | None = None
    keys: GivenKeys = field(default_factory=GivenKeys)


class Functions:
    """The owner's functions, called for jobs."""

    def __init__(self, app: ClientApp, means: Means) -> None:
        self._functions = app.functions
        self._async = {name for name, function in self._functions.items() if is_async(function)}
        self._means = means
        self._failures = 0

    def is_async(self, job: Job) -> bool:
        """Whether its function is to be awaited."""
        return job.function in self._async

    async def fetch(self, job: Job) -> Fetched | Made:
        """Fetch the model of a job, unless it is here; what it failed of where it cannot be had."""
        means, function = self._means, job.function
        if function not in self._functions:
            return self.failed(job, job.stage, BadUpdate(f"this client's app has no @app.{function} function"))
        if function == "data":
            return NO_MODEL
        try:
            with means.traces.span(
                "fetch model", parent=job.headers, attributes=self._fetching(job), kind=Kind.CLIENT
            ) as span:
                aside = isinstance(job.task, Evaluate) and job.task.aside
                means.keys.give(job.task.blob, job.task.key)
                task, wanted = job.task, self._signed_digest(job.task)
                fetched = await means.newest.fetch(means.store, task.blob, task.version, aside=aside, digest=wanted)
                span.set(telemetry.BYTES, fetched.nbytes)
                if fetched.nbytes:
                    span.set(telemetry.MESSAGING_BATCH_COUNT, fetched.manifest.layout.count)
                return fetched
        except BusClosed:
            raise  # terminal: the client ends, nobody retries
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
            return self.failed(job, "fetch" if function == "train" else job.stage, error)

    def _signed_digest(self, task: Train | Evaluate) -> str:
        """Return the digest that the model must have; `BadMessage` where the workspace has not signed it."""
        models = self._means.models
        if models is None:
            return ""
        models.check(task.version, task.digest, task.signature)
        return task.digest

    def call(self, job: Job, fetched: Fetched) -> Made | Unfinished:
        """Call a plain function where we are."""
        try:
            with self._span(job) as span:
                result = self._begin(job, fetched, None if job.function == "data" else self._keepsake(job))
                if _is_awaitable(result):
                    self._async.add(job.function)  # from now on it is known
                    return Unfinished(result)
                return self._check(job, fetched, result, span)
        except Exception as error:  # noqa: BLE001 - the one broad except: the owner's function may raise anything
            return self.failed(job, job.stage, error)

    async def finish(self, job: Job, fetched: Fetched, begun: Awaitable[object] | None = None) -> Made:
        """Call a function on the loop, unless its call has ``begun``, and await what it gives."""
        try:
            with self._span(job) as span:
                result = begun or await self._begun(job, fetched)
                if _is_awaitable(result):
                    result = await result
                if fetched.manifest.spec.nbytes <= SMALL_BYTES_MAX and not self._copies_more(job, result):
                    return self._check(job, fetched, result, span)
                return await _kept(self._means.workers.run(self._check, job, fetched, result, span))
        except BusClosed:
            raise
        except Exception as error:  # noqa: BLE001 - as in `call`
            return self.failed(job, job.stage, error)

    def _keepsake(self, job: Job) -> Keepsake | None:
        return self._means.keepsakes.of(job.client, job.session)

    async def _begun(self, job: Job, fetched: Fetched) -> object:
        """Call a function on the loop; what is kept is read from its place in a thread."""
        kept = None if job.function == "data" else self._keepsake(job)
        if kept is None:
            return self._begin(job, fetched, None)
        task = await self._means.workers.run(_task, job, kept)
        return self._functions[job.function](fetched.model, task)

    def _begin(self, job: Job, fetched: Fetched, kept: Keepsake | None) -> object:
        """Call a function; the one that gives data is told what is asked, and gets no model."""
        if isinstance(job.task, Evaluate) and job.task.queries:
            return self._functions["data"](_data_task(job, job.task))
        return self._functions[job.function](fetched.model, _task(job, kept))

    def _copies_more(self, job: Job, result: object) -> bool:
        """Whether there is more to copy, or to count, than a model of this size."""
        if job.function == "data":
            return True
        kept = self._keepsake(job)
        if kept is not None and kept.nbytes > SMALL_BYTES_MAX:
            return True
        return isinstance(result, Update) and (result.keep is not None or result.payload is not None)

    def _check(self, job: Job, fetched: Fetched, result: object, span: Span) -> Made:
        """Take what a function returned for what it should be."""
        task = job.task
        if isinstance(task, Train):
            update = check_update(result)
            span.set(telemetry.WEIGHT, update.weight)
            held = prepare(fetched, update, task, self._means.shelf, self._keepsake(job))
            return Made(job, Trained(task.round, job.work), held)
        if task.queries:
            sums = answer(task.queries, result)
            return Made(job, Measured(task.round, task.version, 1.0, {}, fetched.nbytes, sums))
        found = check_evaluation(result)
        measured = Measured(
            task.round, task.version, found.weight, dict(found.metrics), fetched.nbytes, dict(found.sums)
        )
        return Made(job, measured)

    def failed(self, job: Job, stage: str, error: Exception) -> Made:
        """Report why a job could not be done; the traceback stays here, with the owner."""
        ours = isinstance(error, FedbusError)
        reason = str(error) if ours else f"{type(error).__name__}: {error}"
        self._failures += 1
        if self._failures <= FAILURES_SHOWN or self._failures % FAILURES_SHOWN == 0:
            log.log(
                logging.DEBUG if ours and stage == "evaluate" else logging.WARNING,
                "%s: %s: round %d: %s failed: %s",
                job.client,
                job.session,
                job.task.round,
                stage,
                reason,
                exc_info=None if ours else error,
            )
        return Made(job, WorkFailed(job.task.round, stage, reason[:2000], job.work))

    # --- traces ---

    def _span(self, job: Job) -> AbstractContextManager[Span]:
        return self._means.traces.span(job.function, parent=job.headers, attributes=self._attributes(job))

    def _attributes(self, job: Job) -> dict[str, telemetry.AttributeValue] | None:
        if not self._means.traces.enabled:
            return None
        return {
            telemetry.SESSION: job.session,
            telemetry.ROUND: job.task.round,
            telemetry.CLIENT: job.client,
            telemetry.MODEL_VERSION: job.task.version,
        }

    def _fetching(self, job: Job) -> dict[str, telemetry.AttributeValue] | None:
        attributes = self._attributes(job)
        if attributes is None:
            return None
        subject = self._means.subjects.blob(job.task.blob)
        return attributes | telemetry.messaging("fetch", "receive", subject, job.client, 0)


def _task(job: Job, keepsake: Keepsake | None) -> TrainTask | EvaluateTask:
    task, kind = job.task, TrainTask if isinstance(job.task, Train) else EvaluateTask
    kept = NOTHING if keepsake is None else keepsake.arrays()
    return kind(job.session, task.round, task.config, task.seed, task.deadline_at, job.client, kept)


def _data_task(job: Job, task: Evaluate) -> DataTask:
    return DataTask(job.session, columns_of(task.queries), task.config, task.deadline_at, job.client)


def _is_awaitable(result: object) -> TypeGuard[Awaitable[object]]:
    return asyncio.iscoroutine(result) or isinstance(result, asyncio.Future)


async def _kept(checking: Awaitable[Made]) -> Made:
    """Await an update that is being made; where nobody wants it any more its place is left when it is there."""
    task = asyncio.ensure_future(checking)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_leave)
        raise


def _leave(task: asyncio.Future[Made]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().leave()
