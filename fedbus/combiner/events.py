"""What the combiner's machine may be told, and what it may ask for."""

from __future__ import annotations

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


# --- events: what happened ---


@dataclass(frozen=True, slots=True)
class OrderSeen:
    """The coordinator's order for us, of our incarnation."""

    order: Order


@dataclass(frozen=True, slots=True)
class Prepared:
    """The base model's manifest is here and the accumulator is empty and ready."""

    round: int
    spec: str
    nbytes: int
    chunks: int
    partial_nbytes: int
    partial_chunks: int


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """The base model cannot be had."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Begun:
    """Somebody announces an upload."""

    sender: Peer
    begin: UploadBegin
    headers: dict[str, str] = field(default_factory=dict)


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
    """The root has our partial, or refused it."""

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
    | Ticked
)

# --- effects: what is to be done ---


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch the base model's manifest and make an empty accumulator for the round; then say `Prepared`."""

    order: Order


@dataclass(frozen=True, slots=True)
class Fold:
    """Add a chunk; then say `Folded`, `Damaged` or `Unfit`. Jobs are done in the order of these effects."""

    key: Key
    serial: int
    chunk: int
    data: Buffer
    digest: int
    weight: float
    last: bool


@dataclass(frozen=True, slots=True)
class Undo:
    """Take out everything that was folded of an upload, exactly, and forget it."""

    key: Key


@dataclass(frozen=True, slots=True)
class Reset:
    """Drop the accumulator and the spool."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a sender how its upload stands."""

    receiver: Peer
    state: UploadState


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the coordinator, until it has it."""

    body: reports.UpdatesJudged | reports.ModelStored | reports.MergeFailed


@dataclass(frozen=True, slots=True)
class SendPartial:
    """Send what is folded to the root; then say `PartialSent`."""

    order: Order


@dataclass(frozen=True, slots=True)
class StopPartial:
    """Give up sending a partial: the order has changed."""


@dataclass(frozen=True, slots=True)
class Store:
    """Make the new model of what is folded and store it; then say `Stored` or `StoreFailed`."""

    order: Order


Effect = Prepare | Fold | Undo | Reset | Tell | Report | SendPartial | StopPartial | Store
