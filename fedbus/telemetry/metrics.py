"""Every metric that fedbus has, in one table; `ALL` is what ``docs/reference/telemetry.md`` is held to.

Units are UCUM's; an annotation in braces counts things. Buckets are given for each histogram: those that OpenTelemetry
has by default are made for milliseconds, and would put every round into the first of them.

No attribute holds the name of a client, a session, a round or a version: each would be a time series that is never
written again. Sessions are looked at one by one on the page, in the journal and in traces. Roles and streams are few,
and so are strategies, routes, stages and reasons to wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fedbus.telemetry.names import (
    DIRECTION,
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    OUTCOME,
    PHASE,
    QUEUE,
    ROLE,
    STAGE,
    STATUS,
    STRATEGY,
    STREAM,
    WAIT,
)

Shape = Literal["counter", "gauge", "histogram"]

LONG: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
"""Seconds of what takes as long as training does: a tenth of a second in tests, hours in hospitals."""

SHORT: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds of what the operator's side does by itself."""

HTTP: Final = (0.005, 0.025, 0.1, 0.2, 0.5, 2.0, 10.0)
"""Seconds. Half as many as the HTTP conventions advise: each is a line for each of some forty routes."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``roles``: who has it. ``reads``: it is looked at when somebody asks, not counted as it happens."""

    name: str
    shape: Shape
    unit: str
    about: str
    roles: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    reads: bool = False


_OPERATOR = ("coordinator",)
_COMBINER = ("combiner",)
_CLIENT = ("client",)
_GATEWAY = ("gateway",)
_BUSY = ("coordinator", "combiner", "client")
_EVERYBODY = (*_BUSY, "gateway")

# --- rounds, by the coordinator that leads ---

ROUND_DURATION: Final = Metric(
    "fedbus.round.duration",
    "histogram",
    "s",
    "From a round's opening to its end, its evaluation not included.",
    _OPERATOR,
    (OUTCOME, STRATEGY),
    LONG,
)
ROUND_PHASE: Final = Metric(
    "fedbus.round.phase.duration",
    "histogram",
    "s",
    "What the time of a closed round went into: training, closing (merge and store), evaluating.",
    _OPERATOR,
    (PHASE,),
    LONG,
)
ROUND_BYTES: Final = Metric(
    "fedbus.round.io",
    "counter",
    "By",
    "Bytes of models (down) and of updates (up) of closed rounds.",
    _OPERATOR,
    (DIRECTION,),
)
UPDATES: Final = Metric(
    "fedbus.updates",
    "counter",
    "{update}",
    "Updates that were journalled as accepted.",
    _OPERATOR,
)
REFUSALS: Final = Metric(
    "fedbus.refusals",
    "counter",
    "{update}",
    "Clients that were left out of a round, by the stage at which it failed.",
    _OPERATOR,
    (STAGE,),
)
REPORTS_REFUSED: Final = Metric(
    "fedbus.reports.refused",
    "counter",
    "{report}",
    "Reports whose signature does not count, by the role that they are said to be from.",
    _OPERATOR,
    (ROLE,),
    reads=True,
)
PEERS: Final = Metric(
    "fedbus.peers",
    "gauge",
    "{peer}",
    "Who is there: each client of a crowd counts.",
    (*_OPERATOR, *_GATEWAY),
    (ROLE,),
    reads=True,
)
WAITS: Final = Metric(
    "fedbus.waits",
    "gauge",
    "{wait}",
    "What waits now, by what it waits for.",
    (*_OPERATOR, *_GATEWAY),
    (WAIT,),
    reads=True,
)
WAIT_AGE: Final = Metric(
    "fedbus.wait.age",
    "gauge",
    "s",
    "For how long the oldest has waited.",
    (*_OPERATOR, *_GATEWAY),
    (WAIT,),
    reads=True,
)
LEADS: Final = Metric(
    "fedbus.leads",
    "gauge",
    "1",
    "1 for the coordinator that leads, 0 for one that stands by.",
    _OPERATOR,
    reads=True,
)
JOURNAL_LAG: Final = Metric(
    "fedbus.journal.lag",
    "gauge",
    "{entry}",
    "Entries of the journal that this coordinator has not read yet.",
    _OPERATOR,
    reads=True,
)

# --- the combiners' work ---

FOLDS: Final = Metric(
    "fedbus.folds",
    "counter",
    "{update}",
    "Updates judged, by verdict.",
    _COMBINER,
    (OUTCOME,),
)
FOLD_BYTES: Final = Metric(
    "fedbus.fold.io", "counter", "By", "Bytes of updates that were folded, as they travelled.", _COMBINER
)
UPLOAD_DURATION: Final = Metric(
    "fedbus.upload.duration",
    "histogram",
    "s",
    "From an update's first announcement until its last byte was folded.",
    _COMBINER,
    (),
    LONG,
)
PUBLISH_DURATION: Final = Metric(
    "fedbus.model.publish.duration",
    "histogram",
    "s",
    "Making and storing a new model, or a part of it, once all that counts is folded.",
    _COMBINER,
    (OUTCOME,),
    LONG,
)
SPOOL: Final = Metric(
    "fedbus.spool.usage",
    "gauge",
    "By",
    "Bytes that updates of open rounds take in the spool.",
    _COMBINER,
    reads=True,
)
CREDIT: Final = Metric(
    "fedbus.credit.usage",
    "gauge",
    "By",
    "Bytes that may be under way to this combiner now; senders wait where it comes near fedbus.credit.limit.",
    _COMBINER,
    reads=True,
)
CREDIT_LIMIT: Final = Metric(
    "fedbus.credit.limit",
    "gauge",
    "By",
    "Most bytes that may be under way to this combiner.",
    _COMBINER,
    reads=True,
)

# --- clients ---

WORK_DURATION: Final = Metric(
    "fedbus.work.duration",
    "histogram",
    "s",
    "Where a client's time of an update went: wait, fetch, train; `upload` until its verdict.",
    _CLIENT,
    (PHASE,),
    LONG,
)
WORK: Final = Metric(
    "fedbus.work",
    "counter",
    "{call}",
    "Calls of the app's functions, by what came of it; `stage` is the function.",
    _CLIENT,
    (STAGE, OUTCOME),
)
CLIENT_BYTES: Final = Metric(
    "fedbus.client.io",
    "counter",
    "By",
    "Bytes of models that came (down), and of updates that were accepted (up).",
    _CLIENT,
    (DIRECTION,),
)

# --- every role ---

QUEUE_LENGTH: Final = Metric(
    "fedbus.queue.length",
    "gauge",
    "{message}",
    "What waits in this process: `inbox` to be decided, `outbox` to be acknowledged.",
    _BUSY,
    (QUEUE,),
    reads=True,
)
MESSAGES_DROPPED: Final = Metric(
    "fedbus.messages.dropped",
    "counter",
    "{message}",
    "Messages of those who say more than they have room for; the log names them.",
    (*_OPERATOR, *_GATEWAY),
    (QUEUE,),
    reads=True,
)
RECONNECTS: Final = Metric(
    "fedbus.bus.reconnects",
    "counter",
    "{reconnect}",
    "How often the connection to the broker was made again.",
    _EVERYBODY,
    reads=True,
)
CONNECTED: Final = Metric(
    "fedbus.bus.connected",
    "gauge",
    "1",
    "1 while the broker is reachable.",
    _EVERYBODY,
    reads=True,
)
SPANS_DROPPED: Final = Metric(
    "fedbus.spans.dropped",
    "counter",
    "{span}",
    "Spans that were not put on the bus, as more waited than may.",
    _EVERYBODY,
    reads=True,
)

# --- the gateway ---

REQUEST_DURATION: Final = Metric(
    "http.server.request.duration",
    "histogram",
    "s",
    "Requests of REST, until the answer is sent; streams of events not included.",
    _GATEWAY,
    (HTTP_METHOD, HTTP_ROUTE),
    HTTP,
)
REQUESTS: Final = Metric(
    "fedbus.requests",
    "counter",
    "{request}",
    "The same requests, by what was answered.",
    _GATEWAY,
    (HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS),
)
READERS: Final = Metric(
    "fedbus.event.readers",
    "gauge",
    "{reader}",
    "Streams of server-sent events that are open.",
    _GATEWAY,
    reads=True,
)
SESSIONS: Final = Metric(
    "fedbus.sessions",
    "gauge",
    "{session}",
    "Sessions of the workspace, by where they stand.",
    _GATEWAY,
    (STATUS,),
    reads=True,
)
STREAM_USAGE: Final = Metric(
    "fedbus.stream.usage",
    "gauge",
    "By",
    "Bytes in a stream of the broker.",
    _GATEWAY,
    (STREAM,),
    reads=True,
)
STREAM_LIMIT: Final = Metric(
    "fedbus.stream.limit",
    "gauge",
    "By",
    "Most bytes of a stream, where it has such a limit.",
    _GATEWAY,
    (STREAM,),
    reads=True,
)

ALL: Final = tuple(value for value in list(vars().values()) if isinstance(value, Metric))
