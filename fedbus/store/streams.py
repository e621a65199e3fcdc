"""The streams of a workspace, described as data; created or compared whenever a role of the operator's side starts."""

from __future__ import annotations

import logging
from dataclasses import replace

from fedbus.bus.base import Bus, Placement, Storage, StreamSpec
from fedbus.errors import BusDenied, BusFull
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.store")

REVISIONS_KEPT = 64
"""Of the registry's state, and of each note: who changed what, and when, as far back as people ask."""

ACCESS_KEPT = 16
"""Of each token, member and person: the audit has all of their history."""

SPANS_BYTES_MAX = 32 * 2**20
"""Of all spans: those of a hundred rounds of 200 clients; it is memory of the broker's."""

SPANS_AGE_S_MAX = 86400.0
"""Spans of yesterday are looked at in a collector."""


def streams_of(subjects: Subjects, *, replicas: int = 0, placement: Placement | None = None) -> tuple[StreamSpec, ...]:
    """Return every stream of a workspace, all with the same replicas and placement (see `StreamSpec` for 0 and None).

    The board is in memory: what stands on it follows from the journal, and a coordinator that sees a broker come back
    posts it again. So are spans, of which the newest are looked at. All else is on disk. Replicas make the board
    outlive a server, too.
    """

    def stream(name: str, *patterns: str, storage: Storage = Storage.FILE, per_subject_max: int = 0) -> StreamSpec:
        return StreamSpec(
            subjects.stream(name), patterns, storage, per_subject_max, replicas=replicas, placement=placement
        )

    return (
        stream("journal", subjects.journal()),
        stream("command", subjects.command()),
        stream("board", subjects.task(), subjects.order(), subjects.lead(), storage=Storage.MEMORY, per_subject_max=1),
        stream("blob", subjects.blob(), per_subject_max=1),
        stream("model", subjects.model(), per_subject_max=1),
        stream("registry", subjects.registry(), per_subject_max=REVISIONS_KEPT),
        stream("object", subjects.objects(), per_subject_max=1),
        stream("access", subjects.access(), per_subject_max=ACCESS_KEPT),
        replace(stream("audit", subjects.audit()), append_only=True),
        replace(
            stream("span", subjects.span(), storage=Storage.MEMORY),
            bytes_max=SPANS_BYTES_MAX,
            age_max_s=SPANS_AGE_S_MAX,
            drop_oldest=True,
            answers=False,
        ),
    )


async def ensure_streams(
    bus: Bus, subjects: Subjects, *, replicas: int = 0, placement: Placement | None = None
) -> None:
    """Create the streams of a workspace, or bring them to their description.

    `ConfigError` where the servers cannot keep them so: replicas without a cluster, tags that nobody has. Only spans
    may stay without a stream, where the broker has no memory for them, or does not permit it. Those of who
    takes part and of the audit are made, and then stay so at a secured broker: whoever could describe the first anew
    would decide who takes part, the second it could empty.
    """
    guarded = (subjects.stream("access"), subjects.stream("audit"))
    for spec in streams_of(subjects, replicas=replicas, placement=placement):
        try:
            await bus.ensure(spec)
        except (BusFull, BusDenied) as error:
            if spec.name in guarded and isinstance(error, BusDenied):
                log.warning("%s stays as it was made: %s", spec.name, error)
                continue
            if not spec.drop_oldest:
                raise
            log.warning("spans are not kept on the bus: %s", error)  # a federation goes on without its pictures
