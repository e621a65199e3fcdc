"""What clients and combiners tell the coordinator; each report is repeated until a `ReportTaken` names its id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Digest, Metrics, Name, Number, PolicyDigest, Reason, SpentTold, Sums

VERDICTS_MAX = 1000
"""Updates in one report or record: some 300 bytes each."""

NUMBERS_MAX = 20_000
"""Metrics in one report or record, over all its clients: with their names some 3 MB, less than a message may carry."""


def fitting(metrics: Sequence[int]) -> int:
    """Return how many of the first updates, with so many metrics each, one report or record takes: at least one."""
    total = 0
    for index, count in enumerate(metrics[:VERDICTS_MAX]):
        total += count
        if total > NUMBERS_MAX and index:
            return index
    return min(len(metrics), VERDICTS_MAX)


REPORTS_MAX = 10_000
"""Reports that one `ReportTaken` names at most."""


class Verdict(Body):
    """What a combiner found of one client's update, or of its part of it: folded, or refused with a reason.

    ``update``, ``stale``, ``spent``: as in `UploadBegin`, the last with its ``upload_s``.
    """

    client: Name
    attempt: Count
    accepted: bool
    reason: Reason = ""
    weight: float = 0.0
    nbytes: Count = 0
    fetched: Count = 0
    norm: float = 0.0
    digest: str = Field(default="", max_length=64)
    metrics: Metrics = {}
    update: str = Field(default="", max_length=64)
    stale: Count = 0
    spent: SpentTold | None = None


class UpdatesJudged(Body):
    """Verdicts of one incarnation of a combiner."""

    session: Name
    round: Count
    incarnation: Name
    verdicts: Annotated[tuple[Verdict, ...], Field(max_length=10_000, fail_fast=True)]


class ModelStored(Body):
    """The root has stored the new model: every chunk, then the manifest."""

    session: Name
    round: Count
    revision: Count
    blob: Name
    digest: Digest
    nbytes: Count
    bytes_up: Count = 0


class MergeFailed(Body):
    """The root could not make the new model."""

    session: Name
    round: Count
    revision: Count
    reason: Reason


class Evaluated(Body):
    """A client's metrics of a version, and what is to be added up over clients."""

    session: Name
    round: Count
    version: Name
    weight: Number
    metrics: Metrics
    fetched: Count = 0
    sums: Sums = {}


class TaskFailed(Body):
    """A client could not do its task (its app raised, the update was not valid), or its owner does not let it.

    ``policy``: then, a digest of what its owner has decided (`presence.Hello.policy`): it is not asked again before
    that is another, or before ``until_at``, where that is not 0.
    """

    session: Name
    round: Count
    attempt: Count
    stage: Annotated[str, Field(pattern="^(fetch|train|evaluate|upload|policy)$")]
    reason: Reason
    policy: PolicyDigest = ""
    until_at: Number = 0.0


class Withdrawn(Body):
    """A client's owner takes its update of a round back: it must not count, whatever was said of it before.

    Of a round whose set of updates is fixed already, nothing can be taken back. ``policy``: as in `TaskFailed`.
    """

    session: Name
    round: Count
    attempt: Count
    reason: Reason
    policy: PolicyDigest = ""


class ReportTaken(Body):
    """The coordinator has journalled, or has no use for, these reports: stop repeating them."""

    reports: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=REPORTS_MAX, fail_fast=True)]
