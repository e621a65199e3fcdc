"""What the journal holds: the facts of a session, in the order in which they became true.

An `Entry` is one append: its records became true together. The state of a session is a fold over its records and over
nothing else; a record is never changed once a release has written it (fields may be added with defaults).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage
from fedbus.messages.envelope import Body
from fedbus.messages.ids import (
    SHARDS_MAX,
    Count,
    Digest,
    MaybeName,
    Metrics,
    Name,
    Number,
    PolicyDigest,
    Reason,
    Said,
    SpentTold,
    Sums,
)
from fedbus.messages.plans import Plan

Clients = Annotated[tuple[Name, ...], Field(max_length=200_000, fail_fast=True)]
Places = Annotated[dict[Name, Name], Field(max_length=200_000)]
Shards = Annotated[tuple[Name, ...], Field(max_length=SHARDS_MAX)]


class SessionStarted(Body):
    """A session begins with a model, version 0 of its chain; ``plan``: what its strategy asks of the rounds.

    ``base``: the version that this model is, where it was a published one.
    """

    config: SessionConfig
    version: Name
    blob: Name
    digest: Digest
    nbytes: Count
    by: str = ""
    plan: Plan = Plan()
    base: MaybeName = ""

    def model(self, session: str, at: float) -> ModelPublished:
        """Return the version that the session begins with, journalled ``at``, as the catalogue has it."""
        return ModelPublished(
            round=0,
            version=self.version,
            parent=self.base,
            session=session,
            blob=self.blob,
            digest=self.digest,
            nbytes=self.nbytes,
            at=at,
        )


class RoundOpened(Body):
    """A round asks these clients (client -> combiner) for updates of a version.

    ``incarnations`` are those of the combiners. ``shards``: where a combiner owns a part of the chunks of everybody's
    update instead of everything of some clients, the combiners in the order of their parts; each client then stands at
    the first.
    """

    round: Count
    attempt: Count
    version: Name
    blob: Name
    clients: Places
    incarnations: Places
    target: Count
    deadline_at: Number
    traceparent: str = ""
    shards: Shards = ()


class AcceptedUpdate(Body):
    """An update that a combiner has folded; ``stale``: made for so many rounds ago, its weight is the lessened one.

    ``spent``: where its client's time went; None where neither said so.
    """

    client: Name
    attempt: Count
    weight: Number
    nbytes: Count
    fetched: Count = 0
    norm: float
    digest: str
    metrics: Metrics = {}
    stale: Count = 0
    spent: SpentTold | None = None


class RefusedUpdate(Body):
    """An update that cannot count, and why; ``by`` is who found it: the combiner or the client itself.

    ``policy``, ``until_at``: of one that its client's owner does not let out, as in `reports.TaskFailed`.
    """

    client: Name
    by: Name
    stage: str
    reason: Reason
    policy: PolicyDigest = ""
    until_at: Number = 0.0

    @property
    def declined(self) -> bool:
        """Whether it was its client's owner who did not want it."""
        return self.stage == "policy"


class UpdatesRecorded(Body):
    """What became of some updates of the open round; ``withdrawn``: also of those that were accepted before."""

    round: Count
    accepted: Annotated[tuple[AcceptedUpdate, ...], Field(fail_fast=True)] = ()
    refused: Annotated[tuple[RefusedUpdate, ...], Field(fail_fast=True)] = ()
    withdrawn: Annotated[tuple[RefusedUpdate, ...], Field(fail_fast=True)] = ()


class ClientsMoved(Body):
    """These clients send (again), as ``attempt``, to another combiner or to its new incarnation.

    What they had sent is gone. ``shards`` as in `RoundOpened`; then everybody is moved.
    """

    round: Count
    attempt: Count
    moves: Places
    incarnations: Places
    reason: Reason
    shards: Shards = ()


Ago = Annotated[dict[Name, Count], Field(max_length=200_000)]
"""Clients, each with how many seconds ago."""


class Missing(Body):
    """Of the clients of which no update came and none was refused: what was known of each when that was decided.

    ``training``, ``sending``: there, and doing so, by their own word; ``there``: there, doing something else, or one of
    a crowd. ``left``: said `Bye` so many seconds before; ``silent``: heard last so many seconds before; ``unheard``:
    not heard of since the coordinator came that decided this.
    """

    training: Clients
    sending: Clients = ()
    there: Clients = ()
    left: Ago = {}
    silent: Ago = {}
    unheard: Clients = ()

    @property
    def count(self) -> int:
        """How many clients that are."""
        there = len(self.training) + len(self.sending) + len(self.there)
        return there + len(self.left) + len(self.silent) + len(self.unheard)


class RoundClosing(Body):
    """The exact set of updates that count in a round. A higher ``attempt`` replaces an earlier set.

    ``parents``: combiner -> who merges its partial, where that is not the root: the tiers of this round. ``missing``:
    of whom nothing came; None where all have answered, or where this was written before there was this field.
    """

    round: Count
    attempt: Count
    counted: Clients
    root: Name
    publish: Name
    reason: Reason
    deadline_at: Number
    parents: Places = {}
    missing: Missing | None = None


class RoundFailed(Body):
    """A round ended without a model; the next attempt, or the end of the session, follows.

    ``missing``: as in `RoundClosing`.
    """

    round: Count
    attempt: Count
    reason: Reason
    missing: Missing | None = None


REMOVED_CHARS_MAX = 300
"""Of the sentence on why a version's arrays were removed, and by whom."""


class ModelPublished(Body):
    """A version exists: its blob was stored before this was written.

    ``removed_at``: when its arrays were removed, 0 while they are kept, and why; only the catalogue says so.
    ``signature``: of version and digest, in hexadecimal, by the key of a secured workspace; only
    the catalogue has it, for what the journal says follows from decisions alone.
    """

    round: Count
    version: Name
    parent: str
    session: Name
    blob: Name
    digest: Digest
    nbytes: Count
    at: Number = 0.0
    removed_at: Number = 0.0
    removed_why: Annotated[str, Said, Field(max_length=REMOVED_CHARS_MAX)] = ""
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""


class RoundClosed(Body):
    """A round is over: its updates are settled and may be forgotten by everybody."""

    round: Count
    counted: Count
    metrics: Metrics = {}
    bytes_up: Count = 0
    bytes_down: Count = 0
    opened_at: Number = 0.0
    not_counted: Annotated[dict[Name, Reason], Field(max_length=200_000)] = {}


class EvaluationOpened(Body):
    """These clients are asked to measure a version."""

    round: Count
    version: Name
    blob: Name
    clients: Clients
    deadline_at: Number


class Measured(Body):
    """One client's metrics."""

    client: Name
    weight: Number
    metrics: Metrics
    fetched: Count = 0


class RoundEvaluated(Body):
    """The metrics of a version: weighted over clients, and each client's own.

    ``missing``: asked, without an answer that counts, and why. ``sums``: over all ``answered`` clients; the clients'
    own numbers are not kept where the session reveals sums only. ``reason``: why nothing of the answers is kept.
    ``declined``: those of the missing whose owners do not want it.
    """

    round: Count
    version: Name
    metrics: Metrics
    clients: Annotated[tuple[Measured, ...], Field(fail_fast=True)] = ()
    missing: dict[Name, Reason] = {}
    sums: Sums = {}
    answered: Count = 0
    reason: Reason = ""
    declined: Annotated[tuple[RefusedUpdate, ...], Field(fail_fast=True)] = ()


class SessionEnded(Body):
    """Nothing follows in this session."""

    outcome: Literal["completed", "stopped", "failed", "refused"]
    reason: Reason
    version: str = ""
    digest: str = ""


Record = (
    SessionStarted
    | RoundOpened
    | UpdatesRecorded
    | ClientsMoved
    | RoundClosing
    | RoundFailed
    | ModelPublished
    | RoundClosed
    | EvaluationOpened
    | RoundEvaluated
    | SessionEnded
)


class Typed(Body):
    """A record with its kind, so that it can be told apart when read back."""

    type: Annotated[str, Field(max_length=64)]
    data: dict[str, object]


RESTORING, RESTORED = "restoring", "restored"
"""Epochs of two entries without records: what stands between them is an old journal that is being written again.

Nobody may go on from the middle of it: what is decided anew there would take the place of what was decided once.
"""


class Entry(Body):
    """One append to a session's journal.

    ``epoch`` is the incarnation of the coordinator that wrote it, ``term`` that of its lease.
    """

    at: Number
    epoch: Name
    term: Count = 0
    records: Annotated[tuple[Typed, ...], Field(max_length=100, fail_fast=True)]

    @classmethod
    def of(cls, at: float, epoch: str, records: tuple[Record, ...], term: int = 0) -> Entry:
        """Make an entry of records."""
        typed = tuple(Typed(type=record.kind, data=record.model_dump()) for record in records)
        return cls(at=at, epoch=epoch, term=term, records=typed)

    @property
    def mark(self) -> str:
        """`RESTORING` or `RESTORED`, where the entry is one of these, else ''."""
        return self.epoch if not self.records and self.epoch in (RESTORING, RESTORED) else ""

    def unpack(self) -> tuple[Record, ...]:
        """Return the records; `BadMessage` for a kind that a newer release added, and for what no release wrote."""
        return tuple(unpacked(typed) for typed in self.records)


RECORDS: dict[str, type[Record]] = {cls.__name__: cls for cls in Record.__args__}
"""Every kind of record by name."""


def unpacked(typed: Typed) -> Record:
    """Return a record as what it is; errors as of `Entry.unpack`."""
    cls = RECORDS.get(typed.type)
    if cls is None:
        raise BadMessage(f"journal: expected a known kind of record, got {typed.type!r}; upgrade this side")
    try:
        return cls.model_validate(typed.data)
    except ValidationError as error:
        raise BadMessage(f"journal: {typed.type} is not valid: {error}") from error
