"""The registry of models, as an engineer uses it: stages, notes, lineage, cards, imports, retention, removal.

    federation.registry.promote("digits-7", "production", reason="best on the held-out sites")
    federation.registry.rollback("production")
    federation.registry.lineage("digits-7")

Whatever is decided stands in one message that everybody changes by its sequence (`fedbus.store.registry`), so that a
version which a stage was given is never removed, whoever did which first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fedbus.access.actions import Action
from fedbus.access.audit import Audit
from fedbus.errors import ConfigError, Conflict, NotFound, StoreError
from fedbus.federation import importing
from fedbus.federation.cards import card_of
from fedbus.federation.details import Detail, detail_of
from fedbus.federation.lineage import Lineage
from fedbus.federation.registered import Collection, Kept, ModelInfo, StageInfo
from fedbus.federation.versions import VersionFacts, Versions
from fedbus.messages.ids import check_name
from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import (
    HELD_MAX,
    IMPORTED,
    NOTE_CHARS_MAX,
    REASON_CHARS_MAX,
    STAGES_MAX,
    Promoted,
    RegistryState,
    Retired,
    Stage,
)
from fedbus.store.references import References, read_references
from fedbus.store.registry import RegistryStore, Revision
from fedbus.store.removal import Collected, Removal
from fedbus.together import together

if TYPE_CHECKING:
    from fedbus.federation.service import Federation

log = logging.getLogger("fedbus.federation")

GRACE_S = 600.0
"""From a removal to the end of the arrays: who has begun to download a large model a moment before may go on."""

LOOKS = 32
"""Versions that a store is asked for at once: each is two requests, and a collection may have many thousands."""


class Registry:
    """The registry of a federation."""

    def __init__(self, federation: Federation, by: str, audit: Audit | None = None) -> None:
        """``audit``: where what is changed is written down, behind it; None: nowhere."""
        self._audit = audit
        self.store = RegistryStore(federation.bus, federation.subjects, by, federation.clock)
        self._federation = federation
        self.removal = Removal(federation.bus, federation.subjects, federation.store, self.store)

    @property
    def by(self) -> str:
        """Who changes it, as it is written down."""
        return self.store.by

    async def _note(self, action: Action, target: str, reason: str = "", **details: object) -> None:
        """Write down what was done; where that cannot be it waits, and the log says so: what was done is done."""
        if self._audit is not None:
            await self._audit.write(action, by=self.by, target=target, origin="bus", reason=reason, details=details)

    # --- stages ---

    async def stages(self) -> list[StageInfo]:
        """Return all stages, by name."""
        state = (await self.store.read()).state
        return [StageInfo.of(name, state.stages[name]) for name in sorted(state.stages)]

    async def stage(self, stage: str) -> StageInfo:
        """Return a stage; `NotFound` where there is none of this name."""
        return self._stage_in((await self.store.read()).state, check_name("stage", stage))

    async def promote(self, version: str, stage: str, reason: str = "") -> StageInfo:
        """Give a stage a version; one that it has already changes nothing.

        Raises `NotFound` where there is no such version, `Conflict` where its arrays are removed or being removed.
        """
        check_name("stage", stage)
        _check_text("reason", reason, REASON_CHARS_MAX)

        async def decide(state: RegistryState) -> RegistryState | None:
            held = state.stages[stage].held if stage in state.stages else ()
            if held and held[0].version == version:
                return None
            if not held and len(state.stages) >= STAGES_MAX:
                raise Conflict(f"stage {stage}: there are {STAGES_MAX} stages, clear one first", state="full")
            entry = await self._usable(version, state)
            return self._with_stage(state, stage, (self._promoted(entry, reason), *held))

        known = await self.store.change(f"promoted {version} to {stage}", decide)
        await self._note(Action.MODEL_PROMOTE, stage, reason, version=version)
        return self._stage_in(known.state, stage)

    async def rollback(self, stage: str, reason: str = "") -> StageInfo:
        """Give a stage the version back that it had before.

        Raises `NotFound` where there is no such stage, `Conflict` where it had none before, or that is gone.
        """
        check_name("stage", stage)
        _check_text("reason", reason, REASON_CHARS_MAX)

        async def decide(state: RegistryState) -> RegistryState:
            held = self._held(state, stage)
            if len(held) < 2:
                raise Conflict(f"stage {stage}: it had no version before {held[0].version}", state=held[0].version)
            entry = await self._usable(held[1].version, state)
            text = f"rolled back from {held[0].version}{f': {reason}' if reason else ''}"[:REASON_CHARS_MAX]
            return self._with_stage(state, stage, (self._promoted(entry, text), *held[2:]))

        known = await self.store.change(f"rolled {stage} back", decide)
        stands = self._stage_in(known.state, stage)
        await self._note(Action.MODEL_PROMOTE, stage, reason, version=stands.version, rolled_back=True)
        return stands

    async def clear(self, stage: str, reason: str = "") -> StageInfo:
        """Take a stage away; returns what it was. `NotFound` where there is none of this name."""
        check_name("stage", stage)
        _check_text("reason", reason, REASON_CHARS_MAX)
        was: list[StageInfo] = []

        async def decide(state: RegistryState) -> RegistryState:
            was[:] = [self._stage_in(state, stage)]
            left = {name: one for name, one in state.stages.items() if name != stage}
            return state.model_copy(update={"stages": left})

        await self.store.change(f"cleared {stage}{f': {reason}' if reason else ''}", decide)
        await self._note(Action.MODEL_PROMOTE, stage, reason, cleared=True)
        return was[0]

    async def history(self) -> list[Revision]:
        """Return who changed what, oldest first, as far back as it is kept."""
        return await self.store.history()

    async def resolve(self, name: str) -> str:
        """Return a version by its name, or by a stage that has it: ``@production``."""
        return (await self.stage(name[1:])).version if name.startswith("@") else name

    def _promoted(self, entry: ModelPublished, reason: str) -> Promoted:
        now = self.store.clock.now()
        return Promoted(version=entry.version, blob=entry.blob, at=now, by=self.by, reason=reason)

    @staticmethod
    def _with_stage(state: RegistryState, stage: str, held: Sequence[Promoted]) -> RegistryState:
        return state.model_copy(update={"stages": {**state.stages, stage: Stage(held=tuple(held)[:HELD_MAX])}})

    @staticmethod
    def _held(state: RegistryState, stage: str) -> tuple[Promoted, ...]:
        if stage not in state.stages:
            raise NotFound(f"stage {stage}: there is none of this name; `fedbus stage list` shows those that exist")
        return state.stages[stage].held

    def _stage_in(self, state: RegistryState, stage: str) -> StageInfo:
        self._held(state, stage)
        return StageInfo.of(stage, state.stages[stage])

    async def _usable(self, version: str, state: RegistryState) -> ModelPublished:
        """Return a version that may be used; its arrays are looked for behind the state that was read."""
        entry = await self._federation.models.entry(version)
        check_free(entry, state)
        if not await self._federation.models.is_kept(entry) and not await self._federation.models.is_archived(entry):
            what = "its arrays were removed" if entry.removed_at else "its arrays are not there"
            raise Conflict(f"model {version}: {what}", state="removed")
        return entry

    # --- what there is ---

    async def versions(self, *, session: str = "", stage: str = "", text: str = "", kept: str = "") -> list[ModelInfo]:
        """Return versions, oldest first, with their stages, notes and metrics; those of which all that is given holds.

        ``text``: part of a version's name or note, in any case. ``kept``: one of `Kept`.
        """
        state = await self.store.read_or_none()
        notes = await self.store.notes() if state.at else {}
        wanted = {one.now.version for name, one in state.stages.items() if name == stage} if stage else None
        entries = [
            entry
            for entry in await self._federation.models.list()
            if (not session or session_of(entry) == session)
            and (wanted is None or entry.version in wanted)
            and (text.lower() in f"{entry.version}\n{notes.get(entry.version, '')}".lower())
        ]
        facts = await self._facts({entry.session for entry in entries})
        found = []
        for entry in entries:
            kept_in = await self.kept(entry, state)
            info = info_of(entry, state, notes.get(entry.version, ""), facts.get(entry.version), kept_in)
            if not kept or kept_in == kept:
                found.append(info)
        return found

    async def find(self, version: str) -> ModelInfo:
        """Return a version with its stages, note and metrics; `NotFound` when there is none."""
        entry = await self._federation.models.entry(version)
        state = await self.store.read_or_none()
        note = await self.store.note(version) if state.at else ""
        facts = await self._facts({entry.session})
        return info_of(entry, state, note, facts.get(version), await self.kept(entry, state))

    async def kept(self, entry: ModelPublished, state: RegistryState) -> Kept:
        """Return where a version's arrays are.

        With a store that is away, and was never asked before, what the bus has no longer is taken to be there: a
        collection removes nothing else. Who reads it is told that the store is away, and lists are there meanwhile.
        """
        if entry.removed_at:
            try:
                listed = await self._federation.models.is_listed(entry)
            except StoreError as error:
                log.debug("version %s is taken to be archived: %s", entry.version, error)
                listed = True
            return "archived" if listed else "removed"
        return "retired" if state.retirement(entry.version) else "kept"

    async def _facts(self, sessions: Iterable[str]) -> Versions:
        """Read what journals say of the versions of some sessions; of many at once that is all of them, in one go."""
        names, found = set(sessions) - {IMPORTED}, Versions()
        for name in names if len(names) <= 20 else ("*",):
            async for journalled in self._federation.journal.entries(name):
                if journalled.session in names:
                    for record in journalled.entry.unpack():
                        found.take(journalled.session, record)
        return found

    async def describe(self, version: str) -> Detail:
        """Return a version with its arrays, its session's settings, who took part, and what was made of it."""
        info = await self.find(version)
        entries = await self._federation.models.list()
        children = tuple(entry.version for entry in entries if entry.parent == version)
        return await detail_of(self._federation, info, children)

    async def card(self, version: str) -> str:
        """Return a version's card: Markdown for people, made of what is known of it now."""
        detail = await self.describe(version)
        line = await self.lineage(version)
        return card_of(detail, line, self._federation.subjects.workspace)

    async def lineage(self, version: str) -> list[ModelInfo]:
        """Return a version's session's versions, those that it goes back to, and those made from it, oldest first.

        At most `fedbus.federation.lineage.VERSIONS_MAX`, the nearest. `NotFound` when there is no such version.
        """
        state = await self.store.read_or_none()
        notes = await self.store.notes() if state.at else {}
        entry = await self._federation.models.entry(version)
        entries = Lineage(await self._federation.models.list()).of(entry)
        facts = await self._facts({one.session for one in entries})
        return [
            info_of(one, state, notes.get(one.version, ""), facts.get(one.version), await self.kept(one, state))
            for one in entries
        ]

    # --- what is brought in, and noted ---

    async def import_model(
        self,
        source: importing.Given,
        version: str,
        note: str = "",
        *,
        key: str = "",
        nbytes_max: int | None = None,
    ) -> ModelInfo:
        """Bring a model in as a version: a file (.safetensors, .npz), names and arrays, or a file's bytes as they come.

        Memory does not grow with a safetensors file. Raises `ConfigError` for what is no model or no name for it,
        `Conflict` where there is a version of this name, `BusFull` where there is no room: nothing of it stays then.
        ``key``: a repeat under the same one returns what the first has made. ``nbytes_max``: of its arrays, None: as of
        any model.
        """
        _check_text("note", note, NOTE_CHARS_MAX)
        await importing.import_model(self._federation, source, version, self.by, key=key, nbytes_max=nbytes_max)
        if note:
            await self.store.annotate(version, note)
        found = await self.find(version)
        await self._note(Action.MODEL_IMPORT, version, note, digest=found.digest)
        return found

    async def annotate(self, version: str, note: str) -> ModelInfo:
        """Note something beside a version, in place of what was noted before; an empty text takes it away."""
        _check_text("note", note, NOTE_CHARS_MAX)
        await self._federation.models.entry(version)
        await self.store.annotate(version, note)
        await self._note(Action.MODEL_ANNOTATE, version, note)
        return await self.find(version)

    # --- what goes ---

    async def retention(self) -> int | None:
        """Return of how many versions of each session a collection keeps the arrays; None: of all."""
        return (await self.store.read()).state.keep_last

    async def set_retention(self, keep_last: int | None) -> int | None:
        """Say of how many versions of each session, the newest, a collection keeps the arrays; None: of all."""
        if keep_last is not None and not 1 <= keep_last < 2**53:
            raise ConfigError(f"keep_last: expected 1 or more, or none, got {keep_last}")

        async def decide(state: RegistryState) -> RegistryState | None:
            return None if state.keep_last == keep_last else state.model_copy(update={"keep_last": keep_last})

        what = "all versions" if keep_last is None else f"the last {keep_last}"
        await self.store.change(f"keeps {what}", decide)
        await self._note(Action.RETENTION_SET, what)
        return keep_last

    async def remove(self, version: str, reason: str = "", *, grace_s: float = GRACE_S) -> ModelInfo:
        """Remove a version's arrays, ``grace_s`` from now: until then it is retired, and nobody may begin to use it.

        What the catalogue and the journal say of it stays. Raises `NotFound` where there is no such version, `Conflict`
        where something needs it; the text says what.
        """
        _check_text("reason", reason, REASON_CHARS_MAX)
        entry = await self._federation.models.entry(version)
        if not entry.removed_at:
            retired, kept = await self._retire([entry], reason or "removed by request", grace_s)
            if version in kept:
                raise Conflict(f"model {version} is needed: {kept[version]}", state="referenced")
            if not retired:
                raise Conflict("too many versions are being removed; collect first", state="busy")
            if grace_s <= 0:
                await self.removal.go_on(Collected())
            await self._note(Action.MODEL_REMOVE, version, reason)
        return await self.find(version)

    async def collect(self, *, dry_run: bool = False, grace_s: float = GRACE_S) -> Collection:
        """Remove the arrays of versions beyond `retention`, and beyond ``versions_kept`` of their sessions.

        What stages, sessions or evaluations need stays, as do imported versions. Versions are retired now, and removed
        by a later call, or by the coordinator, when ``grace_s`` is over; so this returns what was removed now.
        ``dry_run``: change nothing, and return what would go. With a store behind the bus what it has not yet stays,
        too.
        """
        done = Collected()
        if not dry_run:
            await self.removal.go_on(done)
        references = await read_references(self._federation.bus, self._federation.subjects)
        state = (await self.store.read()).state
        entries = await self._federation.models.list()
        going, kept = await self._archived(*self._going(entries, references, state))
        if dry_run:
            coming = {one.version for one in state.retired}
            left = [*going, *(entry for entry in entries if entry.version in coming and not entry.removed_at)]
            return Collection.of(left, (), kept, dry_run=True)
        retired: dict[str, Retired] = {}
        while going:
            some, refused = await self._retire(going, "beyond what is kept", grace_s)
            kept |= refused
            retired |= {one.version: one for one in some}
            left = [entry for entry in going if entry.version not in retired and entry.version not in refused]
            if grace_s <= 0:
                await self.removal.go_on(done)
            elif len(left) == len(going) or not some:
                break  # there is room for no more before the grace of others is over
            going = left
        removed = {entry.version for entry in done.removed}
        if gone := removed | retired.keys():
            await self._note(Action.MODEL_REMOVE, "", "beyond what is kept", versions=" ".join(sorted(gone)))
        return Collection.of(
            done.removed, tuple(sorted(set(retired) - removed)), {**kept, **done.kept}, tuple(done.imports)
        )

    async def _archived(
        self, going: list[ModelPublished], kept: dict[str, str]
    ) -> tuple[list[ModelPublished], dict[str, str]]:
        """Keep what is not archived yet, where there is a store behind the bus: it is the last copy."""
        models = self._federation.models
        if models.archive is None:
            return going, kept
        last: set[str] = set()

        async def look(entry: ModelPublished) -> None:
            if not await models.is_archived(entry):
                last.add(entry.version)

        for start in range(0, len(going), LOOKS):
            async with together() as group:
                for entry in going[start : start + LOOKS]:
                    group.create_task(look(entry))
        why = dict.fromkeys(last, f"it is not archived in {models.archive.store.url} yet")
        return [entry for entry in going if entry.version not in last], {**kept, **why}

    async def _retire(
        self, entries: Sequence[ModelPublished], reason: str, grace_s: float
    ) -> tuple[Sequence[Retired], dict[str, str]]:
        return await self.removal.retire(entries, why=reason, grace_s=grace_s, needed=self.removal.needed)

    @staticmethod
    def _going(
        entries: Sequence[ModelPublished], references: References, state: RegistryState
    ) -> tuple[list[ModelPublished], dict[str, str]]:
        """Return the versions that a collection removes, and why others that are beyond the retention stay."""
        kept_by_policy = references.kept(state.keep_last)
        needed = references.needed() | state.protected
        retired = {one.version for one in state.retired}
        beyond = [
            entry
            for entry in entries
            if not entry.removed_at
            and entry.session in references.sessions
            and entry.blob not in kept_by_policy
            and entry.version not in retired
        ]
        kept = {entry.version: needed[entry.blob] for entry in beyond if entry.blob in needed}
        return [entry for entry in beyond if entry.version not in kept], kept


def check_free(entry: ModelPublished, state: RegistryState) -> None:
    """Raise `Conflict` where a version is being removed; of one that was, only a store behind the bus has anything."""
    retired = None if entry.removed_at else state.retirement(entry.version)
    if retired is not None:
        why = f": {retired.reason}" if retired.reason else ""
        raise Conflict(f"model {entry.version} is being removed, by {retired.by}{why}", state="retired")


def session_of(entry: ModelPublished) -> str:
    """Return the session that made a version, '' where it was brought in."""
    return "" if entry.session == IMPORTED else entry.session


def info_of(
    entry: ModelPublished, state: RegistryState, note: str, known: VersionFacts | None, kept: Kept
) -> ModelInfo:
    """Return a version at a glance; ``known``: what the journals say of it."""
    return ModelInfo(
        version=entry.version,
        session=session_of(entry),
        round=entry.round,
        parent=entry.parent,
        digest=entry.digest,
        nbytes=entry.nbytes,
        at=entry.at,
        blob=entry.blob,
        kept=kept,
        removed_at=entry.removed_at,
        removed_why=entry.removed_why,
        stages=state.stages_of(entry.version),
        note=note,
        strategy=known.strategy if known else "",
        participants=known.participants if known else 0,
        metrics=_metrics(known.metrics if known else None),
        signature=entry.signature,
    )


def _metrics(metrics: Mapping[str, float] | None) -> dict[str, float]:
    return dict(metrics or {})


def _check_text(what: str, text: str, chars_max: int) -> None:
    if len(text) > chars_max:
        raise ConfigError(f"{what}: expected at most {chars_max} characters, got {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what}: expected text that is Unicode: {error}") from error
