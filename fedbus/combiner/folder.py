"""The data plane of one session in a combiner: the accumulator, the spool, and what is made of them.

Plain synchronous code, run in a worker thread, one call at a time. What comes in was decided by the machine; what goes
out are its events. It promises: an upload is in the accumulator as far as its ``folded`` chunks and no further; `Undo`
takes out exactly these; the accumulator's bits depend only on the set of chunks that are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from fedbus.aggregation import Accumulator, find, scale_for
from fedbus.combiner.events import Damaged, Event, Fold, Folded, Key, Prepared, Reset, Undo, Unfit
from fedbus.errors import BadMessage, BadUpdate
from fedbus.messages.orders import Order
from fedbus.store.spool import Spool, SpoolFull
from fedbus.tensors import Hasher, Layout, Manifest, chunk_digest, magnitude

PARTIAL_ITEM_BYTES = 8
"""A partial has an int64 for each part of the model."""


@dataclass(slots=True)
class _Upload:
    """What is folded of one upload."""

    serial: int
    weight: float
    folded: int = 0
    squares: float = 0.0
    hasher: Hasher = field(default_factory=Hasher)


@dataclass(frozen=True, slots=True)
class Partial:
    """What is folded, ready to be sent: little-endian int64 in chunks of the model's chunk size."""

    spec: str
    digest: str
    nbytes: int
    digests: tuple[int, ...]
    chunk: Callable[[int], bytes]


class Folder:
    """Accumulator and spool of one session."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._uploads: dict[Key, _Upload] = {}
        self._sums: Accumulator | None = None
        self._kept: Accumulator | None = None
        self._manifest: Manifest | None = None
        self._partial_bounds: list[tuple[int, int]] = []

    def reset(self) -> None:
        """Drop everything that is folded; the memory is kept for the next round."""
        if self._sums is not None:
            # Fresh memory costs a page fault for each 4 KiB: seventeen times the first fold of a model of 1 GB.
            self._sums.clear()
            self._kept = self._sums
        self._sums, self._manifest = None, None
        self._uploads.clear()
        self._spool.clear()

    def prepare(self, order: Order, manifest: Manifest) -> Prepared:
        """Make an empty accumulator for updates of a model."""
        spec, layout = manifest.spec, manifest.layout
        scale = scale_for(spec, manifest.absmax, order.weight_max, order.value_floor, order.headroom)
        kept, self._kept = self._kept, None
        self.reset()
        if kept is None or kept.layout != layout or kept.scale != scale:
            kept = Accumulator(layout, scale)
        self._manifest, self._sums = manifest, kept
        step = max(1, manifest.chunk_bytes // PARTIAL_ITEM_BYTES)
        self._partial_bounds = [(start, min(start + step, spec.parts)) for start in range(0, spec.parts, step)]
        return Prepared(
            round=order.round,
            spec=spec.digest,
            nbytes=spec.nbytes,
            chunks=layout.count,
            partial_nbytes=spec.parts * PARTIAL_ITEM_BYTES,
            partial_chunks=len(self._partial_bounds),
        )

    def do(self, jobs: Sequence[Fold | Undo | Reset]) -> list[Event]:
        """Do the jobs in order; returns what the machine is to be told."""
        events: list[Event] = []
        for job in jobs:
            match job:
                case Fold():
                    event = self._fold(job)
                    if event is not None:
                        events.append(event)
                case Undo(key):
                    self._undo(key)
                case Reset():
                    self.reset()
        return events

    def _fold(self, job: Fold) -> Event | None:  # noqa: PLR0911 - each return is one thing that a chunk may be
        """Fold one chunk; None where an earlier chunk of its upload was left out, so that it must come again too."""
        if self._sums is None or self._manifest is None:
            return None
        upload = self._uploads.get(job.key)
        if upload is None or upload.serial != job.serial:
            assert upload is None, "an upload that was not undone before the next of its key"
            upload = self._uploads[job.key] = _Upload(job.serial, job.weight)
        if job.chunk != upload.folded:
            return None
        if not job.data and not self._manifest.layout.count:  # a model of no bytes has no chunks
            return Folded(job.key, job.serial, job.chunk, upload.hasher.hexdigest(), 0.0)
        if chunk_digest(job.data) != job.digest:
            return Damaged(job.key, job.serial, job.chunk)
        try:
            self._add(job, upload)
        except (BadUpdate, BadMessage, SpoolFull) as error:
            return Unfit(job.key, job.serial, job.chunk, str(error))
        upload.folded += 1
        upload.hasher.update(job.data)
        if not job.last:
            return Folded(job.key, job.serial, job.chunk)
        return Folded(job.key, job.serial, job.chunk, upload.hasher.hexdigest(), sqrt(upload.squares))

    def _add(self, job: Fold, upload: _Upload) -> None:
        """Spool first, then fold: what is folded can always be taken out."""
        assert self._sums is not None
        start, stop = self._bounds(job.key, job.chunk)
        if len(job.data) != stop - start:
            raise BadUpdate(f"chunk {job.chunk}: expected {stop - start} bytes, got {len(job.data)}")
        self._spool.append(upload.serial, job.data)
        if job.key.sender.role == "combiner":
            self._sums.merge(self._partial_bounds[job.chunk][0], job.data)
        else:
            upload.squares += self._sums.add(job.chunk, job.data, job.weight)

    def _bounds(self, key: Key, chunk: int) -> tuple[int, int]:
        """Return where a chunk of an upload lies in its bytes."""
        assert self._manifest is not None
        if key.sender.role == "combiner":
            start, stop = self._partial_bounds[chunk]
            return start * PARTIAL_ITEM_BYTES, stop * PARTIAL_ITEM_BYTES
        return self._manifest.layout.bounds(chunk)

    def _undo(self, key: Key) -> None:
        """Take out of the accumulator what is in it of an upload."""
        upload = self._uploads.pop(key, None)
        if upload is None or self._sums is None:
            return
        for chunk in range(upload.folded):
            data = self._spool.read(upload.serial, *self._bounds(key, chunk))
            if key.sender.role == "combiner":
                self._sums.merge(self._partial_bounds[chunk][0], np.negative(np.frombuffer(data, "<i8")))
            else:
                self._sums.add(chunk, data, upload.weight, sign=-1)
        self._spool.drop(upload.serial)

    def partial(self) -> Partial:
        """Return what is folded now, to be sent to the root; nothing may be folded while it is read."""
        sums, manifest = self._sums, self._manifest
        assert sums is not None and manifest is not None
        bounds = list(self._partial_bounds)

        def chunk(index: int) -> bytes:
            return sums.partial(*bounds[index]).tobytes()

        hasher, digests = Hasher(), []
        for index in range(len(bounds)):
            data = chunk(index)
            hasher.update(data)
            digests.append(chunk_digest(data))
        nbytes = manifest.spec.parts * PARTIAL_ITEM_BYTES
        return Partial(manifest.spec.digest, hasher.hexdigest(), nbytes, tuple(digests), chunk)

    def finish(self, order: Order) -> Making:
        """Begin to make the new model of what is folded now."""
        assert self._sums is not None and self._manifest is not None and order.merge is not None
        return Making(self._sums, self._manifest, order)


class Making:
    """The new model, chunk by chunk in order: the mean, the strategy's step, the bytes; and at the end its manifest."""

    def __init__(self, sums: Accumulator, base: Manifest, order: Order) -> None:
        assert order.merge is not None
        self._sums = sums
        self._base = base
        self._aggregator = find(order.strategy)
        self._options = self._aggregator.parse(order.options)
        self._weight_sum = order.merge.weight_sum
        self._round = order.round
        self._hasher = Hasher()
        self._digests: list[int] = []
        self._absmax = [0.0] * len(base.spec.arrays)

    @property
    def layout(self) -> Layout:
        """The cut of the model: that of its base."""
        return self._base.layout

    @property
    def reads_base(self) -> bool:
        """Whether the step needs the base model's chunks."""
        return self._aggregator.reads_base

    def chunks(self, first: int, stop: int, bases: Sequence[bytes] = ()) -> list[memoryview]:
        """Return the bytes of chunks ``first`` up to, not including, ``stop``; to be called in order.

        ``bases``: the same chunks of the base model, where `reads_base`.
        """
        return [self._chunk(index, bases[index - first] if bases else None) for index in range(first, stop)]

    def _chunk(self, index: int, base: bytes | None) -> memoryview:
        assert index == len(self._digests), "chunks are made in order"
        mean = self._sums.mean(index, self._weight_sum)
        before = mean
        if base is not None:
            self._base.check_chunk(index, base)
            before = self._sums.parts.widen(index, base)
        values, _ = self._aggregator.step(mean, before, {}, self._options, self._round)
        data = self._sums.parts.narrow(index, values)
        self._hasher.update(data)
        self._digests.append(chunk_digest(data))
        for segment in self.layout.segments(index):
            count = segment.stop - segment.start
            piece = np.frombuffer(data, segment.array.numpy, count, segment.offset)
            self._absmax[segment.index] = max(self._absmax[segment.index], magnitude(piece))
        return data

    def manifest(self) -> Manifest:
        """Return the manifest; every chunk must have been made."""
        assert len(self._digests) == self.layout.count, "the model is not whole"
        base = self._base
        return Manifest(
            base.spec, base.chunk_bytes, tuple(self._digests), self._hasher.hexdigest(), tuple(self._absmax)
        )
