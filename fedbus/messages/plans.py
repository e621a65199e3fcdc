"""What a session's strategy asks of its rounds, in words: found once, when it starts, and journalled with it.

So whoever coordinates later need not know the strategy, and nobody's answer can change in the middle of a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, Literal

from pydantic import Field

from fedbus.config.session import SessionConfig
from fedbus.errors import BadUpdate
from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Name, Number, Reason, Shallow

STALE_MAX = 1000
"""Most versions that an update may be behind."""


class Encoding(Body):
    """How updates (or models) travel.

    ``form``: the trained ``model``; its ``difference`` to the model that it was trained from, which may be encoded by
    a ``codec`` (`fedbus.codecs`, with ``options``); or a ``payload`` of any bytes. ``packed``: each chunk is a zstd
    frame on the line, whatever is in it.
    """

    form: Literal["model", "difference", "payload"] = "model"
    codec: Name = "none"
    options: Annotated[dict[str, Any], Shallow, Field(max_length=100)] = {}
    packed: bool = False


class Plan(Body):
    """What a strategy asks of the rounds.

    ``whole``: who makes a chunk of the new model needs that chunk of every update, so combiners share out chunks, never
    clients; ``single``: one combiner has to have everything. ``uniform``, ``metrics``, ``divided_by``: as in
    `fedbus.aggregation.Aggregator`. ``updates_min``: with fewer a round cannot be closed, ``updates_why`` says by which
    rule. ``buffer`` above 0: asynchronous, a new model after so many updates. ``stale``: what the weight of an update
    is multiplied with that is so many versions old, from 0 on; one older than the last is refused. Empty: the session's
    ``late_updates`` holds, and clients lessen their weights themselves. ``downlink``: how a client that holds the
    version before gets the next one; ``none`` as codec: whole.
    """

    whole: bool = False
    single: bool = False
    uniform: bool = False
    metrics: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=16)] = ()
    divided_by: Annotated[str, Field(max_length=128)] = ""
    updates_min: Count = 1
    updates_why: Reason = ""
    buffer: Count = 0
    stale: Annotated[tuple[Number, ...], Field(max_length=STALE_MAX + 1)] = ()
    encoding: Encoding = Encoding()
    downlink: Encoding = Encoding()

    @property
    def stale_max(self) -> int:
        """How many versions old an update may be, where ``stale`` says so."""
        return max(0, len(self.stale) - 1)


def given_weight(plan: Plan, weight: float) -> float:
    """Return the weight with which an update enters means of metrics: what its client gave, or 1."""
    return 1.0 if plan.uniform else weight


def fold_weight(plan: Plan, weight: float, metrics: Mapping[str, float], stale: int) -> float:
    """Return the weight with which an update is folded.

    Raises `BadUpdate` where it lacks a number that the strategy needs, is too old, or has none left.
    """
    for name in plan.metrics:
        value = metrics.get(name)
        if value is None or not 0.0 <= value < float("inf"):
            got = "none" if value is None else f"{value}"
            raise BadUpdate(f"metric {name!r}: expected a finite number from 0 on with each update, got {got}")
    folded = given_weight(plan, weight)
    if plan.divided_by:
        divisor = metrics[plan.divided_by]
        if not divisor > 0:
            raise BadUpdate(f"metric {plan.divided_by!r}: expected a number above 0, got {divisor}")
        folded /= divisor
    if plan.stale:
        if stale > plan.stale_max or not plan.stale[stale] > 0:
            raise BadUpdate(f"expected an update made for at most {plan.stale_max} versions ago, got one of {stale}")
        folded *= plan.stale[stale]
    if not 0.0 < folded < inf:
        raise BadUpdate(f"expected a weight above 0, got {folded:g} (of {weight:g} that the client gave)")
    return folded


WEIGHTS_MAX = 2048
"""Largest sum of weights of a round, as a multiple of the largest weight.

2^11 contributions below 2^51 stay below 2^62 (docs: exactness).
"""


def fold_weight_max(config: SessionConfig, plan: Plan, clients: int) -> float:
    """Return the largest weight of the fold in a round of so many clients.

    Where all weigh 1, so does the largest, and nothing of the fixed point is spent on more - but as it bounds the sum.
    """
    if plan.uniform and not plan.divided_by:
        return max(1.0, clients / WEIGHTS_MAX)
    return config.weight_max


def stale_max(config: SessionConfig, plan: Plan) -> int:
    """Return how many rounds (or versions) ago an update may have been made that counts."""
    return plan.stale_max if plan.stale else config.stale_max


def quorum(config: SessionConfig, plan: Plan) -> int:
    """Return with how many updates a round may close at its deadline: never with fewer than the strategy needs.

    Of an asynchronous session no more than make a version.
    """
    least = config.quorum_effective
    return max(min(least, plan.buffer) if plan.buffer else least, plan.updates_min)


def clients_needed(config: SessionConfig, plan: Plan) -> int:
    """Return how many clients have to be there before a round opens, or the evaluation of a session without rounds.

    Nobody who says nothing of ``clients_min`` means that a round should open which cannot close. Who sets it is taken
    at the word: a round that is opened with too few fails with the reason.
    """
    if config.rounds == 0:
        return max(config.clients_min, config.answers_min)
    if plan.buffer:
        return max(config.clients_min, quorum(config, plan))
    return max(config.clients_needed, plan.updates_min) if config.clients_min == 1 else config.clients_needed
