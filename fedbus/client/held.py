"""An update between the app that made it and its receipt: checked, copied, digested, ready to be sent.

One pass over blocks of the size of a chunk, which stay in the processor's cache: each is copied, then its XXH3 and the
BLAKE3 of its part are taken from the copy. 45 MB take 10 ms; arrays copied first and digested afterwards took 29.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedbus.bus.base import Payload
from fedbus.client.app import Update
from fedbus.client.cut import Cut, cut_of
from fedbus.client.encoding import Differences, Encoded, payload_chunks
from fedbus.client.keepsake import Keepsake, keeping
from fedbus.client.newest import Fetched
from fedbus.client.shelf import Place, Shelf
from fedbus.errors import BadUpdate
from fedbus.messages.ids import Spent
from fedbus.messages.orders import part_of
from fedbus.messages.plans import Encoding
from fedbus.messages.tasks import Train
from fedbus.tensors.chunks import CHUNKS_MAX, Layout
from fedbus.tensors.codec import Source
from fedbus.tensors.digest import Hasher, chunk_digest

PAYLOAD_BYTES_MAX = 2**31
"""Longest payload, 2 GiB: what one combiner puts side by side for all clients, it must hold on its disk."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one combiner gets: chunks ``first`` up to, not including, ``stop``, and the BLAKE3 of their bytes."""

    first: int
    stop: int
    digest: str


class Deposit(Protocol):
    """What the client's state has of an update (`fedbus.client.state`)."""

    def forget(self) -> None:
        """The next process is not to find it; idempotent."""
        ...


@dataclass(slots=True, eq=False)
class Held:
    """The update of a round, until its receipt.

    ``base``: digest of the model that it was made of. ``spent``: where the time went until it was made, None of what a
    former process has made. ``deposit``: where it stands in the client's state. ``adopted``:
    a former process has made it, so whether it is of the session that we are asked by is yet to be seen. ``keepsake``:
    what its client is to keep from the moment on at which it is made (`fedbus.client.keepsake`), until that is done.
    """

    round: int
    cut: Cut
    place: Place
    chunk_digests: tuple[int, ...]
    parts: tuple[Part, ...]
    weight: float
    metrics: Mapping[str, float]
    fetched: int
    base: str = ""
    deposit: Deposit | None = None
    adopted: bool = False
    keepsake: Keepsake | None = None
    spent: Spent | None = None

    @property
    def layout(self) -> Layout:
        """The cut of the model that it is an update of."""
        return self.cut.layout

    @property
    def encoding(self) -> Encoding:
        """In which form it is."""
        return self.cut.encoding

    def chunk(self, index: int) -> Payload:
        """Return the bytes of a chunk, as they are sent."""
        return self.place.get(self.cut.edges[index], self.cut.size(index))

    @property
    def identity(self) -> str:
        """What tells this update from any other that the client makes: a digest over those of its chunks."""
        hasher = Hasher()
        for digest in self.chunk_digests:
            hasher.update(digest.to_bytes(8, "little"))
        return hasher.hexdigest()

    def leave(self) -> None:
        """Forget it; idempotent."""
        deposit, self.deposit = self.deposit, None
        if deposit is not None:
            deposit.forget()  # first: its place there may be written over
        self.place.leave()
        kept, self.keepsake = self.keepsake, None
        if kept is not None:
            kept.leave()

    def nbytes(self, part: Part) -> int:
        """Return how many bytes a part is."""
        return self.cut.edges[part.stop] - self.cut.edges[part.first]

    def shared_out(self, parts: int) -> tuple[Part, ...]:
        """Return the update cut into another number of parts; reads all of it, so not on the loop."""
        return tuple(_part(self.cut, index, parts, self.chunk)[0] for index in range(parts))


def prepare(fetched: Fetched, update: Update, train: Train, shelf: Shelf, former: Keepsake | None = None) -> Held:
    """Check an update against the model, copy and digest it: in the model's order of arrays, whatever the app's was.

    It is copied since the app may go on to write into its arrays while we may still have to send them again. Where the
    session wants differences, or has them encoded, that is what is kept of it. ``former``: what is kept since the
    update before. Raises `BadUpdate`, `ConfigError` for a codec that is not here, and `NoRoomError` where there is no
    room for the copy.
    """
    if not update.weight <= train.weight_max:
        raise BadUpdate(f"expected a weight of at most {train.weight_max:g} (weight_max), got {update.weight}")
    cut = _cut(fetched.manifest.layout, update, train.encoding)
    kept = keeping(update.keep, former, _lost(cut), shelf)
    try:
        place, digests, parts = _digested(cut, _chunks(cut, fetched, update, train, former, kept), train, shelf)
    except BaseException:
        if kept is not None:
            kept.leave()
        raise
    return Held(
        train.round,
        cut,
        place,
        digests,
        parts,
        update.weight,
        update.metrics,
        fetched.nbytes,
        base=fetched.manifest.digest,
        keepsake=kept,
    )


def _cut(layout: Layout, update: Update, encoding: Encoding) -> Cut:
    """Return the cut of an update; `BadUpdate` where it is an array's and should be a payload's, or otherwise."""
    if encoding.form != "payload":
        if update.payload is not None:
            raise BadUpdate(
                "payload: this session's strategy takes arrays, expected fedbus.Update(arrays, ...); "
                "payloads are for strategies like append"
            )
        return cut_of(layout, encoding)
    if update.payload is None or update.arrays:
        got = "arrays" if update.payload is None else "both"
        raise BadUpdate(f"this session's strategy takes payloads, expected fedbus.Update(payload=bytes), got {got}")
    nbytes = memoryview(update.payload).nbytes
    if not 0 < nbytes <= PAYLOAD_BYTES_MAX:
        raise BadUpdate(f"payload: expected 1 to {PAYLOAD_BYTES_MAX} bytes, got {nbytes}")
    if nbytes > CHUNKS_MAX * layout.chunk_bytes:
        raise BadUpdate(f"payload: expected at most {CHUNKS_MAX} chunks of {layout.chunk_bytes} bytes, got {nbytes}")
    return cut_of(layout, encoding, nbytes)


def _lost(cut: Cut) -> int:
    """Return of how many numbers it is kept what encoding has lost."""
    if cut.coding is None or not cut.coding.codec.feedback:
        return 0
    return sum(array.elements for array in cut.layout.spec.arrays if array.numpy.kind == "f")


def _chunks(
    cut: Cut, fetched: Fetched, update: Update, train: Train, former: Keepsake | None, kept: Keepsake | None
) -> Callable[[int], Payload]:
    """Return what gives each chunk, in order."""
    if update.payload is not None:
        return payload_chunks(cut, update.payload)
    if cut.encoding.form == "model":
        return Source(cut.layout, update.arrays).chunk
    differences = Differences(cut.layout, fetched.model, update.arrays, cut.encoding)
    if cut.coding is None:
        return differences.chunk
    if kept is None or not kept.lost:
        return Encoded(cut.coding, differences, train.seed).chunk
    known = former.what_was_lost if former is not None and former.lost == kept.lost else None
    return Encoded(cut.coding, differences, train.seed, known, kept.put_lost).chunk


def _digested(
    cut: Cut, chunk: Callable[[int], Payload], train: Train, shelf: Shelf
) -> tuple[Place, tuple[int, ...], tuple[Part, ...]]:
    """Copy and digest all chunks, for as many combiners as get a part."""
    place = shelf.take(cut.nbytes, varies=cut.encoding.form == "payload")

    def copied(index: int) -> Payload:
        return place.put(cut.edges[index], chunk(index))

    try:
        count = max(1, len(train.shards))
        made = [_part(cut, index, count, copied) for index in range(count)]
    except BaseException:
        place.leave()
        raise
    return place, tuple(digest for _, digests in made for digest in digests), tuple(part for part, _ in made)


def _part(cut: Cut, index: int, parts: int, chunk: Callable[[int], Payload]) -> tuple[Part, list[int]]:
    """Digest a part of so many, and each chunk of it; ``chunk(i)`` is called in order."""
    hasher, digests = Hasher(), []
    indices = part_of(cut.count, index, parts)
    for at in indices:
        data = chunk(at)
        digests.append(chunk_digest(data))
        hasher.update(data)
    return Part(indices.start, indices.stop, hasher.hexdigest()), digests
