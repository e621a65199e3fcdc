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
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np

from fedbus import aggregation
from fedbus.aggregation.companions import with_companions
from fedbus.bus.base import Bus, Message
from fedbus.bus.nats import connect as connect_nats
from fedbus.clock import Clock, SystemClock
from fedbus.codecs import Coding
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, BusFull, BusUnavailable, ConfigError, NotFound, SessionFailed
from fedbus.federation import evaluating
from fedbus.federation.analytics import Query
from fedbus.federation.evaluating import GATHER_S, AnalysisResult, EvaluationMatrix, EvaluationResult, Where
from fedbus.federation.models import Models
from fedbus.federation.report import RoundReport, why
from fedbus.federation.rounds import Rounds
from fedbus.messages import queries, records
from fedbus.messages.commands import StartSession, StopSession
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import Peer, check_name
from fedbus.messages.plans import Plan
from fedbus.messages.presence import members_of
from fedbus.messages.records import Record
from fedbus.messages.subjects import Subjects
from fedbus.planning import plan_of
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.tensors import CHUNK_BYTES, Arrays, Layout, ModelSpec
from fedbus.together import together
from fedbus.workers import Threads, Workers

Answer = TypeVar("Answer", bound=Body)

SESSION_CHARS_MAX = 40
"""Longest name of a session: versions and blobs are named after it and have 64."""

ANSWER_DEADLINE_S = 10.0
"""How long a question is asked again before we say that no coordinator is there: twice what a take-over takes."""

ASK_S_MAX = 5.0
"""How long one asking waits: a leader that stands still takes questions and does not answer, the next one does."""

ASK_PAUSE_S = 0.25
LOOK_S = 1.0
"""How often it is looked whether the bus was away while a start is waited for."""

GONE_S = 60.0
"""How long a session may be gone from the journal: a coordinator that has copies writes it again within seconds."""

START_DEADLINE_S = 30.0
"""How long a start may take to be journalled before we say that no coordinator is there."""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that became true in a session.

    ``kind``: name of the record; ``data``: the record; ``at``: seconds since the epoch.
    """

    session: str
    sequence: int
    at: float
    kind: str
    data: Record


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How a session ended: its newest model, and the metrics of its last evaluation.

    ``best_version``: the one with the best ``best_metric``, which was ``best_value``; none where the session has none.
    """

    session: str
    outcome: str
    reason: str
    model_version: str
    digest: str
    metrics: Mapping[str, float]
    rounds: int
    best_version: str = ""
    best_value: float | None = None


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """One closed round.

    ``seconds``: from opening to closing; ``metrics``: of the evaluation, empty if there was none; ``why``: in a
    sentence, why it closed when it did (`Session.report` says more).
    """

    round: int
    version: str
    counted: int
    not_counted: Mapping[str, str]
    seconds: float
    bytes_up: int
    bytes_down: int
    train_metrics: Mapping[str, float]
    metrics: Mapping[str, float]
    why: str = ""


@dataclass(slots=True)
class SessionInfo:
    """A session as its journal tells it: everything but the tensors."""

    session: str
    state: str = "starting"
    reason: str = ""
    by: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    config: SessionConfig = field(default_factory=SessionConfig)
    version: str = ""
    digest: str = ""
    nbytes: int = 0
    round: int = 0
    rounds: list[RoundInfo] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best_version: str = ""
    best_value: float | None = None
    _refused: dict[str, str] = field(default_factory=dict)
    _closing: records.RoundClosing | None = None

    def apply(self, record: Record, at: float) -> None:  # noqa: C901 - one case a record, nothing nested
        """Take note of a record."""
        match record:
            case records.SessionStarted():
                self.config, self.by, self.started_at, self.state = record.config, record.by, at, "waiting for clients"
                self.version, self.digest, self.nbytes = record.version, record.digest, record.nbytes
            case records.RoundOpened():
                self.round, self.state = record.round, f"round {record.round}: training"
                self._refused, self._closing = {}, None
            case records.UpdatesRecorded():
                self._refused |= {refused.client: refused.reason for refused in record.refused}
                for accepted in record.accepted if self._refused else ():
                    self._refused.pop(accepted.client, None)
                self.refused += [(record.round, refused.client, refused.reason) for refused in record.refused]
            case records.RoundClosing():
                self.state = f"round {record.round}: merging"
                # Sent again, or merged along another way: why it was closed at all stood in the first.
                reason = self._closing.reason if self._closing else record.reason
                self._closing = record.model_copy(update={"reason": reason})
            case records.RoundFailed():
                self.state, self.reason = f"round {record.round} failed", record.reason
            case records.ModelPublished():
                self.version, self.digest, self.nbytes = record.version, record.digest, record.nbytes
            case records.RoundClosed():
                self._close(record, at)
            case records.EvaluationOpened():
                self.state = f"round {record.round}: evaluating" if self.config.rounds else "evaluating"
            case records.RoundEvaluated():
                self._evaluate(record)
            case records.SessionEnded():
                self.state, self.reason, self.ended_at = record.outcome, record.reason, at
            case records.ClientsMoved():
                pass

    def _close(self, record: records.RoundClosed, at: float) -> None:
        self.state = f"round {record.round} closed"
        closing = self._closing
        self.rounds.append(
            RoundInfo(
                round=record.round,
                version=self.version,
                counted=record.counted,
                not_counted=record.not_counted,
                seconds=at - record.opened_at,
                bytes_up=record.bytes_up,
                bytes_down=record.bytes_down,
                train_metrics=record.metrics,
                metrics={},
                why=why("closed", closing.reason, closing.missing, self._refused) if closing else "",
            )
        )

    def _evaluate(self, record: records.RoundEvaluated) -> None:
        self.metrics, self.state = dict(record.metrics), f"round {record.round} evaluated"
        value = self.config.best_value(record.metrics)
        if value is not None and (self.best_value is None or self.config.is_better(value, self.best_value)):
            self.best_version, self.best_value = record.version, value
        if self.rounds and self.rounds[-1].round == record.round:
            # The model that is evaluated is fetched for it, and is not fetched again for the round that follows.
            fetched = sum(measured.fetched for measured in record.clients)
            last = self.rounds[-1]
            self.rounds[-1] = replace(last, metrics=record.metrics, bytes_down=last.bytes_down + fetched)

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.ended_at > 0


class Session:
    """One session of a federation."""

    def __init__(self, federation: Federation, name: str) -> None:
        self._federation = federation
        self.name = name

    async def events(self, from_sequence: int = 1) -> AsyncIterator[SessionEvent]:
        """Everything that became true in the session, from the beginning, then as it comes; ends with the session."""
        async for journalled in self._federation.journal.follow(self.name, from_sequence):
            for record in journalled.entry.unpack():
                yield SessionEvent(self.name, journalled.sequence, journalled.entry.at, record.kind, record)
                if isinstance(record, records.SessionEnded):
                    return

    async def info(self) -> SessionInfo:
        """Return the session as it stands; `NotFound` when there is no such session."""
        info = SessionInfo(self.name)
        entries = await self._federation.journal.read(self.name)
        if not any(journalled.entry.records for journalled in entries):
            raise NotFound(f"session {self.name}: no such session; `fedbus session list` shows those that exist")
        for journalled in entries:
            for record in journalled.entry.unpack():
                info.apply(record, journalled.entry.at)
        return info

    async def report(self, round_: int | None = None) -> RoundReport:
        """Return who was waited for in a round, how long, why, and what became of each update; None: the newest.

        Also of a round that is open, or failed: as far as it is. `NotFound` where there is no such session or round.
        """
        found = Rounds(self.name, round_)
        for journalled in await self._federation.journal.read(self.name):
            for record in journalled.entry.unpack():
                found.take(record, journalled.entry.at)
        report = found.report()
        if report is None:
            await self.info()
            which = "no round was opened yet" if round_ is None else f"round {round_} was not opened"
            raise NotFound(f"session {self.name}: {which}; `fedbus session show {self.name}` tells which were")
        return report

    async def evaluations(self) -> list[EvaluationResult]:
        """Return what clients found of its versions, evaluation by evaluation: their own metrics, and sums over them.

        `NotFound` where there is no such session.
        """
        await self.info()
        return [
            EvaluationResult.of(self.name, record)
            for journalled in await self._federation.journal.read(self.name)
            for record in journalled.entry.unpack()
            if isinstance(record, records.RoundEvaluated)
        ]

    async def wait(self) -> SessionResult:
        """Wait for the end; returns the result, also of a session that was stopped.

        `SessionFailed` when it failed or was refused.
        """
        async with together() as group:
            watching = group.create_task(self._watch())
            info = await self._end()
            watching.cancel()
        if info.state in ("failed", "refused"):
            raise SessionFailed(f"session {self.name} {info.state}: {info.reason}")
        return SessionResult(
            self.name,
            info.state,
            info.reason,
            info.version,
            info.digest,
            info.metrics,
            rounds=len(info.rounds),
            best_version=info.best_version,
            best_value=info.best_value,
        )

    async def _end(self) -> SessionInfo:
        info = SessionInfo(self.name)
        async for event in self.events():
            if isinstance(event.data, records.SessionStarted):
                info = SessionInfo(self.name)  # the broker has lost the journal, and it was written again
            info.apply(event.data, event.at)
        return info

    async def _watch(self) -> None:
        """Raise `SessionFailed` where the broker came back without the session, and nobody writes it again."""
        federation, now = self._federation, asyncio.get_running_loop().time
        seen, gone_at = federation.bus.reconnects, 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            if federation.bus.reconnects == seen or not federation.bus.connected:
                continue
            if await federation.is_known(self.name):
                seen, gone_at = federation.bus.reconnects, 0.0
            elif not gone_at:
                gone_at = now()
            elif now() > gone_at + GONE_S:
                what = f"session {self.name} is gone: the broker came back without it"
                raise SessionFailed(
                    f"{what}, and no coordinator has its journal; `fedbus restore DIR`, then wait again"
                )

    async def stop(self, reason: str = "stopped by request") -> None:
        """Ask for the end of the session; `wait` tells when it has come."""
        await self.info()
        await self._federation.command(StopSession(session=self.name, reason=reason), f"stop-{self.name}")


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
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._peer = Peer("engineer", check_name("name", name or f"engineer-{secrets.token_hex(4)}"))
        self.subjects = Subjects(workspace)
        self._clock = clock or SystemClock()
        self._given_workers = workers
        self._workers = workers
        self._bus: Bus | None = None
        self._said = 0

    async def __aenter__(self) -> Self:
        """Connect; `BusUnavailable` when no broker answers."""
        if isinstance(self._url, str):
            self._bus = await connect_nats(self._url, name=self._peer.name, credentials=self._credentials)
        else:
            self._bus = self._url
        self._workers = self._given_workers or Threads(2, "fedbus-engineer")
        self.journal = Journal(self._bus, self.subjects)
        self.store = ModelStore(self._bus, self.subjects, self._workers)
        self.models = Models(self.store, self.journal)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection, if it is ours."""
        bus, self._bus = self._bus, None
        if self._workers is not None and self._given_workers is None:
            self._workers.close()
        if bus is not None and isinstance(self._url, str):
            await bus.close()

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
    ) -> Session:
        """Store the first model and start a session; returns when the session is journalled.

        ``model``: names and arrays, or a published version to go on from; one that is only evaluated is not copied.
        ``name``: 1 to 40 of ``A-Z a-z 0-9 _ -``; without one a name is made up. Starting a name that exists already
        returns the session that is there (so a start may be repeated). ``chunk_bytes``: largest message of its models
        and updates. A strategy's companions are added, as zeros, where the model has none.

        Raises `ConfigError` for a strategy, codec or option that cannot be, or not with this model, `SessionFailed`
        when the coordinator refuses, `BusUnavailable` when no coordinator takes the command, `BusFull` where the broker
        has no room for the model: nothing of it stays.
        """
        name = name or f"session-{secrets.token_hex(4)}"
        if len(check_name("session name", name)) > SESSION_CHARS_MAX:
            raise ConfigError(f"session name: expected at most {SESSION_CHARS_MAX} characters, got {len(name)}")
        plan = plan_of(config)
        if not model:
            raise ConfigError("model: expected names and arrays, got none")
        session = Session(self, name)
        if await self.is_known(name):
            return session
        published = await self.models.find(model) if isinstance(model, str) else None
        arrays = {} if published and not config.rounds else await self._arrays(model)
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
            start = StartSession(session=name, config=config, blob=blob, digest=digest, nbytes=nbytes, base=base)
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
        return any(journalled.entry.records for journalled in await self.journal.read(name))

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

    async def sessions(self) -> list[SessionInfo]:
        """Return all sessions in the order of their start."""
        found: dict[str, SessionInfo] = {}
        for journalled in await self.journal.read():
            for record in journalled.entry.unpack():
                info = found.setdefault(journalled.session, SessionInfo(journalled.session))
                info.apply(record, journalled.entry.at)
        return list(found.values())

    async def clients(self) -> list[queries.Seen]:
        """Return the clients that are there now, by name; those of a crowd with its attributes."""
        return clients_of((await self._ask("clients", queries.Roster)).peers)

    async def combiners(self) -> list[queries.Seen]:
        """Return the combiners that are there now."""
        return list((await self._ask("combiners", queries.Roster)).peers)

    async def waits(self) -> list[queries.Wait]:
        """Return what waits now: on whom, since when, until when, and what happens then."""
        return list((await self._ask("waits", queries.Waits)).waits)

    async def command(self, body: Body, id_: str) -> None:
        """Put a command where a coordinator takes it, now or when it comes."""
        subject = self.subjects.command(self._peer)
        envelope = Envelope(id_, self.subjects.workspace, self._peer.name, body)
        await self.bus.append(self.subjects.stream("command"), subject, encode(envelope), message_id=id_)

    async def _ask(self, what: str, expected: type[Answer]) -> Answer:
        self._said += 1
        envelope = Envelope(f"{self._peer.name}-{self._said}", self.subjects.workspace, self._peer.name, queries.Ask())
        try:
            message = await self._answer(self.subjects.query(what), encode(envelope))
        except BusUnavailable as error:
            raise BusUnavailable(
                f"no coordinator answers: is one running? (`fedbus up`, `fedbus doctor`): {error}"
            ) from error
        body = decode(message.data, message.subject).body
        if not isinstance(body, expected):
            raise BadMessage(f"{message.subject}: expected {expected.kind}, got {body.kind}")
        return body

    async def _answer(self, subject: str, question: bytes) -> Message:
        """Ask until somebody answers: while one coordinator takes over from another, nobody does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + ANSWER_DEADLINE_S
        while True:
            try:
                return await self.bus.request(subject, question, deadline_s=min(ASK_S_MAX, end - loop.time()))
            except BusUnavailable:
                if loop.time() + ASK_PAUSE_S >= end:
                    raise
                await asyncio.sleep(ASK_PAUSE_S)


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
            found.setdefault(name, peer.model_copy(update={"role": "client", "name": name, "members": 0, "first": 0}))
    return [found[name] for name in sorted(found)]


def connect(
    url: str | Bus, *, credentials: str | None = None, workspace: str = "default", name: str | None = None
) -> Federation:
    """Return a federation to be entered with ``async with``.

    ``url``: of the broker, ``credentials``: path of a NATS credentials file.
    """
    return Federation(url, credentials=credentials, workspace=workspace, name=name)
