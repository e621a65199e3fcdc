"""What REST answers with: one class for each shape, in the words of the glossary; OpenAPI is made of these.

Times are seconds since the epoch, None where there is none yet; spans of time are in seconds, sizes in bytes. Metrics
that are not finite become null.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from fedbus.config.session import SessionConfig
from fedbus.messages.ids import Name, Reason, SessionName
from fedbus.messages.registry import NOTE_CHARS_MAX, ShortReason

T = TypeVar("T")

Value = Annotated[float, WithJsonSchema({"type": ["number", "null"]}, mode="serialization")]
"""A number that may be NaN or infinite, which JSON has no word for: null."""

Metrics = dict[str, Value]
Status = Literal["starting", "waiting", "running", "completed", "stopped", "failed", "refused"]
"""Where a session stands; ``waiting``: for clients, before a round; ``running``: training, merging, evaluating."""

Outcome = Literal["counted", "stale", "late", "refused", "lost", "missed", "accepted", "waiting"]
"""What became of a client's update (`fedbus.federation.report.Outcome`)."""

Kept = Literal["kept", "archived", "retired", "removed"]
"""Where a version's arrays are: on the bus, only in the store behind it, about to be removed, nowhere any more."""


class View(BaseModel):
    """Base of all shapes."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null", extra="forbid")


class Page(View, Generic[T]):
    """Some of a list; ``next``: the cursor of what follows, None at the end; ``total``: of the whole list, if known."""

    items: tuple[T, ...]
    next: str | None = None
    total: int | None = None


class Problem(View):
    """What went wrong (RFC 9457); ``errors``: of an invalid request, each field with its bound.

    ``state``: of a conflict, the state of what cannot be changed so. ``permission``: which is missing (403), and the
    roles that it is ``permitted_to``. ``again``: it would be done for who has just shown anew who she is (403).
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    instance: str = ""
    errors: tuple[FieldProblem, ...] = ()
    state: str | None = None
    permission: str | None = None
    permitted_to: tuple[str, ...] | None = None
    again: bool | None = None


class FieldProblem(View):
    """One field that is not as it should be: ``where`` in the body, query or path, as a path joined by dots."""

    where: str
    problem: str
    got: str = ""


# --- what waits, and who is there ---


class WaitView(View):
    """Something that waits, as `fedbus.messages.queries.Wait`."""

    session: str
    round: int
    what: str
    on: tuple[str, ...] = ()
    missing: int = 0
    since_at: float
    until_at: float
    then: str
    doing: dict[str, str] = {}
    away: dict[str, float] = {}
    away_count: int = 0


class PeerView(View):
    """A coordinator, combiner or gateway that is there. ``leads``: the coordinator that decides now.

    ``clients``, ``updates``, ``nbytes``: of a combiner, in the rounds that are open: clients that are to send to it,
    updates that it has accepted, and their bytes.
    """

    role: Literal["coordinator", "combiner", "gateway"]
    name: str
    version: str
    doing: str = ""
    attributes: dict[str, str] = {}
    since_at: float
    seen_at: float
    leads: bool = False
    clients: int = 0
    updates: int = 0
    nbytes: int = 0


class StreamView(View):
    """A stream of the broker: how full it is; ``bytes_max`` None: not bounded."""

    name: str
    storage: Literal["file", "memory"]
    messages: int
    nbytes: int
    bytes_max: int | None = None


class BrokerView(View):
    """The broker that the gateway is connected to."""

    connected: bool
    server: str = ""
    version: str = ""
    round_trip_s: float | None = None
    payload_max: int = 0
    streams: tuple[StreamView, ...] = ()


class ArchiveView(View):
    """How far the copying to the store behind the bus is, as `fedbus.store.archivist.ArchivistState`."""

    store: str
    archived: int
    waiting: int = 0
    waiting_bytes: int = 0
    since_at: float | None = None
    error: str = ""
    error_at: float | None = None
    refused: dict[str, str] = {}


class OverviewView(View):
    """Everything at a glance. ``coordinator_answers`` False: none does; what is known of others is then old.

    ``at``: what time it is for the coordinators, by which all moments and deadlines are; the gateway's own clock before
    one has said it. ``archive``: None where this gateway has no store.
    """

    workspace: str
    at: float
    version: str
    broker: BrokerView
    coordinator_answers: bool
    coordinators: tuple[PeerView, ...]
    combiners: tuple[PeerView, ...]
    gateways: tuple[PeerView, ...]
    clients: int
    clients_doing: dict[str, int]
    sessions: dict[Status, int]
    models: int
    waits: tuple[WaitView, ...]
    jaeger_url: str | None = None
    archive: ArchiveView | None = None


class ClientView(View):
    """A client that is there, or that a journal tells of.

    ``rounds_asked .. bytes_down``: over all sessions. ``weight``: sum of what it gave with counted updates.
    ``last_at``: when it was last heard of, by presence or in a journal.
    """

    client: str
    online: bool
    doing: str = ""
    version: str = ""
    crowd: str = ""
    attributes: dict[str, str] = {}
    since_at: float | None = None
    last_at: float | None = None
    sessions: int = 0
    rounds_asked: int = 0
    rounds_counted: int = 0
    rounds_refused: int = 0
    weight: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class ContributionView(View):
    """What became of a client in one round."""

    session: str
    round: int
    outcome: Outcome
    at: float
    weight: float = 0.0
    nbytes: int = 0
    what: str = ""
    metrics: Metrics = {}


class ClientDetail(ClientView):
    """A client with its newest contributions, newest first, at most 200."""

    history: tuple[ContributionView, ...] = ()


# --- sessions ---


class SessionView(View):
    """A session at a glance; ``base``: the version that it began with, where it was a published one."""

    session: str
    status: Status
    state: str
    reason: str = ""
    by: str = ""
    base: str = ""
    strategy: str
    codec: str = "none"
    rounds: int
    rounds_closed: int
    clients_min: int
    started_at: float | None = None
    ended_at: float | None = None
    version: str = ""
    digest: str = ""
    nbytes: int = 0
    metrics: Metrics = {}
    best_version: str = ""
    best_value: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    waits: tuple[WaitView, ...] = ()


class SessionDetail(SessionView):
    """A session with its settings; its rounds and events have addresses of their own.

    ``failures``: attempts at rounds that failed. ``left_s``: about how long the rest of its rounds takes, None where
    that is not known. ``sequence``: of the newest entry of its journal; live events go on behind it.
    """

    config: SessionConfig
    failures: int = 0
    left_s: float | None = None
    sequence: int = 0


class SessionStart(View):
    """What starts a session: ``model`` is a published version (import one first, `importModel`).

    ``session``: its name; made up where there is none.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "digits-10", "config": {"rounds": 3, "strategy": "fedadam"}}]}
    )

    model: Name
    config: SessionConfig = SessionConfig()
    session: SessionName | None = None


class SessionClone(View):
    """What differs from the session that is cloned; ``model`` None: the version that it began with."""

    config: dict[str, Any] = {}
    model: Name | None = None
    session: SessionName | None = None


class SessionStop(View):
    """Why it is to end."""

    reason: Reason = "stopped by request"


class RoundView(View):
    """A closed round, or the one that is open (``closed_at`` None); ``metrics``: of its version's evaluation."""

    round: int
    state: Literal["training", "closing", "closed", "failed"]
    version: str = ""
    counted: int = 0
    asked: int = 0
    refused: int = 0
    opened_at: float
    closed_at: float | None = None
    seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    train_metrics: Metrics = {}
    metrics: Metrics = {}
    why: str = ""
    not_counted: dict[str, str] = {}
    trace_id: str | None = None


class ClientRoundView(View):
    """One client in one round. ``seconds``: from the round's opening to the verdict, None where none came.

    ``wait_s .. upload_s``: where its time went, None where it has not said so (`fedbus.messages.ids.Spent`).
    """

    client: str
    outcome: Outcome
    seconds: float | None = None
    combiner: str = ""
    what: str = ""
    by: str = ""
    weight: float = 0.0
    stale: int = 0
    moves: int = 0
    nbytes: int = 0
    fetched: int = 0
    norm: float | None = None
    metrics: Metrics = {}
    wait_s: float | None = None
    fetch_s: float | None = None
    train_s: float | None = None
    upload_s: float | None = None


class RoundDetail(RoundView):
    """A round with every client that was asked, slowest first; times as in `fedbus.federation.report.RoundReport`."""

    session: str
    deadline_at: float
    fixed_at: float | None = None
    target: int
    quorum: int
    earlier: tuple[str, ...] = ()
    clients: tuple[ClientRoundView, ...] = ()


class EvaluationView(View):
    """What clients found of one version; ``clients``: their own metrics, where the session reveals them."""

    round: int
    version: str
    at: float
    metrics: Metrics
    answered: int
    reason: str = ""
    clients: dict[str, Metrics] = {}
    missing: dict[str, str] = {}


class EventView(View):
    """One record of a journal. ``id``: ``<sequence>.<index>``, what `Last-Event-ID` takes; ``data``: the record."""

    id: str
    sequence: int
    session: str
    kind: str
    at: float
    data: dict[str, Any]


class DifferenceView(View):
    """A setting in which sessions differ: by session, in the order that was asked for."""

    setting: str
    values: tuple[Any, ...]


class CurveView(View):
    """One metric of one session, over its rounds; ``of``: reported while training, or by the evaluation."""

    session: str
    metric: str
    of: Literal["train", "evaluate"]
    rounds: tuple[int, ...]
    at: tuple[float, ...]
    values: tuple[float | None, ...]


class ComparisonView(View):
    """Several sessions side by side."""

    sessions: tuple[SessionView, ...]
    settings: tuple[DifferenceView, ...]
    curves: tuple[CurveView, ...]


# --- models ---


class ModelView(View):
    """A version at a glance. ``session`` empty: it was imported. ``participants``: updates that it was made of.

    ``removed_at``, ``removed_why``: when and why its arrays were removed, where they were. ``signature``: of version
    and digest, by the workspace's model key, in hexadecimal; empty where it is open.
    """

    version: str
    session: str
    round: int
    parent: str
    digest: str
    nbytes: int
    at: float
    kept: Kept = "kept"
    removed_at: float | None = None
    removed_why: str = ""
    stages: tuple[str, ...] = ()
    note: str = ""
    strategy: str = ""
    participants: int = 0
    metrics: Metrics = {}
    signature: str = ""


class ArrayView(View):
    """One array of a model."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class ModelDetail(ModelView):
    """A version with its arrays, its session's settings, and who took part where the session tells."""

    arrays: tuple[ArrayView, ...] = ()
    config: SessionConfig | None = None
    clients: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


class LineageView(View):
    """Versions and what each was made from, oldest first: a session's, and those before and after it."""

    versions: tuple[ModelView, ...]


class Annotation(View):
    """What people write beside a version."""

    note: Annotated[str, Field(max_length=NOTE_CHARS_MAX)]


class StageView(View):
    """A named place for one version, such as ``production``, with the versions before, newest first."""

    stage: str
    version: str
    at: float
    by: str
    reason: str = ""
    before: tuple[str, ...] = ()


class Promotion(View):
    """Which version a stage is to have."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "digits-10", "reason": "best so far"}]})

    version: Name
    reason: ShortReason = ""


class Rollback(View):
    """Why a stage goes back to the version before."""

    reason: ShortReason = ""


class RetentionView(View):
    """Which versions' arrays are kept of each session: the newest ``keep_last`` (None: all), and what is referenced."""

    keep_last: Annotated[int, Field(ge=1, lt=2**53)] | None = None


class CollectionView(View):
    """What a collection has removed, or would remove.

    ``nbytes``: of the versions that were removed. ``retired``: go when their grace is over. ``kept``: versions beyond
    the retention that stay, each with the reason. ``imports``: that were cut short, and are cleared away.
    """

    dry_run: bool
    removed: tuple[str, ...]
    nbytes: int
    retired: tuple[str, ...] = ()
    kept: dict[str, str] = {}
    imports: tuple[str, ...] = ()


# --- strategies, traces ---


class OptionView(View):
    """One option of a strategy, codec or selection; ``json_schema``: of its values."""

    name: str
    default: Any = None
    required: bool = False
    description: str = ""
    json_schema: dict[str, Any] = {}


class StrategyView(View):
    """A strategy, codec or selection that is installed here."""

    kind: Literal["strategy", "codec", "selection"]
    name: str
    about: str = ""
    family: str = ""
    needs: tuple[str, ...] = ()
    paper: str = ""
    options: tuple[OptionView, ...] = ()


class SpanView(View):
    """A span; ``parent_id`` empty: the root. ``start_at``, ``end_at``: in seconds since the epoch."""

    span_id: str
    parent_id: str
    name: str
    role: str
    instance: str
    start_at: float
    end_at: float
    error: str = ""
    attributes: dict[str, Any] = {}
    events: tuple[dict[str, Any], ...] = ()
    links: tuple[str, ...] = ()


class TraceView(View):
    """The spans of a round that are known here, by start; ``complete``: whether its round span has ended."""

    trace_id: str
    session: str
    round: int
    complete: bool
    spans: tuple[SpanView, ...]


class HealthView(View):
    """Whether a gateway lives, and whether it is ready, and why not."""

    status: Literal["ok", "not ready", "draining"]
    reason: str = ""
    version: str = ""
