"""What the coordinator wants of a client in a session: one `Task`, replaced as a whole when it changes.

A task is a state, not an event: losing, repeating or delaying one does no harm, the highest ``revision`` counts. It
says what to do now (train, evaluate, or nothing), and the *receipt*: up to which round the client's update is settled
and may be forgotten.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import SHARDS_MAX, Count, Name, Number, Reason, Said, SaidLines, Shallow, StrategyName
from fedbus.messages.plans import Encoding

BlobKey = Annotated[bytes, Field(max_length=32, repr=False)]
"""The key of a sealed blob (`fedbus.store.sealing`), b'' of one that is stored as it is."""

TaskConfig = Annotated[dict[str, Any], Shallow, Field(max_length=1000)]
"""What the engineer's ``train_config`` holds: JSON values, given to the app as ``task.config``."""


MaybeDigest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
"""A BLAKE3 digest, or none."""

Signature = Annotated[bytes, Field(max_length=64)]
"""An Ed25519 signature, or none (`fedbus.access.signing`)."""


class Train(Body):
    """Train on a version and send the update to a combiner.

    A higher ``attempt`` of the same round means: send the update that you hold (again), to this combiner; do not train
    again. ``shards``, where it is not empty: send part i of the update's chunks to the i-th of these combiners (the
    first is ``combiner``), see `fedbus.messages.orders.part_of`. ``stale_max`` above 0: an update that came too late
    for one of so many rounds before this one, or is still being made for it, is sent as this round's in place of a
    new one, its weight times ``stale_weight`` for each round that it is old. ``key``: with which the blob is sealed.
    ``digest``: of the version; ``signature``: of both, by the workspace's model key, where it is secured.
    """

    round: Count
    attempt: Count
    version: Name
    blob: Name
    combiner: Name
    config: TaskConfig = {}
    seed: Count
    deadline_at: Number
    weight_max: Number
    shards: Annotated[tuple[Name, ...], Field(max_length=SHARDS_MAX)] = ()
    stale_max: Count = 0
    stale_weight: Number = 1.0
    encoding: Encoding = Encoding()
    key: BlobKey = b""
    digest: MaybeDigest = ""
    signature: Signature = b""


class Evaluate(Body):
    """Measure a version on local data and report the metrics; or, where there are ``queries``, answer these instead.

    ``aside``: the session trains nothing; what it measures does not become the client's newest model. ``key``: with
    which the blob is sealed. ``digest`` and ``signature``: as in `Train`.
    """

    round: Count
    version: Name
    blob: Name
    config: TaskConfig = {}
    seed: Count
    deadline_at: Number
    queries: Annotated[tuple[dict[str, Any], ...], Shallow, Field(max_length=256)] = ()
    aside: bool = False
    key: BlobKey = b""
    digest: MaybeDigest = ""
    signature: Signature = b""


class SessionCard(Body):
    """What a session is, for who decides whether to take part in it.

    ``by``: who started it. ``version``, ``nbytes``: the model that it has now. ``clients_min``: clients that have to be
    there; ``updates_min``: fewest updates that a new model is made of; ``answers_min``: fewest answers of an evaluation
    that is kept, and ``reveal``: whether each one's or their sums alone. ``metrics``: what the session cannot do
    without. ``evaluates``: whether models are to be measured on the clients' data; ``queries``: how many questions
    about these data are asked.
    """

    purpose: Annotated[str, Said, Field(max_length=200)] = ""
    description: Annotated[str, SaidLines, Field(max_length=1000)] = ""
    by: Annotated[str, Said, Field(max_length=200)] = ""
    strategy: StrategyName
    codec: Name
    rounds: Count
    version: Name
    nbytes: Count
    clients_min: Count
    updates_min: Count
    answers_min: Count
    reveal: Literal["clients", "sums"]
    residency: Literal["prefer", "require"]
    metrics: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=32)] = ()
    evaluates: bool = False
    queries: Count = 0


class Receipt(Body):
    """All rounds up to this one are closed; whether the client's update of it counted, and why not.

    ``late``: it may yet count in a later round (`Train.stale_max`), so it is to be kept, or made to the end - unless it
    was made for round ``settled`` or one before: those never count any more.
    """

    round: Count
    counted: bool
    reason: Reason = ""
    late: bool = False
    settled: Count = 0


class Task(Body):
    """The whole of what one client is to do in one session; ``card``: where it is to do something, for what."""

    session: Name
    revision: Count
    state: Literal["train", "evaluate", "rest", "ended"]
    train: Train | None = None
    evaluate: Evaluate | None = None
    receipt: Receipt | None = None
    card: SessionCard | None = None
