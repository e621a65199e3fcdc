"""The streams of a workspace, described as data; created or compared whenever a role of the operator's side starts."""

from __future__ import annotations

from fedbus.bus.base import Bus, Storage, StreamSpec
from fedbus.messages.subjects import Subjects


def streams_of(subjects: Subjects, *, replicas: int = 1) -> tuple[StreamSpec, ...]:
    """Return every stream of a workspace.

    The board is in memory: what stands on it follows from the journal, and a coordinator that sees a broker come back
    posts it again. All else is on disk.
    """
    stream = subjects.stream
    return (
        StreamSpec(stream("journal"), (subjects.journal(),), Storage.FILE, replicas=replicas),
        StreamSpec(stream("command"), (subjects.command(),), Storage.FILE, replicas=replicas),
        StreamSpec(
            stream("board"), (subjects.task(), subjects.order()), Storage.MEMORY, per_subject_max=1, replicas=replicas
        ),
        StreamSpec(stream("blob"), (subjects.blob(),), Storage.FILE, per_subject_max=1, replicas=replicas),
        StreamSpec(stream("model"), (subjects.model(),), Storage.FILE, per_subject_max=1, replicas=replicas),
    )


async def ensure_streams(bus: Bus, subjects: Subjects, *, replicas: int = 1) -> None:
    """Create the streams of a workspace, or bring them to their description."""
    for spec in streams_of(subjects, replicas=replicas):
        await bus.ensure(spec)
