"""Sends held updates: to one combiner whole, or to each of several its part of the chunks, all at once.

An update is settled when every combiner has accepted its part, or one has refused: what the others have of it then
counts for nothing. What combiners say comes in by `Sending.hear`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fedbus import telemetry
from fedbus.bus.base import Payload
from fedbus.client.events import Foreign, Settled
from fedbus.client.held import Held, Part
from fedbus.crash import Crash
from fedbus.errors import BusClosed, FedbusError
from fedbus.exchange.station import Station
from fedbus.exchange.upload.service import Outcome, Parcel, Upload
from fedbus.messages.ids import Peer
from fedbus.messages.plans import Encoding
from fedbus.messages.tasks import Train
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.telemetry import Kind, Telemetry
from fedbus.tensors import Manifest
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.client")

PATIENCE_S = 1.0
"""Between looks for a model that cannot be had: the broker is away, or what it lost is being restored."""

REFUSALS_SHOWN = 100
"""Refusals logged one by one; of more, each hundredth: thousands of clients may be refused alike."""


@dataclass(slots=True, eq=False)
class Sending:
    """An update on its way; ``train`` says where to; ``since``: by the time of the loop."""

    client: str
    session: str
    held: Held
    train: Train
    headers: Mapping[str, str]
    uploads: list[Upload] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    since: float = 0.0

    @property
    def stale(self) -> int:
        """For how many rounds ago the update was made."""
        return self.train.round - self.held.round

    @property
    def weight(self) -> float:
        """With which weight it is to count."""
        return self.held.weight * self.train.stale_weight**self.stale

    def hear(self, combiner: str, state: UploadState) -> None:
        """Take what a combiner says."""
        for upload in self.uploads:
            if upload.combiner == combiner:
                upload.hear(state)


class _RefusedError(Exception):
    """One of several combiners has refused."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class Courier:
    """Sends for all clients of a process; ``tell`` is called on the loop with what became of an update.

    ``leaving`` is awaited before anything of one is sent, and says which metrics go with it; None: all.
    """

    def __init__(
        self,
        station: Station,
        workers: Workers,
        traces: Telemetry,
        crash: Crash,
        tell: Callable[[Sending, Settled | Foreign], None],
        manifest: Callable[[str], Awaitable[Manifest]],
        leaving: Callable[[Sending], Awaitable[Mapping[str, float]]] | None = None,
    ) -> None:
        self._station = station
        self._workers = workers
        self._traces = traces
        self._crash = crash
        self._tell = tell
        self._manifest = manifest
        self._leaving = leaving
        self._under_way: dict[str, set[Sending]] = {}
        self._refusals = 0

    def under_way(self, session: str) -> int:
        """Return how many updates of a session are being sent."""
        return len(self._under_way.get(session, ()))

    def start(self, group: asyncio.TaskGroup, sending: Sending) -> None:
        """Begin to send."""
        sending.since = asyncio.get_running_loop().time()
        self._under_way.setdefault(sending.session, set()).add(sending)
        sending.task = group.create_task(self._run(sending))
        sending.task.add_done_callback(lambda _: self._over(sending))  # also of one that is cancelled before it ran

    def _over(self, sending: Sending) -> None:
        others = self._under_way.get(sending.session, set())
        others.discard(sending)
        if not others:
            self._under_way.pop(sending.session, None)

    @staticmethod
    async def stop(sending: Sending | None) -> None:
        """Give up sending, and wait until nothing more is said."""
        task = sending.task if sending is not None else None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, sending: Sending) -> None:
        train = sending.train
        foreign = _other_encoding(sending.held.encoding, train.encoding)
        if sending.held.adopted and not foreign:
            foreign = await self._why_foreign(sending)
        if foreign:
            self._over(sending)
            self._tell(sending, Foreign(sending.held.round, foreign))
            return
        sending.held.adopted = False
        with self._traces.span(
            "upload", parent=sending.headers, attributes=self._attributes(sending), kind=Kind.PRODUCER
        ) as span:
            outcome = await self._send(sending, span.headers or sending.headers)
            span.set(telemetry.RETRANSMITTED, outcome.resent)
            span.set(telemetry.VERDICT, "accepted" if outcome.accepted else "refused")
            if not outcome.accepted:
                span.fail(outcome.reason)
                self._log_refusal(sending, outcome.reason)
        self._over(sending)  # before it is told: who hears of it begins at once what there is room for now
        self._tell(sending, Settled(train.round, train.attempt, outcome.accepted, outcome.reason))

    async def _why_foreign(self, sending: Sending) -> str:
        """Return why what a former process made is not of this session, which may only have the name of its session.

        For the round that it was made for the model must be the same; of a later round's we can tell the form.
        """
        held, train = sending.held, sending.train
        while True:
            try:
                model = await self._manifest(train.blob)
            except BusClosed:
                raise
            except FedbusError as error:  # nobody can close a round whose model is not there
                log.debug("%s: %s: not sent yet: %s", sending.client, sending.session, error)
                await asyncio.sleep(PATIENCE_S)
                continue
            if (model.spec, model.chunk_bytes) != (held.layout.spec, held.layout.chunk_bytes):
                return "it was made in a former process, of a model of another form"
            if held.round == train.round and model.digest != held.base:
                return "it was made in a former process, of another model"
            return ""

    async def _send(self, sending: Sending, headers: Mapping[str, str]) -> Outcome:
        held = sending.held
        combiners = sending.train.shards or (sending.train.combiner,)
        if len(held.parts) != len(combiners):  # it was made for another number of them
            held.parts = await self._workers.run(held.shared_out, len(combiners))
        metrics = held.metrics if self._leaving is None else await self._leaving(sending)
        station = self.speaking_as(sending.client)
        parcels = [_parcel(sending, part, metrics, first=index == 0) for index, part in enumerate(held.parts)]
        sending.uploads = [
            Upload(station, combiner, parcel, headers, self._crash, self._workers)
            for combiner, parcel in zip(combiners, parcels, strict=True)
        ]
        return await (sending.uploads[0].run() if len(combiners) == 1 else _all(sending.uploads))

    def speaking_as(self, client: str) -> Station:
        """Return the station that says things in a client's name."""
        peer = Peer("client", client)
        return self._station if self._station.peer == peer else self._station.speaking_as(peer)

    def _attributes(self, sending: Sending) -> dict[str, telemetry.AttributeValue] | None:
        if not self._traces.enabled:
            return None
        train, held, client = sending.train, sending.held, sending.client
        subject = self._station.subjects.up(train.combiner, Peer("client", client))
        return {
            telemetry.SESSION: sending.session,
            telemetry.ROUND: train.round,
            telemetry.ATTEMPT: train.attempt,
            telemetry.CLIENT: client,
            telemetry.COMBINER: train.combiner,
            telemetry.WEIGHT: sending.weight,
            telemetry.BYTES: held.cut.nbytes,
            telemetry.CHUNKS: held.cut.count,
            **telemetry.messaging("upload", "send", subject, client, held.cut.count),
        }

    def _log_refusal(self, sending: Sending, reason: str) -> None:
        self._refusals += 1
        if self._refusals <= REFUSALS_SHOWN or self._refusals % REFUSALS_SHOWN == 0:
            log.warning(
                "%s: %s: the update of round %d was refused: %s",
                sending.client,
                sending.session,
                sending.train.round,
                reason,
            )


def _other_encoding(made: Encoding, wanted: Encoding) -> str:
    """Return why an update in one form cannot be sent as one in another; packed or not is all the same."""
    if (made.form, made.codec, made.options) == (wanted.form, wanted.codec, wanted.options):
        return ""
    return f"it was made as {_said(made)}, and the session wants {_said(wanted)}"


def _said(encoding: Encoding) -> str:
    options = f" {encoding.options}" if encoding.options else ""
    return f"{encoding.form} encoded by {encoding.codec}{options}"


async def _all(uploads: list[Upload]) -> Outcome:
    """Send to several combiners at once; the first refusal ends it."""
    outcomes: list[Outcome] = []

    async def send(upload: Upload) -> None:
        outcome = await upload.run()
        outcomes.append(outcome)
        if not outcome.accepted:
            raise _RefusedError(outcome)

    try:
        async with together() as group:
            for upload in uploads:
                group.create_task(send(upload))
    except _RefusedError as refused:
        return Outcome(False, refused.outcome.reason, sum(outcome.resent for outcome in outcomes))
    return Outcome(True, "", sum(outcome.resent for outcome in outcomes))


def _parcel(sending: Sending, part: Part, metrics: Mapping[str, float], *, first: bool) -> Parcel:
    """Announce and cut a part as an update of its own; what was downloaded is said once."""
    held, train = sending.held, sending.train
    begin = UploadBegin(
        session=sending.session,
        round=train.round,
        attempt=train.attempt,
        spec=held.layout.spec.digest,
        digest=part.digest,
        nbytes=held.nbytes(part),
        chunks=part.stop - part.first,
        weight=sending.weight,
        metrics=dict(metrics),
        fetched=held.fetched if first else 0,
        update=held.identity if train.shards else "",
        stale=sending.stale,
        packed=train.encoding.packed,
        spent=held.spent,
    )

    def chunk(index: int) -> Payload:
        return held.chunk(part.first + index)

    return Parcel(begin, chunk, held.chunk_digests[part.first : part.stop])
