"""What the combiner's machine may be told, and what it may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.subjects import ChunkAddress
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.tensors import Buffer


class Key(NamedTuple):
    """One upload: who sends it, for which round, as which attempt."""

    sender: Peer
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Kept:
    """An update that an earlier life of this combiner had accepted, or, with a ``reason``, had refused.

    It lies in the spool under the number ``serial``.
    """

    key: Key
    serial: int
    begin: UploadBegin
    reason: str = ""


# --- events: what happened ---


@dataclass(frozen=True, slots=True)
class OrderSeen:
    """The coordinator's order for us; ``headers`` say in which trace it belongs."""

    order: Order
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The base model's manifest is here and the accumulator is empty and ready.

    ``nbytes`` in ``chunks`` of at most ``chunk_bytes`` are what an update has in our part of the model, as it travels;
    or, with ``payload_bytes_max``, as many as it likes up to that. A partial has chunks of ``partial_chunk_bytes``.
    ``kept``: what an earlier life left of this round.
    """

    round: int
    spec: str
    nbytes: int
    chunks: int
    partial_nbytes: int
    partial_chunks: int
    chunk_bytes: int
    part: int = 0
    parts: int = 1
    kept: tuple[Kept, ...] = ()
    partial_chunk_bytes: int = 0
    payload_bytes_max: int = 0

    def chunk_bytes_of(self, role: str) -> int:
        """Most bytes of a chunk that a client sends, or another combiner."""
        return self.partial_chunk_bytes or self.chunk_bytes if role == "combiner" else self.chunk_bytes


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """The base model cannot be had."""

    round: int
    reason: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Begun:
    """Somebody announces an upload; ``bare``: what came with the announcement could not be kept.

    ``since_at``: when it was first announced, of one that was too early. ``flaw``: why its signature does not count.
    """

    sender: Peer
    begin: UploadBegin
    headers: Mapping[str, str] = field(default_factory=dict)
    bare: bool = False
    since_at: float | None = None
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A chunk came; ``data`` is handed through untouched."""

    address: ChunkAddress
    data: Buffer


@dataclass(frozen=True, slots=True)
class Folded:
    """A chunk is in the accumulator and in the spool. With the last: the digest of the whole, and its norm."""

    key: Key
    serial: int
    chunk: int
    digest: str = ""
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Damaged:
    """A chunk's bytes are not those that its digest names: it was left out, and what came behind it too."""

    key: Key
    serial: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Unfit:
    """A chunk cannot be folded (not finite, out of range, spool full): the accumulator is as it was before it."""

    key: Key
    serial: int
    chunk: int
    reason: str


@dataclass(frozen=True, slots=True)
class PartialSent:
    """The root, or our parent in the tree, has our partial, or refused it."""

    attempt: int
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The new model is stored."""

    attempt: int
    digest: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The new model could not be made or stored."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class RoomMade:
    """Another session gave back bytes for which uploads of this one wait."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


Event = (
    OrderSeen
    | Prepared
    | PrepareFailed
    | Begun
    | ChunkArrived
    | Folded
    | Damaged
    | Unfit
    | PartialSent
    | Stored
    | StoreFailed
    | RoomMade
    | Ticked
)

# --- effects: what is to be done ---


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch the base model's manifest and make an empty accumulator for the round; then say `Prepared`."""

    order: Order


@dataclass(frozen=True, slots=True)
class Fold:
    """Add a chunk; then say `Folded`, `Damaged` or `Unfit`. Jobs are done in the order of these effects.

    ``begin``, with the last chunk: what is entered in the spool's index of an update that is what was announced.
    ``nbytes``: of all of the upload. ``packed``: ``data`` may be a frame (`fedbus.exchange.packing`).
    """

    key: Key
    serial: int
    chunk: int
    data: Buffer
    digest: int
    weight: float
    last: bool
    begin: UploadBegin | None = None
    nbytes: int = 0
    packed: bool = False


@dataclass(frozen=True, slots=True)
class FoldWhole:
    """Add all of an upload, which came at once; then say `Folded`, as for its last chunk, or `Unfit`."""

    key: Key
    serial: int
    data: Buffer
    weight: float
    begin: UploadBegin | None = None


@dataclass(frozen=True, slots=True)
class Refold:
    """Add an update that is kept, from the spool; then say `Folded`, as for its last chunk."""

    key: Key
    serial: int
    nbytes: int
    weight: float


@dataclass(frozen=True, slots=True)
class Note:
    """Enter in the spool's index that an update is refused, before its sender is told.

    Who was told does not come again: the next life must know it too.
    """

    key: Key
    number: int
    begin: UploadBegin
    reason: str


@dataclass(frozen=True, slots=True)
class Undo:
    """Take out everything that was folded of an upload, exactly, and forget it."""

    key: Key


@dataclass(frozen=True, slots=True)
class Reset:
    """Drop what is folded and spooled; the room is kept for the next round."""


@dataclass(frozen=True, slots=True)
class Release:
    """Give back the room that is kept for a next round: it does not come soon."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a sender how its upload stands; ``is_news``: it is refused, and was not told so before."""

    receiver: Peer
    state: UploadState
    is_news: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the coordinator, until it has it."""

    body: reports.UpdatesJudged | reports.ModelStored | reports.MergeFailed


@dataclass(frozen=True, slots=True)
class SendPartial:
    """Send what is folded to the parent in the tree, or to the root; then say `PartialSent`."""

    order: Order


@dataclass(frozen=True, slots=True)
class StopClosing:
    """Give up sending a partial, or waiting for the others' chunks: the order has changed."""


@dataclass(frozen=True, slots=True)
class Store:
    """Make the new model of what is folded, and of what others store of it, whole; then `Stored` or `StoreFailed`."""

    order: Order


@dataclass(frozen=True, slots=True)
class StorePart:
    """Make our part of the new model and store its chunks; say `StoreFailed` where that fails."""

    order: Order


Effect = (
    Prepare
    | Fold
    | FoldWhole
    | Refold
    | Note
    | Undo
    | Reset
    | Release
    | Tell
    | Report
    | SendPartial
    | StopClosing
    | Store
    | StorePart
)
