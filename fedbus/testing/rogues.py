"""Members of a federation that do not keep to the protocol: they are asked like any client, and send what they like.

Kinds (`fedbus.testing.plan.ROGUES`):

- ``greedy`` sends all it has, whatever credit it was given;
- ``shuffled`` sends what is asked for in any order and twice, among chunks of other rounds, attempts and places;
- ``dribbling`` sends one chunk at a time, with long pauses;
- ``mute`` announces and sends nothing, and keeps whoever waits for it waiting;
- ``quitting`` leaves in the midst of an upload and comes back as somebody new, again and again;
- ``lying`` announces what it does not send: another weight, size, digest or model;
- ``two-faced`` names another weight in each of its announcements, so that each combiner hears another.

What a rogue sends as a whole is noted in ``known``, so that a judge can tell whether what was accepted was sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field

from fedbus.bus.base import Bus, Message, Subscription
from fedbus.clock import Clock
from fedbus.errors import FedbusError
from fedbus.exchange.station import Station
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.orders import part_of
from fedbus.messages.subjects import ChunkAddress
from fedbus.messages.tasks import Task, Train
from fedbus.messages.uploads import INLINE_BYTES_MAX, UploadBegin, UploadState
from fedbus.store.models import ModelStore
from fedbus.tensors import Manifest, Source, chunk_digest
from fedbus.testing.learning import Arrays, digest_of, update_of
from fedbus.together import together
from fedbus.workers import Inline

HEARTBEAT_S = 5.0
PAUSE_S = 1.0
"""Between two words of a rogue on one upload."""

BOARD_S = 20.0

Known = MutableMapping[tuple[str, int, str], list[Arrays]]
"""What members sent as a whole: (session, round, name) -> updates."""


@dataclass(slots=True)
class _Part:
    """What goes to one combiner: the part's bytes in chunks, and how the combiner says that it stands."""

    begin: UploadBegin
    combiner: str
    data: list[bytes]
    state: UploadState | None = None
    said: int = 0


@dataclass(slots=True)
class _Job:
    """What a task asks for; its parts are made when it is begun."""

    train: Train
    parts: list[_Part] = field(default_factory=list)


class Rogue:
    """One rogue; ``rng`` draws what it does."""

    def __init__(
        self,
        bus: Bus,
        kind: str,
        *,
        name: str,
        incarnation: str,
        clock: Clock,
        region: str,
        known: Known,
        rng: random.Random,
    ) -> None:
        self._kind = kind
        self._name = name
        self._known = known
        self._rng = rng
        attributes = {"region": region} if region else {}
        peer = Peer("client", name)
        self._station = Station(
            bus, "default", peer, incarnation, clock, heartbeat_s=HEARTBEAT_S, attributes=attributes
        )
        self._subjects = self._station.subjects
        self._store = ModelStore(bus, self._subjects, Inline())
        self._tasks: dict[str, Task] = {}
        self._jobs: dict[str, _Job] = {}

    async def run(self) -> None:
        """Misbehave until cancelled."""
        me = self._station.peer
        tasks = await self._station.listen(self._subjects.task(me.name))
        down = await self._station.listen(self._subjects.down(me))
        async with together() as group:
            group.create_task(self._station.present())
            group.create_task(self._hear_tasks(tasks))
            group.create_task(self._hear_states(down))
            group.create_task(self._station.read_board(self._subjects.task(me.name), self._take_task, BOARD_S))
            group.create_task(self._misbehave())

    async def _hear_tasks(self, tasks: Subscription) -> None:
        async for message in tasks:
            self._take_task(message)

    def _take_task(self, message: Message) -> None:
        heard = self._station.read(message)
        if heard is not None and isinstance(heard.envelope.body, Task):
            task = heard.envelope.body
            known = self._tasks.get(task.session)
            if known is None or task.revision >= known.revision:
                self._tasks[task.session] = task

    async def _hear_states(self, down: Subscription) -> None:
        async for heard in self._station.hear(down):
            state = heard.envelope.body
            job = self._jobs.get(state.session) if isinstance(state, UploadState) else None
            if not isinstance(state, UploadState) or job is None:
                continue
            combiner = self._subjects.tokens(heard.message.subject, "down", 3)[2]
            for part in job.parts:
                of_part = (part.begin.round, part.begin.attempt, part.combiner)
                if (state.round, state.attempt, combiner) == of_part and not _is_settled(part):
                    part.state = state

    async def _misbehave(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_S * self._rng.uniform(0.5, 1.5))
            for session, task in sorted(self._tasks.items()):
                if task.state == "train" and task.train is not None:
                    with suppress(FedbusError):  # the model is not here yet, or not any more
                        await self._work(session, task.train)
                elif task.state == "evaluate" and task.evaluate is not None:
                    failed = reports.TaskFailed(
                        session=session, round=task.evaluate.round, attempt=0, stage="evaluate", reason="no"
                    )
                    await self._station.say(self._subjects.report(self._station.peer), failed)

    async def _work(self, session: str, train: Train) -> None:
        job = self._jobs.get(session)
        if job is None or (job.train.round, job.train.attempt) != (train.round, train.attempt):
            job = self._jobs[session] = _Job(train, await self._parts(session, train))
        for part in job.parts:
            if not _is_settled(part):
                await self._push(part)

    async def _parts(self, session: str, train: Train) -> list[_Part]:
        stored = await self._store.read(train.blob)
        arrays, weight = update_of(session, stored.arrays, self._name, train.round)
        manifest = Manifest.of(arrays, stored.manifest.chunk_bytes)
        source = Source(manifest.layout, arrays)
        self._known.setdefault((session, train.round, self._name), []).append(arrays)
        combiners = train.shards or (train.combiner,)
        digests = digest_of(arrays, stored.manifest.chunk_bytes, len(combiners)).split("+")
        parts = []
        for index, combiner in enumerate(combiners):
            data = [bytes(source.chunk(i)) for i in part_of(manifest.layout.count, index, len(combiners))]
            begin = UploadBegin(
                session=session,
                round=train.round,
                attempt=train.attempt,
                spec=manifest.spec.digest,
                digest=digests[index],
                nbytes=sum(map(len, data)),
                chunks=len(data),
                weight=weight,
            )
            parts.append(_Part(self._lie(begin) if self._kind == "lying" else begin, combiner, data))
        return parts

    def _lie(self, begin: UploadBegin) -> UploadBegin:
        lies: list[dict[str, object]] = [
            {"weight": float("nan")},
            {"weight": -begin.weight},
            {"weight": 2.0**60},
            {"spec": "0" * 64},
            {"digest": "0" * 64},
            {"nbytes": begin.nbytes + 1},
            {"chunks": begin.chunks + 1},
            {"inline": b"\1" * (begin.nbytes % INLINE_BYTES_MAX), "digest": "0" * 64},
        ]
        return begin.model_copy(update=self._rng.choice(lies))

    async def _push(self, part: _Part) -> None:
        """Announce, and send as our kind does."""
        begin, state, part.said = part.begin, part.state, part.said + 1
        if self._kind == "two-faced":
            begin = begin.model_copy(update={"weight": float(self._rng.randint(1, 9))})
        if state is None or part.said % 3 == 0:
            await self._station.say(self._subjects.up(part.combiner, self._station.peer), begin)
        if state is None:
            return
        for chunk in self._chosen(state, len(part.data)):
            await self._send(part, chunk)
        if self._kind == "shuffled":
            await self._stray(part)
        if self._kind == "quitting" and self._rng.random() < 0.3:
            await self._station.leave()
            self._station.incarnation = f"{self._station.incarnation[:40]}-{self._rng.randrange(10**6)}"

    def _chosen(self, state: UploadState, count: int) -> list[int]:
        """Return which chunks to send, given how the combiner says that the upload stands."""
        asked = range(state.next_chunk, min(state.credit, count))
        match self._kind:
            case "mute":
                return []
            case "greedy":
                return list(range(state.next_chunk if self._rng.random() < 0.8 else 0, count))
            case "shuffled":
                chosen = [*asked, *asked]
                self._rng.shuffle(chosen)
                return [*chosen, *asked] if self._rng.random() < 0.5 else chosen
            case "dribbling" | "quitting":
                return list(asked[:1])
            case _:
                return list(asked)

    async def _send(self, part: _Part, chunk: int) -> None:
        await self._send_as(part, part.begin.round, part.begin.attempt, chunk, part.data[chunk])

    async def _send_as(self, part: _Part, round_: int, attempt: int, chunk: int, data: bytes, digest: int = -1) -> None:
        digest = chunk_digest(data) if digest < 0 else digest
        address = ChunkAddress(self._station.peer, part.begin.session, round_, attempt, chunk, digest)
        await self._station.send(self._subjects.chunk(part.combiner, address), data)

    async def _stray(self, part: _Part) -> None:
        """Send what nobody asked for: of another round, attempt or place, or damaged."""
        begin, data = part.begin, part.data[0] if part.data else b"\0" * 16
        await self._send_as(part, begin.round + 1, begin.attempt, 0, data)
        await self._send_as(part, max(0, begin.round - 1), begin.attempt, 0, data)
        await self._send_as(part, begin.round, begin.attempt + 1, 0, data)
        await self._send_as(part, begin.round, begin.attempt, begin.chunks, data)
        await self._send_as(part, begin.round, begin.attempt, 10**15, data)
        if self._rng.random() < 0.2:
            await self._send_as(part, begin.round, begin.attempt, self._rng.randrange(10), data[::-1], 7)


def _is_settled(part: _Part) -> bool:
    return part.state is not None and part.state.verdict != "pending"
