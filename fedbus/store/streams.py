"""The streams of a workspace, described as data; created or compared whenever a role of the operator's side starts."""

from __future__ import annotations

from fedbus.bus.base import Bus, Placement, Storage, StreamSpec
from fedbus.messages.subjects import Subjects

REVISIONS_KEPT = 64
"""Of the registry's state, and of each note: who changed what, and when, as far back as people ask."""


def streams_of(subjects: Subjects, *, replicas: int = 0, placement: Placement | None = None) -> tuple[StreamSpec, ...]:
    """Return every stream of a workspace, all with the same replicas and placement (see `StreamSpec` for 0 and None).

    The board is in memory: what stands on it follows from the journal, and a coordinator that sees a broker come back
    posts it again. All else is on disk. Replicas make the board outlive a server, too.
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
    )


async def ensure_streams(
    bus: Bus, subjects: Subjects, *, replicas: int = 0, placement: Placement | None = None
) -> None:
    """Create the streams of a workspace, or bring them to their description.

    `ConfigError` where the servers cannot keep them so: replicas without a cluster, tags that nobody has.
    """
    for spec in streams_of(subjects, replicas=replicas, placement=placement):
        await bus.ensure(spec)
