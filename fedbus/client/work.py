"""The owner's functions and when they are called: jobs in, updates and evaluations out.

Plain functions run one at a time, in one thread, whatever the number of clients: several short ones in one hop to the
thread, for a hop costs more than many a small update. Async functions run on the loop, of up to `ALONGSIDE_MAX` clients
at once; never two of one client. What a function returns is checked, copied and digested where it ran.

Nobody trains far ahead of what is sent: a job waits while as many updates of its session are under way as
`updates_under_way_max` allows. No session waits for another one's uploads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from fedbus import telemetry
from fedbus.client.app import ClientApp, EvaluateTask, TrainTask, check_evaluation, check_update, is_async
from fedbus.client.held import Held, prepare
from fedbus.client.machine import Event, Measured, Trained, WorkFailed
from fedbus.client.newest import Fetched, NewestModel
from fedbus.client.shelf import Shelf
from fedbus.crash import Crash, Point
from fedbus.errors import BadUpdate, BusClosed, FedbusError
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Evaluate, Train
from fedbus.store.models import ModelStore
from fedbus.telemetry import Kind, Span, Telemetry
from fedbus.workers import Workers

log = logging.getLogger("fedbus.client")

ALONGSIDE_MAX = 8
"""Clients of a crowd whose async function is under way at once: enough for a pool of processes behind it."""

BATCH_S = 0.01
"""After so long the thread hands on what it has made: a hop costs 0.1 ms, and others must not wait for long."""

BATCH_MAX = 64
"""Jobs of one hop at most."""

UNDER_WAY_BYTES_MAX = 32 * 2**20
UNDER_WAY_MAX = 256
"""Updates of a session made and not yet accepted: large ones few, small ones as many as keep the line busy, and fewer
than a combiner lets wait (32 MiB of announcements, of all its clients)."""

SMALL_BYTES_MAX = 64 * 1024
"""Up to here an update is digested on the loop where it was made there: 20 us, less than the way to a thread."""

FAILURES_SHOWN = 100
"""Failures logged one by one; of more, each hundredth: thousands of clients may fail alike."""


def updates_under_way_max(nbytes: int) -> int:
    """Return how many updates of a size are made ahead of their verdicts; two, however large, so that one is sent."""
    return max(2, min(UNDER_WAY_MAX, UNDER_WAY_BYTES_MAX // max(nbytes, 1)))


@dataclass(slots=True, eq=False)
class Job:
    """One thing to be done for one client in one session; ``work`` is that of the `StartTraining`."""

    client: str
    session: str
    task: Train | Evaluate
    work: int
    headers: Mapping[str, str]
    dropped: bool = False
    batch: _Batch | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    """Jobs that are being done; ``interruptible``: not while they are in the thread."""

    jobs: list[Job]
    task: asyncio.Task[None] | None = None
    interruptible: bool = True


@dataclass(slots=True, eq=False)
class _Queue:
    """The jobs of a session that wait; ``nbytes``: of an update, once it is known."""

    jobs: deque[Job] = field(default_factory=deque)
    nbytes: int = UNDER_WAY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a job: what the machine is to know, and the update where it is one."""

    job: Job
    event: Event
    held: Held | None = None

    def leave(self) -> None:
        """Nobody wants it: its place is free."""
        if self.held is not None:
            self.held.place.leave()


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A plain function gave something to be awaited."""

    result: Awaitable[object]


@dataclass(frozen=True, slots=True)
class Means:
    """What work is done with: ``thread`` runs the owner's functions, ``workers`` what is ours."""

    store: ModelStore
    newest: NewestModel
    subjects: Subjects
    shelf: Shelf
    workers: Workers
    thread: Workers
    traces: Telemetry
    crash: Crash


class Workshop:
    """Does the jobs of all clients of a process.

    ``tell`` is called on the loop with what was made, and with None when a place became free: whoever is told calls
    `schedule` when he has taken it in. ``under_way(session)``: updates that were handed on and have no verdict yet.
    """

    def __init__(
        self,
        app: ClientApp,
        means: Means,
        tell: Callable[[Made | None], None],
        under_way: Callable[[str], int],
    ) -> None:
        self._functions = app.functions
        self._async = {name for name, function in self._functions.items() if is_async(function)}
        self._means = means
        self._tell = tell
        self._under_way = under_way
        self._queues: dict[str, _Queue] = {}
        self._busy: set[str] = set()
        self._threaded = False
        self._failures = 0

    def add(self, job: Job) -> None:
        """Take a job; it is begun by `schedule`."""
        self._queues.setdefault(job.session, _Queue()).jobs.append(job)

    @staticmethod
    def drop(job: Job) -> None:
        """Give a job up: nothing is told of it any more. A plain function that runs, runs to its end."""
        job.dropped = True
        batch = job.batch
        if batch is not None and batch.interruptible and batch.task is not None and all(j.dropped for j in batch.jobs):
            batch.task.cancel()

    def schedule(self, group: asyncio.TaskGroup) -> None:
        """Begin what can be begun."""
        for name in list(self._queues):
            while jobs := self._next(name):
                self._begin(group, name, jobs)

    # --- what is next ---

    def _next(self, name: str) -> list[Job]:
        """Take the jobs of a session that can be begun now, and together."""
        queue = self._queues[name]
        _skip_dropped(queue.jobs)
        if not queue.jobs:
            del self._queues[name]
            return []
        head = queue.jobs[0]
        alone = self._is_async(head)
        if head.client in self._busy or (len(self._busy) >= ALONGSIDE_MAX if alone else self._threaded):
            return []
        room = 1 if alone else BATCH_MAX
        if isinstance(head.task, Train):
            room = min(room, updates_under_way_max(queue.nbytes) - self._under_way(name))
        jobs: list[Job] = []
        while (
            len(jobs) < room and queue.jobs and _alike(queue.jobs[0], head) and queue.jobs[0].client not in self._busy
        ):
            jobs.append(queue.jobs.popleft())
            _skip_dropped(queue.jobs)
        return jobs

    def _is_async(self, job: Job) -> bool:
        return _function(job) in self._async

    def _begin(self, group: asyncio.TaskGroup, name: str, jobs: list[Job]) -> None:
        batch, alone = _Batch(jobs), self._is_async(jobs[0])
        for job in jobs:
            job.batch = batch
        clients = {job.client for job in jobs}
        self._busy |= clients
        self._threaded = self._threaded or not alone
        batch.task = group.create_task(self._do(name, batch) if not alone else self._do_alone(name, batch))

        def over(_: object) -> None:
            self._busy -= clients
            self._threaded = self._threaded and alone
            self._tell(None)

        batch.task.add_done_callback(over)

    # --- plain functions ---

    async def _do(self, name: str, batch: _Batch) -> None:
        """Do a batch in the thread; what it did not get to waits again, before all others."""
        fetched = await self._fetch(name, batch.jobs)
        if fetched is None:
            return
        batch.interruptible = False
        done = await self._means.thread.run(self._in_thread, batch.jobs, fetched, asyncio.get_running_loop().time)
        rest = batch.jobs[len(done) :]
        for job in rest:
            job.batch = None
        self._queues.setdefault(name, _Queue(nbytes=fetched.manifest.spec.nbytes)).jobs.extendleft(reversed(rest))
        for job, made in zip(batch.jobs, done, strict=False):
            if isinstance(made, _Unfinished):
                self._async.add(_function(job))  # from now on it is known
                batch.jobs, batch.interruptible = [job], True
                await self._finish(job, fetched, made.result)
            else:
                self._hand_on(made)

    def _in_thread(
        self, jobs: Sequence[Job], fetched: Fetched, now: Callable[[], float]
    ) -> list[Made | _Unfinished | None]:
        """Call the function for one client after the other until it is time to tell; None where it was given up."""
        until, done = now() + BATCH_S, list[Made | _Unfinished | None]()
        for job in jobs:
            if job.dropped:
                done.append(None)
                continue
            made = self._call(job, fetched)
            done.append(made)
            if now() >= until or isinstance(made, _Unfinished):
                break
            fetched = replace(fetched, nbytes=0) if fetched.nbytes else fetched
        return done

    def _call(self, job: Job, fetched: Fetched) -> Made | _Unfinished:
        try:
            with self._span(job) as span:
                result = self._functions[_function(job)](fetched.model, _task(job))
                if _is_awaitable(result):
                    return _Unfinished(result)
                return self._check(job, fetched, result, span)
        except Exception as error:  # noqa: BLE001 - the one broad except: the owner's function may raise anything
            return self._failed(job, _function(job), error)

    # --- async functions ---

    async def _do_alone(self, name: str, batch: _Batch) -> None:
        fetched = await self._fetch(name, batch.jobs)
        if fetched is not None:
            await self._finish(batch.jobs[0], fetched, None)

    async def _finish(self, job: Job, fetched: Fetched, begun: Awaitable[object] | None) -> None:
        """Call the function, unless its call has ``begun``, and await what it gives."""
        try:
            with self._span(job) as span:
                result = begun or self._functions[_function(job)](fetched.model, _task(job))
                if _is_awaitable(result):
                    result = await result
                if fetched.manifest.spec.nbytes <= SMALL_BYTES_MAX:
                    made = self._check(job, fetched, result, span)
                else:
                    made = await self._kept(self._means.workers.run(self._check, job, fetched, result, span))
        except BusClosed:
            raise  # terminal: the client ends, nobody retries
        except Exception as error:  # noqa: BLE001 - as in _call
            made = self._failed(job, _function(job), error)
        self._hand_on(made)

    async def _kept(self, checking: Awaitable[Made]) -> Made:
        """Await an update that is being made; where nobody wants it any more its place is left when it is there."""
        task = asyncio.ensure_future(checking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_leave)
            raise

    # --- both ---

    async def _fetch(self, name: str, jobs: Sequence[Job]) -> Fetched | None:
        """Fetch the model of jobs, unless it is here; None, and the jobs have failed, where it cannot be had."""
        job, means, function = jobs[0], self._means, _function(jobs[0])
        if function not in self._functions:
            self._none(name, jobs, function, BadUpdate(f"this client's app has no @app.{function} function"))
            return None
        try:
            with means.traces.span(
                "fetch model", parent=job.headers, attributes=self._fetching(job), kind=Kind.CLIENT
            ) as span:
                fetched = await means.newest.fetch(means.store, job.task.blob, job.task.version)
                span.set(telemetry.BYTES, fetched.nbytes)
                if fetched.nbytes:
                    span.set(telemetry.MESSAGING_BATCH_COUNT, fetched.manifest.layout.count)
        except BusClosed:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
            self._none(name, jobs, "fetch" if function == "train" else function, error)
            return None
        if name in self._queues:
            self._queues[name].nbytes = fetched.manifest.spec.nbytes
        return fetched

    def _none(self, name: str, jobs: Sequence[Job], stage: str, error: Exception) -> None:
        """Let jobs fail, and those that wait for the same: what one could not have the others cannot have either."""
        for job in [*jobs, *self._waiting_alike(name, jobs[0])]:
            self._hand_on(self._failed(job, stage, error))

    def _waiting_alike(self, name: str, job: Job) -> list[Job]:
        """Take those who wait for the same."""
        queue = self._queues.get(name)
        if queue is None:
            return []
        alike = [one for one in queue.jobs if _alike(one, job)]
        queue.jobs = deque(one for one in queue.jobs if not _alike(one, job))
        return alike

    def _check(self, job: Job, fetched: Fetched, result: object, span: Span) -> Made:
        """Take what a function returned for what it should be."""
        task = job.task
        if isinstance(task, Train):
            update = check_update(result)
            span.set(telemetry.WEIGHT, update.weight)
            return Made(job, Trained(task.round, job.work), prepare(fetched, update, task, self._means.shelf))
        found = check_evaluation(result)
        return Made(job, Measured(task.round, task.version, found.weight, dict(found.metrics), fetched.nbytes))

    def _hand_on(self, made: Made | None) -> None:
        if made is None:
            return
        if made.job.dropped:
            made.leave()
            return
        if made.held is not None:
            self._means.crash(Point.UPDATE_MADE)
        self._tell(made)

    def _failed(self, job: Job, stage: str, error: Exception) -> Made:
        """Report why the task could not be done; the traceback stays here, with the owner."""
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

    def _span(self, job: Job) -> Any:  # noqa: ANN401 - a context manager of a span
        return self._means.traces.span(_function(job), parent=job.headers, attributes=self._attributes(job))

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


def _function(job: Job) -> str:
    return "train" if isinstance(job.task, Train) else "evaluate"


def _task(job: Job) -> TrainTask | EvaluateTask:
    task, kind = job.task, TrainTask if isinstance(job.task, Train) else EvaluateTask
    return kind(job.session, task.round, task.config, task.seed, task.deadline_at, job.client)


def _alike(one: Job, other: Job) -> bool:
    """Whether both want the same of the same model."""
    return one.task.blob == other.task.blob and _function(one) == _function(other)


def _skip_dropped(jobs: deque[Job]) -> None:
    while jobs and jobs[0].dropped:
        jobs.popleft()


def _is_awaitable(result: object) -> TypeGuard[Awaitable[object]]:
    return asyncio.iscoroutine(result) or isinstance(result, asyncio.Future)


def _leave(task: asyncio.Future[Made]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().leave()
