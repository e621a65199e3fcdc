"""What the coordinator wants of a combiner in a session: one `Order`, replaced as a whole when it changes.

Like a task it is a state: the highest ``revision`` counts. ``fold``: accept and fold the updates of these clients.
``merge``: only ``counted`` remain folded; send the partial to the root, or, being the root, merge the others' partials,
make the new model and store it. ``rest``: the round is over, drop what is held. ``ended``: the session is
over. An order is for one incarnation of a combiner: one that was restarted has lost what the order supposes, and waits
for its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import SHARDS_MAX, Count, Metrics, Name, Number, Shallow, StrategyName
from fedbus.messages.plans import Plan

Attempts = Annotated[dict[Name, Count], Field(max_length=200_000)]
"""Which attempt of whom."""


class Merge(Body):
    """How a round is to be closed.

    ``partials``: whose partials are to be merged besides the ``counted`` updates, and as which attempt; ``parent``: who
    takes the merged partial; empty: the root. The root makes the model. Where chunks are shared out, nobody sends a
    partial: each combiner stores the new model's chunks of its own part under ``publish``, and the root, when all are
    there, the manifest.

    ``weight_sum``: of the weights with which the counted updates were folded; ``given_sum``: of those that their
    clients gave; ``updates``: how many count; ``population``: how many clients the session has ever asked; ``means``:
    of the metrics that the plan names, weighted as ``given_sum``.
    """

    root: Name
    parent: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    attempt: Count
    counted: Attempts
    partials: Attempts = {}
    weight_sum: Number
    publish: Name
    given_sum: Number = 0.0
    updates: Count = 0
    population: Count = 0
    means: Metrics = {}


class Order(Body):
    """The whole of what one combiner is to do in one session.

    ``stale_max``: of how many rounds ago an update may be that is sent as one of this round (`UploadBegin.stale`).
    ``weight_max``: the largest weight of the fold. With ``parts`` above 1 it folds only the chunks of its ``part``
    (`part_of`), of every participant.
    """

    session: Name
    revision: Count
    incarnation: Name
    state: Literal["fold", "merge", "rest", "ended"]
    round: Count
    version: Name
    blob: Name
    weight_max: Number
    value_floor: Number
    headroom: Number
    strategy: StrategyName
    options: Annotated[dict[str, Any], Shallow, Field(max_length=1000)] = {}
    uploads: Attempts = {}
    merge: Merge | None = None
    stale_max: Count = 0
    plan: Plan = Plan()
    part: Count = 0
    parts: Annotated[int, Field(ge=1, le=SHARDS_MAX)] = 1


def part_of(chunks: int, part: int, parts: int) -> range:
    """Return which of a model's chunks belong to a part; all parts together are all of them, in order."""
    return range(chunks * part // parts, chunks * (part + 1) // parts)
