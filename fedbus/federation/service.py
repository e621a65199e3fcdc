"""What an engineer does with a federation, over the bus: sessions, models, clients, waits.

    async with fedbus.connect("nats://127.0.0.1:4222") as federation:
        session = await federation.start_session(fedbus.SessionConfig(rounds=10, clients_min=3), model=arrays)
        result = await session.wait()

The journal is the truth: a session is what its journal says, whoever asks, whenever. Nothing here is needed for a
session to run: the process that started it may leave.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np

from fedbus import aggregation
from fedbus.access import known
from fedbus.access.audit import Audit
from fedbus.access.envelopes import Signer, signed_by
from fedbus.access.seals import seal_of
from fedbus.access.signing import Own, WorkspaceModels, credentials_at
from fedbus.aggregation.companions import with_companions
from fedbus.bus.base import Bus, Message
from fedbus.bus.nats import connect as connect_nats
from fedbus.bus.proxy import through
from fedbus.clock import Clock, SystemClock
from fedbus.codecs import Coding
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, BusFull, BusUnavailable, ConfigError, SessionFailed
from fedbus.federation import evaluating
from fedbus.federation.analytics import Query
from fedbus.federation.comparing import Comparison, compared
from fedbus.federation.evaluating import GATHER_S, AnalysisResult, EvaluationMatrix, EvaluationResult, Where
from fedbus.federation.info import RoundInfo, SessionEvent, SessionInfo, SessionResult, Status
from fedbus.federation.listing import EventFilter, Order, SessionFilter
from fedbus.federation.models import Models
from fedbus.federation.overview import Kind, Overview, overview_of
from fedbus.federation.reading import ClientInfo, chosen, client_of, events_of, sessions_of
from fedbus.federation.registry import Registry, check_free
from fedbus.federation.session import LOOK_S, Session
from fedbus.messages import queries, records
from fedbus.messages.commands import StartSession
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import Peer, check_name
from fedbus.messages.plans import Plan
from fedbus.messages.presence import Lease, members_of
from fedbus.messages.registry import IMPORTED
from fedbus.messages.subjects import Subjects
from fedbus.planning import plan_of
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.objects import Store, open_store
from fedbus.store.objects.archived import Archive
from fedbus.store.objects.base import Unsealing
from fedbus.store.sealing import Seal
from fedbus.tensors import CHUNK_BYTES, Arrays, Layout, ModelSpec
from fedbus.together import together
from fedbus.workers import Threads, Workers

__all__ = ["Federation", "RoundInfo", "Session", "SessionEvent", "SessionInfo", "SessionResult", "connect"]

Answer = TypeVar("Answer", bound=Body)

SESSION_CHARS_MAX = 40
"""Longest name of a session: versions and blobs are named after it and have 64."""

ANSWER_DEADLINE_S = 10.0
"""How long a question is asked again before we say that no coordinator is there: twice what a take-over takes."""

ASK_S_MAX = 5.0
"""How long one asking waits: a leader that stands still takes questions and does not answer, the next one does."""

ASK_PAUSE_S = 0.25

START_DEADLINE_S = 30.0
"""How long a start may take to be journalled before we say that no coordinator is there."""


class Federation:
    """A connection to a workspace of a federation; made by `connect`, an async context manager."""

    def __init__(
        self,
        url: str | Bus,
        *,
        credentials: str | None = None,
        workspace: str = "default",
        name: str | None = None,
        clock: Clock | None = None,
        workers: Workers | None = None,
        store: str | Store | None = None,
        role: Literal["engineer", "gateway"] = "engineer",
        seal: Seal | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._url = url
        self._seal = seal
        self._signer = signer
        self._opened = open_store(store) if isinstance(store, str) else None
        self._kept_in = self._opened if isinstance(store, str) else store
        self._credentials: str | Path | None = credentials
        self._peer = Peer(role, check_name("name", name or f"engineer-{secrets.token_hex(4)}"))
        self.subjects = Subjects(workspace)
        self._clock = clock or SystemClock()
        self._given_workers = workers
        self._workers = workers
        self._bus: Bus | None = None
        self._said = 0
        self._audit: Audit | None = None
        self._ahead_s = 0.0

    async def __aenter__(self) -> Self:
        """Connect; `BusUnavailable` when no broker answers."""
        if isinstance(self._url, str):
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(known.find, self._url, self.subjects.workspace)
            self._bus = await connect_nats(self._url, name=self._peer.name, credentials=self._credentials or None)
        else:
            self._bus = self._url
        if self._bus.member is not None:  # the broker lets nobody speak under another name
            self._peer = Peer(*self._bus.member)
        self._workers = self._given_workers or Threads(2, "fedbus-engineer")
        self.journal = Journal(self._bus, self.subjects)
        ours = await asyncio.to_thread(credentials_at, self._credentials) if self._credentials else None
        if self._seal is None and ours is not None:
            self._seal = seal_of(ours)
        if self._signer is None and ours is not None:
            self._signer = Own(ours, self._credentials)
        self.store = ModelStore(self._bus, self.subjects, self._workers, self._seal)
        opened: object = self._opened
        if isinstance(opened, Unsealing) and opened.credentials:
            opened.unseal(seal_of(await asyncio.to_thread(credentials_at, opened.credentials)))
        kept_in = self._kept_in
        archive = Archive(kept_in, self.subjects.workspace, self._workers) if kept_in is not None else None
        signatures = WorkspaceModels(ours.trust) if ours is not None and ours.trust.model_key else None
        self.models = Models(self.store, self.journal, archive, signatures)
        self._audit = self._own_audit(self._bus)
        self.registry = Registry(self, self._peer.author, self._audit)
        return self

    def _own_audit(self, bus: Bus) -> Audit | None:
        """Return where a person who comes over the bus has it written down what she does; a gateway does so itself."""
        if bus.member is None or self._peer.role == "gateway":
            return None
        return Audit(bus, self.subjects, self._peer, self._clock)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection and the store, if they are ours."""
        bus, self._bus = self._bus, None
        if self._audit is not None:
            await self._audit.finish()
        if self._opened is not None:
            await self._opened.close()
        if self._workers is not None and self._given_workers is None:
            self._workers.close()
        if bus is not None and isinstance(self._url, str):
            await bus.close()

    @property
    def clock(self) -> Clock:
        """The time of day."""
        return self._clock

    def now(self) -> float:
        """Return what time it is for the coordinators: events, waits and who was seen when are by it, in seconds.

        As the latest answer of one has said; before that it is our own `clock`. The two differ by what machines'
        clocks do, and by how long all coordinators were away while sessions ran (`fedbus.coordinator.clock`).
        """
        return self._clock.now() + self._ahead_s

    @property
    def workers(self) -> Workers:
        """Threads for what would hold the event loop."""
        assert self._workers is not None, "a federation that was entered has workers"
        return self._workers

    @property
    def bus(self) -> Bus:
        """The connection."""
        if self._bus is None:
            raise ConfigError("enter the federation first: async with fedbus.connect(...) as federation")
        return self._bus

    async def start_session(
        self,
        config: SessionConfig,
        *,
        model: Mapping[str, np.ndarray[Any, Any]] | str,
        name: str | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        by: str = "",
    ) -> Session:
        """Store the first model and start a session; returns when the session is journalled.

        ``model``: names and arrays, or a published version to go on from, by its name or by a stage that has it
        (``@production``); one that is only evaluated is not copied.
        ``name``: 1 to 40 of ``A-Z a-z 0-9 _ -``; without one a name is made up. Starting a name that exists already
        returns the session that is there (so a start may be repeated). ``chunk_bytes``: largest message of its models
        and updates. ``by``: for whom, where a gateway asks. A strategy's companions are added, as zeros, where the
        model has none.

        Raises `ConfigError` for a strategy, codec or option that cannot be, or not with this model, `SessionFailed`
        when the coordinator refuses, `Conflict` where the version is being removed, `BusUnavailable` when no
        coordinator takes the command, `BusFull` where the broker has no room for the model: nothing of it stays.
        """
        name = _checked(name or f"session-{secrets.token_hex(4)}")
        plan = plan_of(config)
        if not model:
            raise ConfigError("model: expected names and arrays, got none")
        session = Session(self, name)
        if await self.is_known(name):
            return session
        published = await self._published(model) if isinstance(model, str) else None
        model = published.version if published is not None else model
        whole = published is not None and not config.rounds and await self.models.is_kept(published)
        arrays = {} if whole else await self._arrays(model)
        if config.rounds:
            arrays = _trainable(config, plan, arrays)
            assert self._workers is not None, "a federation that was entered has workers"
            await self._workers.run(_check_sizes, plan, arrays, chunk_bytes, self.bus.payload_max)
        blob = published.blob if published and not arrays else f"{name}-0-{secrets.token_hex(4)}"
        seen = self.bus.reconnects

        async def ask() -> None:
            if published and not arrays:
                digest, nbytes = published.digest, published.nbytes
            else:
                manifest = await self.store.put(blob, arrays, chunk_bytes)
                digest, nbytes = manifest.digest, manifest.spec.nbytes
            base = published.version if published else ""
            start = StartSession(session=name, config=config, blob=blob, digest=digest, nbytes=nbytes, base=base, by=by)
            try:
                await self.command(start, f"start-{name}-{blob}")
            except BusFull:
                if arrays:
                    await self.store.discard(blob)  # nobody was asked, so nobody will ever want it
                raise

        await ask()
        async with together() as group:
            asking = group.create_task(self._ask_again(ask, blob, seen))
            await self._await_start(session)
            asking.cancel()
        return session

    async def _published(self, model: str) -> records.ModelPublished:
        """Return the version that a session is to go on from, by its name or a stage's; nobody may be removing it."""
        found = await self.models.find(await self.registry.resolve(model))
        check_free(found, await self.registry.store.read_or_none())
        return found

    async def _arrays(self, model: Mapping[str, np.ndarray[Any, Any]] | str) -> Mapping[str, np.ndarray[Any, Any]]:
        return await self.models.get(model) if isinstance(model, str) else model

    async def _ask_again(self, ask: Callable[[], Awaitable[None]], blob: str, seen: int) -> None:
        """Where the broker came back without the first model, it has lost the command as well: ask again."""
        while True:
            if self.bus.connected and self.bus.reconnects != seen:
                now = self.bus.reconnects
                if not await self.store.is_whole(blob):
                    await ask()
                seen = now
            await asyncio.sleep(LOOK_S)

    async def is_known(self, name: str) -> bool:
        """Whether the journal has such a session."""
        entries = self.journal.entries(name)  # the first one says it: all of them may be gigabytes
        try:
            async for journalled in entries:
                if journalled.entry.records:
                    return True
        finally:
            await entries.aclose()
        return False

    async def _await_start(self, session: Session) -> None:
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                async for event in session.events():
                    if isinstance(event.data, records.SessionEnded) and event.data.outcome == "refused":
                        raise SessionFailed(f"session {session.name} was refused: {event.data.reason}")
                    return
        except TimeoutError as error:
            raise BusUnavailable(
                f"session {session.name}: no coordinator took the command within {START_DEADLINE_S:g} s; it stands and "
                "will be taken when one comes (`fedbus up`, or `fedbus coordinator`)"
            ) from error

    async def evaluate(
        self,
        model: Mapping[str, np.ndarray[Any, Any]] | str,
        *,
        clients_min: int = 1,
        answers_min: int = 1,
        reveal: Literal["clients", "sums"] = "clients",
        where: Where | None = None,
        config: Mapping[str, Any] | None = None,
        deadline_s: float = 300.0,
        gather_deadline_s: float = GATHER_S,
    ) -> EvaluationResult:
        """Let all clients that are there evaluate a model: names and arrays, or a published version.

        Begins when ``clients_min`` clients are there whose attributes are as ``where`` says, ends when all of them have
        answered, or after ``deadline_s``. ``config``: given to the apps as ``task.config``. ``reveal="sums"``: no
        client's own numbers are kept. Raises `SessionFailed` where too few are there within ``gather_deadline_s``, or
        fewer than ``answers_min`` have answered (it says how many), and what `start_session` raises.
        """
        settings = evaluating.evaluation_config(
            clients_min=clients_min,
            answers_min=answers_min,
            reveal=reveal,
            where=where,
            config=config,
            deadline_s=deadline_s,
            gather_deadline_s=gather_deadline_s,
        )
        return await evaluating.evaluate(self, model, settings)

    async def evaluate_matrix(
        self,
        models: Iterable[str] | Mapping[str, Mapping[str, np.ndarray[Any, Any]] | str],
        *,
        clients_min: int = 1,
        where: Where | None = None,
        config: Mapping[str, Any] | None = None,
        deadline_s: float = 300.0,
        gather_deadline_s: float = GATHER_S,
    ) -> EvaluationMatrix:
        """Let all clients evaluate several models: published versions, or any names with arrays or versions.

        For models made at sites, and for all clients: who does well where. Otherwise as `evaluate`.
        """
        given = models if isinstance(models, Mapping) else {version: version for version in models}
        settings = evaluating.evaluation_config(
            clients_min=clients_min,
            answers_min=1,
            reveal="clients",
            where=where,
            config=config,
            deadline_s=deadline_s,
            gather_deadline_s=gather_deadline_s,
        )
        return await evaluating.evaluate_matrix(self, given, settings)

    async def analyze(
        self,
        queries: Sequence[Query],
        *,
        cohort_min: int = 5,
        where: Where | None = None,
        config: Mapping[str, Any] | None = None,
        deadline_s: float = 60.0,
        gather_deadline_s: float = GATHER_S,
    ) -> AnalysisResult:
        """Ask about the data of all clients together (`fedbus.federation.analytics`), of at least ``cohort_min``.

        Clients answer with counts and sums of the columns that their ``@app.data`` gives. A client that lacks a column,
        refuses, or does not answer within ``deadline_s`` is in ``missing``, with the reason. Raises `ConfigError` for a
        query that cannot be, `SessionFailed` where fewer than ``cohort_min`` are there or answer: it says how many.
        """
        settings = evaluating.evaluation_config(
            clients_min=cohort_min,
            answers_min=cohort_min,
            reveal="sums",
            where=where,
            config=config,
            deadline_s=deadline_s,
            gather_deadline_s=gather_deadline_s,
        )
        return await evaluating.analyze(self, queries, settings)

    def session(self, name: str) -> Session:
        """Return a session by name; nothing is asked yet."""
        return Session(self, check_name("session name", name))

    async def sessions(
        self,
        *,
        status: Status | Sequence[Status] = (),
        strategy: str | None = None,
        text: str | None = None,
        order: Order = "oldest",
        limit: int | None = None,
        after: str | None = None,
    ) -> list[SessionInfo]:
        """Return sessions in order of their start: all, or those that stand so, of a strategy, with a text in them.

        ``text``: in the name, the reason, the strategy, or who started it. A page of ``limit`` begins behind the
        session named ``after``, the last of the page before. All journals are read for it; a gateway has them at hand.
        """
        statuses = (status,) if isinstance(status, str) else tuple(status)
        wanted = SessionFilter(statuses, strategy, text)
        return chosen(await sessions_of(self.journal), wanted, self.now(), order, limit, after)

    async def events(
        self,
        *,
        session: str | None = None,
        kind: str | Sequence[str] = (),
        since: float | None = None,
        until: float | None = None,
        text: str | None = None,
        follow: bool = False,
        after: str | None = None,
    ) -> AsyncIterator[SessionEvent]:
        """Yield what became true in the workspace, in the order of the journal; with ``follow`` also what comes.

        ``kind``: names of records; ``since``, ``until``: seconds since the epoch; ``text``: anywhere in the record;
        ``after``: behind the event with this id. `ConfigError` for a kind or an id that is none.
        """
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        wanted = EventFilter(session, kinds, since, until, text)
        async for event in events_of(self.journal, wanted, follow=follow, after=after):
            yield event

    async def client(self, name: str) -> ClientInfo:
        """Return a client with what it gave, over all sessions; `NotFound` where nothing is known of it."""
        found = {seen.name: seen for seen in await self.clients()}
        return await client_of(self.journal, check_name("client name", name), found.get(name))

    async def compare(self, *names: str) -> Comparison:
        """Return several sessions side by side: settings that differ, metrics as curves.

        `NotFound` where there is no session of a name, `ConfigError` where these are not 2 to 10 different ones.
        """
        return compared([await self.session(name).info() for name in names])

    async def clone_session(
        self,
        session: str,
        *,
        config: Mapping[str, Any] | None = None,
        model: str | None = None,
        name: str | None = None,
    ) -> Session:
        """Start a session like another one: as `Session.clone`."""
        return await self.session(session).clone(config=config, model=model, name=name)

    async def clients(self) -> list[queries.Seen]:
        """Return the clients that are there now, by name; those of a crowd with its attributes."""
        return clients_of((await self._ask("clients", queries.Roster)).peers)

    async def combiners(self) -> list[queries.Seen]:
        """Return the combiners that are there now."""
        return list((await self._ask("combiners", queries.Roster)).peers)

    async def coordinators(self) -> list[queries.Seen]:
        """Return the coordinators that are there now: the one that leads, and those that stand by."""
        return list((await self._ask("coordinators", queries.Roster)).peers)

    async def gateways(self) -> list[queries.Seen]:
        """Return the gateways that are there now."""
        return list((await self._ask("gateways", queries.Roster)).peers)

    async def peers(self, what: Kind, *, deadline_s: float) -> list[queries.Seen]:
        """Return who is there as the coordinator says it, a crowd as one; `BusUnavailable` after ``deadline_s``."""
        return list((await self._ask(what, queries.Roster, deadline_s)).peers)

    async def waits(self, *, deadline_s: float = ANSWER_DEADLINE_S) -> list[queries.Wait]:
        """Return what waits now: on whom, since when, until when, and what happens then."""
        return list((await self._ask("waits", queries.Waits, deadline_s)).waits)

    async def overview(self, *, deadline_s: float = ANSWER_DEADLINE_S) -> Overview:
        """Return who is there, what waits, how full the broker is; `BusUnavailable` where nobody tells it in time."""
        return await overview_of(self, deadline_s)

    async def leader(self) -> str:
        """Return the name of the coordinator that leads, by the lease on the board; empty where nobody holds it."""
        message = await self.bus.last(self.subjects.stream("board"), self.subjects.lead())
        body = decode(message.data, message.subject).body if message is not None else None
        return body.holder if isinstance(body, Lease) else ""

    async def command(self, body: Body, id_: str) -> None:
        """Put a command where a coordinator takes it, now or when it comes."""
        subject = self.subjects.command(self._peer)
        envelope = Envelope(id_, self.subjects.workspace, self._peer.name, body)
        if self._signer is not None:
            envelope = signed_by(self._signer, subject, envelope)
        await self.bus.append(self.subjects.stream("command"), subject, encode(envelope), message_id=id_)

    async def _ask(self, what: str, expected: type[Answer], deadline_s: float = ANSWER_DEADLINE_S) -> Answer:
        self._said += 1
        envelope = Envelope(f"{self._peer.name}-{self._said}", self.subjects.workspace, self._peer.name, queries.Ask())
        try:
            message = await self._answer(self.subjects.query(what), encode(envelope), deadline_s)
        except BusUnavailable as error:
            raise BusUnavailable(
                f"no coordinator answers: is one running? (`fedbus up`, `fedbus doctor`): {error}"
            ) from error
        body = decode(message.data, message.subject).body
        if not isinstance(body, expected):
            raise BadMessage(f"{message.subject}: expected {expected.kind}, got {body.kind}")
        if isinstance(body, queries.Roster | queries.Waits):
            self._ahead_s = body.at - self._clock.now() if body.at else 0.0
        return body

    async def _answer(self, subject: str, question: bytes, deadline_s: float) -> Message:
        """Ask until somebody answers: while one coordinator takes over from another, nobody does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while True:
            try:
                return await self.bus.request(subject, question, deadline_s=min(ASK_S_MAX, end - loop.time()))
            except BusUnavailable:
                if loop.time() + ASK_PAUSE_S >= end:
                    raise
                await asyncio.sleep(ASK_PAUSE_S)


def _checked(name: str) -> str:
    """Return a name if a new session may have it; ConfigError says what may not."""
    if len(check_name("session name", name)) > SESSION_CHARS_MAX:
        raise ConfigError(f"session name: expected at most {SESSION_CHARS_MAX} characters, got {len(name)}")
    if name == IMPORTED:
        raise ConfigError(f"session name: {name!r} stands for versions that were brought in; choose another")
    return name


def _trainable(config: SessionConfig, plan: Plan, arrays: Arrays) -> Arrays:
    """Return the first version's arrays, with those that the strategy adds; ConfigError where these cannot be."""
    if plan.encoding.form == "difference":
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind not in "fi":
                raise ConfigError(
                    f"array {name!r} is {np.asarray(array).dtype}: with strategy {config.strategy} and codec "
                    f"{config.codec} differences travel, which only float and signed-integer arrays have; keep it out "
                    "of the model"
                )
    aggregator = aggregation.find(config.strategy)
    return with_companions(arrays, aggregator) if aggregator.companions else arrays


def _check_sizes(plan: Plan, arrays: Arrays, chunk_bytes: int, payload_max: int) -> None:
    """Raise ConfigError where an encoded chunk would be more than the broker takes as one message."""
    if plan.encoding.codec == "none" or plan.encoding.form == "payload":
        return
    coding = Coding(Layout(ModelSpec.of(arrays), chunk_bytes), plan.encoding.codec, plan.encoding.options)
    largest = max(map(coding.size, range(coding.layout.count)), default=0)
    if largest > payload_max:
        raise ConfigError(
            f"chunk_bytes={chunk_bytes}: codec {plan.encoding.codec} makes chunks of {largest} bytes of that, and the "
            f"broker takes {payload_max} in a message; choose smaller chunks"
        )


def clients_of(peers: Iterable[queries.Seen]) -> list[queries.Seen]:
    """Return clients by name: those that are there themselves, and those that crowds speak for."""
    found: dict[str, queries.Seen] = {}
    for peer in sorted(peers, key=lambda seen: (seen.role != "client", seen.name)):
        if peer.role == "client":
            found[peer.name] = peer
        for name in members_of(peer.name, peer.first, peer.members):
            alone = {"role": "client", "name": name, "members": 0, "first": 0, "crowd": peer.name}
            found.setdefault(name, peer.model_copy(update=alone))
    return [found[name] for name in sorted(found)]


def connect(
    url: str | Bus,
    *,
    credentials: str | None = None,
    workspace: str = "default",
    name: str | None = None,
    store: str | Store | None = None,
    proxy: str | None = None,
) -> Federation:
    """Return a federation to be entered with ``async with``.

    ``url``: of the broker, ``credentials``: path of a credentials file; None takes what is known of that broker on this
    machine (`fedbus up`, `fedbus join`), '' none. ``store``: the store behind the bus, or its URL
    (``s3://bucket/prefix``): models that the bus has no longer are read from there. ``proxy``: the HTTP proxy by which
    the broker is reached, as `fedbus.Client` has it.
    """
    return Federation(through(url, proxy), credentials=credentials, workspace=workspace, name=name, store=store)
