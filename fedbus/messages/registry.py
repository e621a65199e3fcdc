"""What people decide about versions: which stage has which, what is about to be removed, what is noted beside them.

`RegistryState` is all of it but the notes, in one message, so that whoever changes any part of it - a promotion, a
retirement - has read every other part: of two who change it at once, the broker takes one, and the other reads again
(`fedbus.store.registry`). Hence everything in it is bounded.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Name, Number, Said, SaidLines

IMPORTED = "imported"
"""What stands in the place of a session's name at versions that were brought in."""

STAGES_MAX = 32
"""Stages of a workspace: people give them names, and read them as a list."""

HELD_MAX = 32
"""Versions of a stage that are remembered, the one that it has included: as often it can be rolled back."""

RETIRED_MAX = 256
"""Versions that are being removed at once; a collection that finds more goes on with the next call."""

IMPORTS_MAX = 64
"""Imports under way, and those that were cut short and not cleared away yet."""

REASON_CHARS_MAX = 200
"""Of a promotion or a removal: all of them travel with each change."""

NOTE_CHARS_MAX = 10_000
"""Of what is noted beside a version: a page of text."""

Author = Annotated[str, Field(pattern=r"^[A-Za-z0-9_@.:/+-]{0,200}$")]
"""Who did something: an engineer's name, or over HTTP that of the person, or ``gateway/NAME`` where it asks nobody."""

ShortReason = Annotated[str, Said, Field(max_length=REASON_CHARS_MAX)]


_HANDED_ON = ConfigDict(extra="allow")
"""Of the state and its parts: every release that serves the workspace reads them and writes them again, and keeps what
it does not know."""


class Promoted(Body):
    """A version that a stage was given, when, by whom, and why."""

    model_config = _HANDED_ON

    version: Name
    blob: Name
    at: Number
    by: Author
    reason: ShortReason = ""


class Stage(Body):
    """What a stage was given: the version that it has first, then those before, which a roll back goes back to."""

    model_config = _HANDED_ON

    held: Annotated[tuple[Promoted, ...], Field(min_length=1, max_length=HELD_MAX)]

    @property
    def now(self) -> Promoted:
        """The version that it has."""
        return self.held[0]

    @property
    def protected(self) -> tuple[Promoted, ...]:
        """What may not be removed: the version that it has, and the one that it would be rolled back to."""
        return self.held[:2]


class Retired(Body):
    """A version that is being removed: from now on nobody may begin to use it; ``until_at``: then its arrays go.

    ``purging``: they are going, and nobody can call it back.
    """

    model_config = _HANDED_ON

    version: Name
    blob: Name
    at: Number
    until_at: Number
    by: Author
    reason: ShortReason = ""
    purging: bool = False


class Importing(Body):
    """A model that is being brought in: what is stored of its blob is nothing yet, and goes where nobody ends it."""

    model_config = _HANDED_ON

    version: Name
    blob: Name
    at: Number
    by: Author


class RegistryState(Body):
    """The registry as it is after a change.

    ``keep_last``: of how many versions of each session, the newest, the arrays are kept by a collection; None: of all.
    ``at``, ``by``, ``what``: the change that led here, for whoever reads its history.
    """

    model_config = _HANDED_ON

    stages: Annotated[dict[Name, Stage], Field(max_length=STAGES_MAX)] = {}
    retired: Annotated[tuple[Retired, ...], Field(max_length=RETIRED_MAX)] = ()
    imports: Annotated[tuple[Importing, ...], Field(max_length=IMPORTS_MAX)] = ()
    keep_last: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    at: Number = 0.0
    by: Author = ""
    what: ShortReason = ""

    def stages_of(self, version: str) -> tuple[str, ...]:
        """Return the stages that have a version, by name."""
        return tuple(sorted(name for name, stage in self.stages.items() if stage.now.version == version))

    def retirement(self, version: str) -> Retired | None:
        """Return how a version is being removed; None where it is not."""
        return next((one for one in self.retired if one.version == version), None)

    @property
    def protected(self) -> dict[str, str]:
        """The blobs that stages protect, each with the reason."""
        found: dict[str, str] = {}
        for name, stage in sorted(self.stages.items()):
            for place, held in enumerate(stage.protected):
                found.setdefault(held.blob, f"stage {name} would be rolled back to it" if place else f"stage {name}")
        return found


class VersionNote(Body):
    """What people write beside a version; an empty one takes it away."""

    version: Name
    note: Annotated[str, SaidLines, Field(max_length=NOTE_CHARS_MAX)]
    at: Number
    by: Author
