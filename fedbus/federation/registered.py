"""What the registry tells of: a version, a stage, what a collection did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import Stage

Kept = Literal["kept", "archived", "retired", "removed"]
"""Where a version's arrays are: on the bus, only in the store behind it, about to be removed, nowhere any more."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A version at a glance.

    ``session``: that made it, '' where it was brought in. ``participants``: updates that it was made of. ``metrics``:
    of its evaluation, else those that clients reported while training. ``removed_at``: 0 while its arrays are kept.
    ``signature``: by its workspace, of version and digest, in hexadecimal.
    """

    version: str
    session: str
    round: int
    parent: str
    digest: str
    nbytes: int
    at: float
    blob: str
    kept: Kept = "kept"
    removed_at: float = 0.0
    removed_why: str = ""
    stages: tuple[str, ...] = ()
    note: str = ""
    strategy: str = ""
    participants: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    signature: str = ""


@dataclass(frozen=True, slots=True)
class StageInfo:
    """A stage: the version that it has, since when, by whom and why, and those before, newest first."""

    stage: str
    version: str
    at: float
    by: str
    reason: str
    before: tuple[str, ...]

    @classmethod
    def of(cls, name: str, stage: Stage) -> StageInfo:
        """Return a stage as it stands in the registry."""
        now = stage.now
        return cls(name, now.version, now.at, now.by, now.reason, tuple(one.version for one in stage.held[1:]))


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection has removed, or would remove.

    ``nbytes``: of the versions that were removed. ``retired``: go when their grace is over. ``kept``: versions beyond
    the retention that stay, each with the reason. ``imports``: that were cut short, and are cleared away.
    """

    dry_run: bool
    removed: tuple[str, ...]
    nbytes: int
    retired: tuple[str, ...]
    kept: Mapping[str, str]
    imports: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        removed: Iterable[ModelPublished],
        retired: tuple[str, ...],
        kept: Mapping[str, str],
        imports: tuple[str, ...] = (),
        *,
        dry_run: bool = False,
    ) -> Collection:
        """Return what was done with some versions."""
        entries = {entry.version: entry for entry in removed}
        nbytes = sum(entry.nbytes for entry in entries.values())
        return cls(dry_run, tuple(entries), nbytes, retired, kept, imports)
