"""What a session's machine may be told, and what it may ask for: frozen values, nothing else crosses its border."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbus.config.session import SessionConfig
from fedbus.coordinator.sightings import Sight, unseen
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.plans import Plan
from fedbus.messages.records import Entry, ModelPublished, Record
from fedbus.messages.tasks import Task

Report = (
    reports.UpdatesJudged
    | reports.ModelStored
    | reports.MergeFailed
    | reports.Evaluated
    | reports.TaskFailed
    | reports.Withdrawn
)
"""What a coordinator may be told by clients and combiners."""

# --- events: what happened ---


@dataclass(frozen=True, slots=True)
class StartAsked:
    """Somebody asks for this session; its first model is stored.

    ``refusal``: why it cannot run, if it cannot; ``plan``: what it asks of its rounds, if it can. ``base``: the
    version that its first model is, where it was a published one.
    """

    config: SessionConfig
    blob: str
    digest: str
    nbytes: int
    by: str
    refusal: str = ""
    plan: Plan = field(default_factory=Plan)
    base: str = ""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody asks that this session end."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """An entry that stood in the journal when we came."""

    entry: Entry
    sequence: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """The whole journal was replayed, or the bus lost its boards: what should be posted must be posted again."""


@dataclass(frozen=True, slots=True)
class NotPosted:
    """The bus did not take what was to stand on the boards for these clients and combiners."""

    clients: frozenset[str]
    combiners: frozenset[str]


@dataclass(frozen=True, slots=True)
class Appended:
    """The records asked for last are in the journal, as one entry written ``at``."""

    records: tuple[Record, ...]
    at: float
    sequence: int


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """Who is there now: names, each with its incarnation; and the regions of those that are somewhere special.

    ``left``: clients that said `Bye`, and when, also those that came back since. ``sight``: asked what a client does.
    ``client_attributes``: of those that declare any. ``client_policies``: digests of what their owners have decided.
    """

    clients: Mapping[str, str]
    combiners: Mapping[str, str]
    client_regions: Mapping[str, str] = field(default_factory=dict)
    combiner_regions: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, float] = field(default_factory=dict)
    client_attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    client_policies: Mapping[str, str] = field(default_factory=dict)
    sight: Sight = field(default=unseen, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LoadsChanged:
    """How many bytes each combiner expects for other sessions."""

    loads: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reported:
    """A client or combiner reports; ``id`` is what it wants acknowledged."""

    sender: Peer
    id: str
    report: Report


@dataclass(frozen=True, slots=True)
class ModelMissing:
    """The broker does not hold this blob, which a session goes on from; ``since_at`` 0: it does (again)."""

    blob: str
    since_at: float


Event = (
    StartAsked
    | StopAsked
    | Replayed
    | Recovered
    | NotPosted
    | Appended
    | RosterChanged
    | LoadsChanged
    | ModelMissing
    | Reported
)

# --- effects: what is to be done ---


@dataclass(frozen=True, slots=True)
class Append:
    """Write these records to the journal behind ``expected_last``, then say `Appended`."""

    records: tuple[Record, ...]
    expected_last: int


@dataclass(frozen=True, slots=True)
class PostTask:
    """Put a client's task on the board."""

    client: str
    task: Task


@dataclass(frozen=True, slots=True)
class PostOrder:
    """Put a combiner's order on the board."""

    combiner: str
    order: Order


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Enter a published version into the catalogue."""

    model: ModelPublished


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove a blob that no version is made of."""

    blob: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Remove the arrays of a version that its session keeps no longer, unless a stage has it."""

    model: ModelPublished


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell a peer that its reports need not be repeated."""

    receiver: Peer
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """See whether the journal says more than we know: somebody speaks of it, or repeats what has no effect."""


Effect = Append | PostTask | PostOrder | Catalogue | Discard | Expire | Acknowledge | ReadAgain
