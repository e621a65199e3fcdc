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
from fedbus.messages.ids import Count, Name, Number

Attempts = Annotated[dict[Name, Count], Field(max_length=200_000)]
"""Which attempt of whom."""


class Merge(Body):
    """How a round is to be closed."""

    root: Name
    attempt: Count
    counted: Attempts
    partials: Attempts = {}
    weight_sum: Number
    publish: Name


class Order(Body):
    """The whole of what one combiner is to do in one session."""

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
    strategy: Name
    options: Annotated[dict[str, Any], Field(max_length=1000)] = {}
    uploads: Attempts = {}
    merge: Merge | None = None
