"""How the arrays of versions are removed, so that nothing that is needed ever is, whoever dies in between.

    retire    written into the registry's state, behind a look at what needs the version: from now on no promotion and
              no session can begin to use it
    grace     who has begun to read it a moment before may go on
    look      at what needs it, once more; where something does, it is not retired any more
    commit    written into the state: from now on nobody can call it back
    purge     its blob is removed from the bus
    mark      the catalogue says when and why; then, some time, the retirement is forgotten

Each line may be repeated. Whoever finds a retirement whose grace is over goes on with it: the next collection, or the
coordinator that leads. A promotion reads the state first and then looks whether the version is there; so it is either
in the line of changes before the retirement, which then does not happen, or behind it, and refused
(docs/decisions/0020-a-registry-of-one-message.md).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedbus.bus.base import Bus
from fedbus.errors import NotFound
from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import REASON_CHARS_MAX, RETIRED_MAX, Importing, RegistryState, Retired
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore
from fedbus.store.references import read_commands, read_references
from fedbus.store.registry import RegistryStore

log = logging.getLogger("fedbus.store")

IMPORT_S_MAX = 24 * 3600.0
"""After which an import that has not ended is taken for dead: what it stored of its model goes."""

FORGOTTEN_S = 60.0
"""How long a retirement stands in the state behind its purge: a server of a cluster that is behind may show the arrays
for a moment longer."""

Needed = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns the blobs that are needed now, each with the reason."""


@dataclass(slots=True)
class Collected:
    """What a collection did: versions whose arrays are gone, those that go when their grace is over, and what is kept.

    ``kept``: version to the reason, of those that would have gone otherwise.
    """

    removed: list[ModelPublished] = field(default_factory=list)
    retired: list[Retired] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)


class Removal:
    """Removes versions of a workspace; ``passed``: told at each border between two lines, for tests that end there."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        models: ModelStore,
        registry: RegistryStore,
        passed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._models = models
        self._registry = registry
        self._passed = passed

    async def needed(self) -> Mapping[str, str]:
        """Return the blobs that sessions and commands need now, each with the reason; stages' are in the state."""
        return (await read_references(self._bus, self._subjects)).needed()

    async def retire(
        self, models: Sequence[ModelPublished], *, why: str, grace_s: float, needed: Needed, purging: bool = False
    ) -> tuple[list[Retired], dict[str, str]]:
        """Retire versions that nothing needs; returns all of them that are retired now, and why others are not.

        At most as many as there is room for in the state: the rest is neither. ``purging``: nobody is to look again.
        """
        kept: dict[str, str] = {}

        async def decide(state: RegistryState) -> RegistryState | None:
            kept.clear()
            kept.update(self._kept(models, state, await needed()))
            now = self._registry.clock.now()
            known = {one.version for one in state.retired}
            fresh = [model for model in models if model.version not in known and model.version not in kept]
            held = await self._without_done(state.retired) if fresh else state.retired
            fresh = fresh[: RETIRED_MAX - len(held)]
            if not fresh:
                return None
            added = tuple(
                Retired(
                    version=model.version,
                    blob=model.blob,
                    at=now,
                    until_at=now + grace_s,
                    by=self._registry.by,
                    reason=why[:REASON_CHARS_MAX],
                    purging=purging,
                )
                for model in fresh
            )
            return state.model_copy(update={"retired": (*held, *added)})

        names = ", ".join(model.version for model in models)
        known = await self._registry.change(f"retired {names}", decide)
        self._passed("retired")
        wanted = {model.version for model in models}
        return [one for one in known.state.retired if one.version in wanted], kept

    @staticmethod
    def _kept(models: Iterable[ModelPublished], state: RegistryState, needed: Mapping[str, str]) -> dict[str, str]:
        staged = state.protected
        found = {}
        for model in models:
            why = staged.get(model.blob) or needed.get(model.blob)
            if why:
                found[model.version] = why
        return found

    async def _without_done(self, retired: tuple[Retired, ...]) -> tuple[Retired, ...]:
        """Return retirements without those that have been over for a while."""
        now = self._registry.clock.now()
        over = [one for one in retired if one.until_at + FORGOTTEN_S <= now and await self._is_marked(one)]
        return tuple(one for one in retired if one not in over)

    async def _is_marked(self, one: Retired) -> bool:
        try:
            entry = await self._models.find(one.version)
        except NotFound:
            return True  # a workspace that lost its catalogue: there is nothing to be marked
        return bool(entry.removed_at) or entry.blob != one.blob

    async def _is_entered(self, importing: Importing) -> bool:
        try:
            return (await self._models.find(importing.version)).blob == importing.blob
        except NotFound:
            return False

    async def finish(self, one: Retired, needed: Mapping[str, str]) -> ModelPublished | str:
        """Go on with a retirement whose grace is over; returns the catalogue's entry, or why the version is kept.

        ``needed``: what was found to be needed after the grace was over.
        """
        entry = await self._models.find(one.version)
        if entry.removed_at or entry.blob != one.blob:
            return entry
        if not one.purging:
            why = await self._commit(one, needed.get(one.blob, ""))
            if why:
                return why
        return await self._purge(one, entry)

    async def _commit(self, one: Retired, why: str) -> str:
        """Write that a version goes, or that it is kept; returns why it is kept, or ''."""
        called_back = False

        async def decide(state: RegistryState) -> RegistryState | None:
            nonlocal called_back
            there = state.retirement(one.version)
            called_back = there is None
            if there is None or (there.purging and not why):
                return None
            others = tuple(each for each in state.retired if each is not there)
            if not why:
                others = (*others, there.model_copy(update={"purging": True}))
            elif there.purging:
                return None
            return state.model_copy(update={"retired": others})

        await self._registry.change(f"{'kept' if why else 'removing'} {one.version}", decide)
        self._passed("committed")
        return why or ("it was called back" if called_back else "")

    async def _purge(self, one: Retired, entry: ModelPublished) -> ModelPublished:
        await self._models.remove(one.blob)
        self._passed("purged")
        reason = f"{one.by}: {one.reason}" if one.reason else one.by
        entry = await self._models.mark_removed(entry, self._registry.clock.now(), reason)
        self._passed("marked")
        log.info("the arrays of version %s are removed: %s", one.version, reason)
        return entry

    async def go_on(self, found: Collected, needed: Needed | None = None) -> None:
        """Finish every retirement whose grace is over, and clear away imports that were cut short."""
        state = (await self._registry.read()).state
        now = self._registry.clock.now()
        due = [one for one in state.retired if one.until_at <= now and not await self._is_marked(one)]
        blobs = await (needed or self.needed)() if due else {}
        for one in due:
            done = await self.finish(one, blobs)
            if isinstance(done, str):
                found.kept[one.version] = done
            elif done not in found.removed:
                found.removed.append(done)
        dead = [one for one in state.imports if one.at + IMPORT_S_MAX < now]
        for importing in dead:
            if not await self._is_entered(importing):
                await self._models.remove(importing.blob)
                found.imports.append(importing.version)
        if dead or (await self._without_done(state.retired)) != state.retired:
            await self._tidy({one.blob for one in dead})

    async def _tidy(self, imports: set[str]) -> None:
        """Forget what is over."""

        async def decide(state: RegistryState) -> RegistryState | None:
            retired = await self._without_done(state.retired)
            left = tuple(one for one in state.imports if one.blob not in imports)
            if (retired, left) == (state.retired, state.imports):
                return None
            return state.model_copy(update={"retired": retired, "imports": left})

        await self._registry.change("forgot what is over", decide)

    async def expire(self, model: ModelPublished, why: str) -> str:
        """Remove a version that its session does not keep any longer, without grace; returns why it is kept, or ''.

        For the coordinator, which knows that no session needs it: stages are asked, and commands that it has not read
        yet.
        """

        async def needed() -> Mapping[str, str]:
            return await read_commands(self._bus, self._subjects)

        retired, kept = await self.retire([model], why=why, grace_s=0.0, needed=needed, purging=True)
        if not retired and model.version not in kept:
            return "too many versions are being removed now"
        for one in retired:
            if one.blob == model.blob and (one.purging or not await self._commit(one, "")):
                await self._purge(one, model)
        return kept.get(model.version, "")
