"""When the owner's functions are called, and for whom: jobs in, updates and evaluations out.

Plain functions run one at a time, in one thread, whatever the number of clients: several short ones in one hop to the
thread, for a hop costs more than many a small update. Async functions run on the loop, of up to `ALONGSIDE_MAX` clients
at once; never two of one client.

What is made is kept in the client's state, where there is one, before it is told of.

Nobody trains far ahead of what is sent: a job waits while as many updates of its session are under way as
`updates_under_way_max` allows. No session waits for another one's uploads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fedbus.client.app import ClientApp
from fedbus.client.events import WorkFailed
from fedbus.client.job import Functions, Job, Made, Means, Unfinished
from fedbus.client.keeper import Keeper
from fedbus.client.newest import Fetched
from fedbus.crash import Point
from fedbus.messages.tasks import Train

ALONGSIDE_MAX = 8
"""Clients of a crowd whose async function is under way at once: enough for a pool of processes behind it."""

BATCH_S = 0.01
"""After so long the thread hands on what it has made: a hop costs 0.04 ms, and others must not wait for long."""

BATCH_MAX = 64
"""Jobs of one hop at most."""

UNDER_WAY_BYTES_MAX = 32 * 2**20
UNDER_WAY_MAX = 256
"""Updates of a session made and not yet accepted: large ones few, small ones as many as keep the line busy, and fewer
than a combiner lets wait (32 MiB of announcements, of all its clients)."""


def updates_under_way_max(nbytes: int) -> int:
    """Return how many updates of a size are made ahead of their verdicts; two, however large, so that one is sent."""
    return max(2, min(UNDER_WAY_MAX, UNDER_WAY_BYTES_MAX // max(nbytes, 1)))


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
        keeper: Keeper | None = None,
    ) -> None:
        self._keeper = keeper
        self._functions = Functions(app, means)
        self._means = means
        self._tell = tell
        self._under_way = under_way
        self._queues: dict[str, _Queue] = {}
        self._doing: dict[str, _Batch] = {}
        self._threaded = False

    def add(self, job: Job) -> None:
        """Take a job; it is begun by `schedule`."""
        self._queues.setdefault(job.session, _Queue()).jobs.append(job)

    def drop(self, job: Job) -> None:
        """Give a job up: nothing is told of it any more. A plain function that runs, runs to its end."""
        job.dropped = True
        batch = self._doing.get(job.client)
        if batch is None or not batch.interruptible or batch.task is None:
            return
        if all(one.dropped for one in batch.jobs):
            batch.task.cancel()

    def schedule(self, group: asyncio.TaskGroup) -> None:
        """Begin what can be begun."""
        for name in list(self._queues):
            while jobs := self._next(name):
                self._begin(group, name, jobs)

    def _next(self, name: str) -> list[Job]:
        """Take the jobs of a session that can be begun now, and together."""
        queue = self._queues[name]
        _skip_dropped(queue.jobs)
        if not queue.jobs:
            del self._queues[name]
            return []
        head = queue.jobs[0]
        alone = self._functions.is_async(head)
        if head.client in self._doing or (len(self._doing) >= ALONGSIDE_MAX if alone else self._threaded):
            return []
        room = 1 if alone else BATCH_MAX
        if isinstance(head.task, Train):
            room = min(room, updates_under_way_max(queue.nbytes) - self._under_way(name))
        jobs: list[Job] = []
        while len(jobs) < room and queue.jobs and queue.jobs[0].is_like(head):
            if queue.jobs[0].client in self._doing:
                break
            jobs.append(queue.jobs.popleft())
            _skip_dropped(queue.jobs)
        return jobs

    def _begin(self, group: asyncio.TaskGroup, name: str, jobs: list[Job]) -> None:
        batch, alone = _Batch(jobs), self._functions.is_async(jobs[0])
        clients = [job.client for job in jobs]
        self._doing |= dict.fromkeys(clients, batch)
        self._threaded = self._threaded or not alone
        batch.task = group.create_task(self._do(name, batch, alone=alone))

        def over(_: object) -> None:
            for client in clients:
                self._doing.pop(client, None)
            self._threaded = self._threaded and alone
            self._tell(None)

        batch.task.add_done_callback(over)

    async def _do(self, name: str, batch: _Batch, *, alone: bool) -> None:
        asked = self._now()
        fetched = await self._functions.fetch(batch.jobs[0])
        fetch_s = self._now() - asked
        for job in batch.jobs:
            job.fetch_s += fetch_s
        if isinstance(fetched, Made):
            self._tell_of(fetched)
            self._fail_alike(name, batch.jobs[1:], fetched)
            return
        if name in self._queues:
            self._queues[name].nbytes = fetched.manifest.spec.nbytes
        if alone:
            batch.jobs[0].called = self._now()
            await self._hand_on(batch, [await self._functions.finish(batch.jobs[0], fetched)])
        else:
            await self._do_in_thread(name, batch, fetched)

    async def _do_in_thread(self, name: str, batch: _Batch, fetched: Fetched) -> None:
        """Do what there is time for; the rest waits again, before all others."""
        batch.interruptible = False
        done = await self._means.thread.run(self._in_thread, batch.jobs, fetched, self._now)
        rest = batch.jobs[len(done) :]
        if rest:
            self._queues.setdefault(name, _Queue(nbytes=fetched.manifest.spec.nbytes)).jobs.extendleft(reversed(rest))
        await self._hand_on(batch, [made for made in done if isinstance(made, Made)])
        if done and isinstance(done[-1], Unfinished):
            job = batch.jobs[len(done) - 1]
            batch.jobs, batch.interruptible = [job], True
            await self._hand_on(batch, [await self._functions.finish(job, fetched, done[-1].result)])

    def _in_thread(
        self, jobs: Sequence[Job], fetched: Fetched, now: Callable[[], float]
    ) -> list[Made | Unfinished | None]:
        """Call the function for one client after the other until it is time to tell; None where it was given up."""
        until, done = now() + BATCH_S, list[Made | Unfinished | None]()
        for job in jobs:
            if job.dropped:
                done.append(None)
                continue
            job.called = now()
            made = self._functions.call(job, fetched)
            over = now()
            if isinstance(made, Made) and made.held is not None:
                made.held.spent = job.spent(over)
            done.append(made)
            if over >= until or isinstance(made, Unfinished):
                break
            fetched = replace(fetched, nbytes=0) if fetched.nbytes else fetched
        return done

    @property
    def _now(self) -> Callable[[], float]:
        return asyncio.get_running_loop().time

    def _fail_alike(self, name: str, jobs: Sequence[Job], first: Made) -> None:
        """Fail others of a batch, and those that wait for the same: what one has not, none has."""
        queue = self._queues.get(name)
        waiting = [job for job in queue.jobs if job.is_like(first.job)] if queue else []
        if queue:
            queue.jobs = deque(job for job in queue.jobs if not job.is_like(first.job))
        for job in [*jobs, *waiting]:
            assert isinstance(first.event, WorkFailed)
            self._tell_of(Made(job, replace(first.event, round=job.task.round, work=job.work)))

    async def _hand_on(self, batch: _Batch, done: Sequence[Made]) -> None:
        """Keep updates where there is a state, then tell of all."""
        for made in done:
            if made.held is not None and made.held.spent is None:
                made.held.spent = made.job.spent(self._now())
            if made.held is not None and not made.job.dropped:
                self._means.crash(Point.UPDATE_MADE)
        if self._keeper is not None and any(made.held is not None for made in done):
            batch.interruptible = False  # nobody leaves a place that is being read
            await self._keeper.save(done)
        for made in done:
            self._keep(made)
            if made.held is not None and made.held.deposit is not None and not made.job.dropped:
                self._means.crash(Point.UPDATE_SAVED)
            self._tell_of(made)

    def _keep(self, made: Made) -> None:
        """From now on the client has what was made with its update, unless nobody wants that any more."""
        held, job, keepsakes = made.held, made.job, self._means.keepsakes
        if held is None or (job.dropped and held.deposit is None):
            return
        if held.keepsake is None:
            keepsakes.settle(job.client, job.session, lost=False)  # what was open was of the update before
            return
        kept, held.keepsake = held.keepsake, None
        keepsakes.put(job.client, job.session, kept)
        if job.dropped:
            keepsakes.settle(job.client, job.session, lost=True)

    def _tell_of(self, made: Made) -> None:
        if made.job.dropped:
            made.leave()
        else:
            self._tell(made)


def _skip_dropped(jobs: deque[Job]) -> None:
    while jobs and jobs[0].dropped:
        jobs.popleft()
