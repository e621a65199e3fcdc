"""The work of one session in a combiner: what takes time, in the order in which the machine asked for it.

Folds go to a thread, many in one hop. A partial, or our part of the model, is made in that order too: what was to
be undone before it is undone; what follows - sending the partial, waiting for the chunks of others - runs beside the
work, and is given up when the order changes, before anything else is folded. What comes of it are events.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from fedbus import telemetry
from fedbus.combiner.carried import state_of
from fedbus.combiner.events import (
    Event,
    Fold,
    FoldWhole,
    Key,
    PartialSent,
    Prepare,
    PrepareFailed,
    Refold,
    Release,
    Reset,
    SendPartial,
    Store,
    Stored,
    StoreFailed,
    StorePart,
    Undo,
)
from fedbus.combiner.folder import Folder
from fedbus.combiner.folder import Job as Quick
from fedbus.combiner.making import Making
from fedbus.combiner.partials import Partial
from fedbus.combiner.storing import ChunksLost, Storing, inner_of
from fedbus.crash import Crash, Point
from fedbus.errors import BusClosed, BusFull, FedbusError, NotFound
from fedbus.exchange.station import Station
from fedbus.exchange.upload.service import Parcel, Upload
from fedbus.messages.orders import Order
from fedbus.messages.uploads import UploadBegin
from fedbus.store.models import ModelStore
from fedbus.telemetry import Kind, Span, Telemetry, metrics
from fedbus.tensors import Manifest
from fedbus.workers import Workers

log = logging.getLogger("fedbus.combiner")

HOP_JOBS_MAX = 512
"""Jobs done in one hop to the thread: a hop costs 50 us, an update of 10 KB as much."""

HOP_BYTES_MAX = 4 * 2**20
"""Bytes folded in one hop: more, and credit would be granted in lumps."""

FULL_RETRY_S = 2.0
"""How often storing a model is tried again in a broker that is full: what there was room for was sent in vain."""


Job = Quick | Prepare | Store | StorePart | SendPartial


@dataclass(slots=True)
class Load:
    """Bytes of updates that came whole and wait for the fold."""

    inline_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Means:
    """What the work of every session uses; ``sending``: the partials under way."""

    station: Station
    store: ModelStore
    workers: Workers
    traces: Telemetry
    crash: Crash
    sending: list[Upload] = field(default_factory=list)
    load: Load = field(default_factory=Load)


@dataclass(slots=True)
class Work:
    """The jobs of one session; ``tell`` takes what comes of them. ``is_full``: the new model waits for room."""

    name: str
    means: Means
    folder: Folder
    tell: Callable[[Event], None]
    headers: Mapping[str, str] = field(default_factory=dict)
    folded: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)
    is_busy: bool = False
    is_full: bool = False
    _jobs: deque[Job | None] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _wanted: Store | StorePart | SendPartial | None = None
    _beside: asyncio.Task[None] | None = None
    _manifests: dict[str, Manifest] = field(default_factory=dict)
    _outdated: tuple[str, str] | None = None

    def put(self, job: Job | None) -> None:
        """Do a job after those that wait; None ends the work."""
        if isinstance(job, FoldWhole):
            self.means.load.inline_bytes += len(job.data)
        elif isinstance(job, Store | StorePart | SendPartial):
            self._wanted = job
        self._jobs.append(job)
        self.is_busy = True
        self._wake.set()

    def stop_closing(self) -> None:
        """Give up what runs beside the work, and what was to begin it."""
        self._wanted = None
        if self._beside is not None:
            self._beside.cancel()
            self._beside = None

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Work until the end of the session, or until cancelled."""
        while True:
            if not self._jobs:
                self.is_busy = False
                self._wake.clear()
                await self._wake.wait()
            quick = self._take_quick()
            if quick:
                events = await self.means.workers.run(self.folder.do, quick)
                self.means.load.inline_bytes -= sum(len(job.data) for job in quick if isinstance(job, FoldWhole))
                for event in events:
                    self.tell(event)
                continue
            job = self._jobs.popleft()
            if job is None:
                await self.means.workers.run(self.folder.release)
                return
            await self._do(job, group)

    def _take_quick(self) -> list[Quick]:
        """Take the next jobs that need no bus, as many as one hop may carry."""
        quick: list[Quick] = []
        size = 0
        while self._jobs and len(quick) < HOP_JOBS_MAX and size < HOP_BYTES_MAX:
            job = self._jobs[0]
            if not isinstance(job, Fold | FoldWhole | Refold | Undo | Reset | Release):
                break
            size += _size(job)
            quick.append(job)
            self._jobs.popleft()
        return quick

    async def _do(self, job: Job, group: asyncio.TaskGroup) -> None:
        """Do a job that needs the bus."""
        match job:
            case Prepare(order):
                await self._prepare(order)
            case Store(order) | StorePart(order) if job is self._wanted:
                await self._store(job, order, group)
            case SendPartial(order) if job is self._wanted:
                partial = await self.means.workers.run(self.folder.partial)
                if job is self._wanted:  # and was not given up while the partial was made
                    self._beside = group.create_task(self._send_partial(order, partial))
            case _:
                pass  # it was given up while it stood in line

    async def _prepare(self, order: Order) -> None:
        try:
            manifest = self._manifests.get(order.blob) or await self.means.store.manifest(order.blob)
            self.tell(await self.means.workers.run(self.folder.prepare, order, manifest))
            self._manifests = {order.blob: manifest}
            await self._remove_outdated(order.blob)
        except BusClosed:
            raise  # terminal: the role ends, nobody retries
        except FedbusError as error:
            log.warning("%s: round %d cannot be prepared: %s", self.name, order.round, error)
            self.tell(PrepareFailed(order.round, str(error), order.part, order.parts))

    async def _remove_outdated(self, blob: str) -> None:
        """Remove the state of a version that has been replaced: only the newest is carried on."""
        outdated, self._outdated = self._outdated, None
        if outdated is not None and outdated[0] == blob:
            await self.means.store.discard(state_of(outdated[1]))

    async def _store(self, job: Store | StorePart, order: Order, group: asyncio.TaskGroup) -> None:
        """Make and store what is folded here; the root of a model that is shared out goes on beside the work."""
        seen, begun = self.means.store.reconnects, asyncio.get_running_loop().time()
        with self._span("merge", order) as span:
            try:
                if await self._found(job, order):
                    return
                making = await self._made(job, order, span)
                if isinstance(job, StorePart) and await self._described(order):
                    await self._remove_inner(order)  # the root did so while we, in a next life, told it all anew
            except BusClosed:
                raise
            except (FedbusError, MemoryError, OSError) as error:
                self._count_publishing("failed", begun)
                await self._store_failed(order, error, span)
                return
        self._count_publishing("stored", begun)
        if isinstance(job, Store) and order.parts > 1 and job is self._wanted:
            self._beside = group.create_task(self._finish_beside(order, making, seen))

    def _count_publishing(self, outcome: str, begun: float) -> None:
        seconds = asyncio.get_running_loop().time() - begun
        self.means.traces.meters.record(metrics.PUBLISH_DURATION, seconds, {telemetry.OUTCOME: outcome})

    async def _made(self, job: Store | StorePart, order: Order, span: Span) -> Making:
        """Make and store; where the broker's store is full, again and again for as long as the order stands."""
        try:
            while True:
                seen = self.means.store.reconnects
                try:
                    making = await self.means.workers.run(self.folder.finish, order)
                    await self._storing.store(making, order, lambda: job is self._wanted)
                    if job is not self._wanted:  # we stood still, or were slow: another attempt is under way
                        await self._remove_unfinished(order)
                    elif isinstance(job, Store) and order.parts == 1:
                        await self._finish(order, making, span, seen)
                except BusFull as error:
                    if not await self._room_may_be(job, order, error):
                        raise
                except ChunksLost as error:
                    log.warning("%s: round %d: storing the model again: %s", self.name, order.round, error)
                    if job is not self._wanted:
                        raise
                else:
                    return making
        finally:
            self.is_full = False

    async def _room_may_be(self, job: Store | StorePart, order: Order, error: BusFull) -> bool:
        """Give back what half a model takes, and wait a while; whether the model is still wanted then."""
        assert order.merge is not None
        if not self.is_full:
            log.error("%s: round %d: the model waits for room in the broker: %s", self.name, order.round, error)
        self.is_full = True
        await self._remove_unfinished(order)
        await asyncio.sleep(FULL_RETRY_S)
        return job is self._wanted

    async def _remove_unfinished(self, order: Order) -> None:
        """Remove what is stored of a model that is not whole: a name is of one attempt, and nobody else stores it.

        Not where others may be storing their parts of it: the coordinator removes what stays.
        """
        assert order.merge is not None
        if order.parts == 1:
            await self.means.store.discard(order.merge.publish)

    async def _found(self, job: Store | StorePart, order: Order) -> bool:
        """Whether an earlier life has stored the whole model, and may have said so: then it is not touched again.

        Nor are parts of one that its root has described: nobody would remove what is told the others anew.
        """
        assert order.merge is not None
        manifest = await self._described(order)
        if manifest is None:
            return False
        if isinstance(job, Store):
            await self._remove_inner(order)
            self.tell(Stored(order.merge.attempt, manifest.digest, manifest.spec.nbytes))
        return True

    async def _described(self, order: Order) -> Manifest | None:
        """Return what stands of the new model where it may be whole already, as we are not in our first life."""
        assert order.merge is not None
        if self.means.station.life == 1:
            return None
        try:
            return await self.means.store.manifest(order.merge.publish)
        except NotFound:
            return None

    async def _finish_beside(self, order: Order, making: Making, seen: int) -> None:
        with self._span("merge", order) as span:
            try:
                await self._finish(order, making, span, seen)
            except BusClosed:
                raise
            except (FedbusError, MemoryError, OSError) as error:
                await self._store_failed(order, error, span)

    async def _finish(self, order: Order, making: Making, span: Span, seen: int) -> None:
        """Wait for what others store of the model, then store what describes it.

        ``seen``: how often the bus had come back when the first chunk was stored. `ChunksLost` where the broker came
        back without some of them.
        """
        assert order.merge is not None
        publish = order.merge.publish
        manifest = await self._storing.finish(making, order)
        span.set(telemetry.BYTES, manifest.spec.nbytes)
        self.means.crash(Point.MODEL_CHUNKS_STORED)
        if self.means.store.reconnects != seen and making.small is None:
            stored, wanted = await self.means.store.parts(publish), manifest.layout.count
            if stored < wanted:
                raise ChunksLost(f"blob {publish}: the broker has {stored} of {wanted} chunks that it had taken")
        down = making.downlink.head() if making.downlink is not None else None
        await self.means.store.put_manifest(publish, manifest, making.small, down)
        self.means.crash(Point.MODEL_STORED)
        await self._remove_inner(order)
        self._manifests[publish] = manifest
        if making.carried.is_there and order.round > 1:
            self._outdated = (publish, order.blob)
        self.tell(Stored(order.merge.attempt, manifest.digest, manifest.spec.nbytes))

    async def _remove_inner(self, order: Order) -> None:
        """Remove what combiners told each other of their parts of the updates, once the model is whole.

        Everybody has read it then. Before, a next life of ours would begin anew, and need it.
        """
        if order.plan.whole and order.parts > 1:
            assert order.merge is not None
            await self.means.store.discard(inner_of(order.merge.publish))

    async def _store_failed(self, order: Order, error: Exception, span: Span) -> None:
        assert order.merge is not None
        span.fail(str(error))
        log.warning("%s: round %d: the model could not be stored: %s", self.name, order.round, error)
        await self._remove_unfinished(order)
        self.tell(StoreFailed(order.merge.attempt, str(error) or type(error).__name__))

    @property
    def _storing(self) -> Storing:
        return Storing(self.means.store, self.means.workers)

    def _span(self, name: str, order: Order) -> AbstractContextManager[Span]:
        assert order.merge is not None
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: self.name,
            telemetry.ROUND: order.round,
            telemetry.ATTEMPT: order.merge.attempt,
            telemetry.COMBINER: self.means.station.peer.name,
            telemetry.WEIGHT: order.merge.weight_sum,
        }
        counted = order.merge.counted if self.means.traces.enabled else {}
        links = [headers for key, headers in self.folded.items() if key.sender.name in counted]
        return self.means.traces.span(name, parent=self.headers, attributes=attributes, links=links)

    async def _send_partial(self, order: Order, partial: Partial) -> None:
        """Send what is folded to our parent in the tree, or to the root."""
        merge, station = order.merge, self.means.station
        assert merge is not None
        parent, me = merge.parent or merge.root, station.peer
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: self.name,
            telemetry.ROUND: order.round,
            telemetry.ATTEMPT: merge.attempt,
            telemetry.COMBINER: me.name,
            telemetry.UPDATES: len(merge.counted),
            **telemetry.messaging("send", "send", station.subjects.up(parent, me), me.name, 0),
        }
        with self.means.traces.span(
            "send partial", parent=self.headers, attributes=attributes, kind=Kind.PRODUCER
        ) as span:
            begin = UploadBegin(
                session=self.name,
                round=order.round,
                attempt=merge.attempt,
                spec=partial.spec,
                digest=partial.digest,
                nbytes=partial.nbytes,
                chunks=len(partial.digests),
                weight=1.0,
            )
            span.set(telemetry.BYTES, begin.nbytes)
            span.set(telemetry.CHUNKS, begin.chunks)
            span.set(telemetry.MESSAGING_BATCH_COUNT, begin.chunks)
            self.means.crash(Point.PARTIAL_MADE)
            parcel = Parcel(begin, partial.chunk, partial.digests)
            upload = Upload(station, parent, parcel, span.headers or self.headers)
            self.means.sending.append(upload)
            try:
                outcome = await upload.run()
            finally:
                self.means.sending.remove(upload)
            span.set(telemetry.RETRANSMITTED, outcome.resent)
            span.set(telemetry.VERDICT, "accepted" if outcome.accepted else "refused")
            if not outcome.accepted:
                span.fail(outcome.reason)
        self.means.crash(Point.PARTIAL_SENT)
        self.tell(PartialSent(merge.attempt, outcome.accepted, outcome.reason))


def _size(job: Quick) -> int:
    """Bytes that a job folds."""
    match job:
        case Fold() | FoldWhole():
            return len(job.data)
        case Refold():
            return job.nbytes
        case _:
            return 0
