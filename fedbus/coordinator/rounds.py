"""The trace of each round: one span from its opening to its end, whose context is journalled and travels in posts.

Whether a round is traced is decided here, once, and carried in the *sampled* flag; everybody follows. Rounds that come
faster than `Sampling` allows are not, and of a round of thousands only some clients' tasks say that it is.

One entry of the journal may end a round and open the next: the next one's span begins before the entry is written, as
its context stands in it, and takes its place when the entry is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from zlib import crc32

from fedbus import telemetry
from fedbus.coordinator.machine import Machine
from fedbus.messages import records
from fedbus.messages.records import Record
from fedbus.telemetry import Span, Telemetry


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much is traced.

    ``rounds_per_s``: rounds of all sessions together, and twice as many at once; nobody looks at more, and a federation
    of tiny rounds would spend its time on pictures. ``clients_max``: about so many clients of a round have spans, drawn
    anew for each: ten thousand would be thirty thousand bars.
    """

    rounds_per_s: float = 10.0
    clients_max: int = 200


class _Bucket:
    """Lets through so many a second, and twice as many at once."""

    def __init__(self, per_s: float, now: Callable[[], float]) -> None:
        self._per_s = per_s
        self._now = now
        self._left = self._most = max(1.0, 2 * per_s)
        self._at = now()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = self._now()
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._per_s <= 0 or self._left < 1:
            return False
        self._left -= 1
        return True


class RoundTraces:
    """The spans of the rounds under way; ``now``: seconds of a clock that never goes back."""

    def __init__(
        self,
        traces: Telemetry,
        workspace: str,
        sampling: Sampling | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._traces = traces
        self._sampling = sampling or Sampling()
        self._bucket = _Bucket(self._sampling.rounds_per_s, now)
        self._shares: dict[str, float] = {}
        self._recorded: dict[str, int] = {}
        self._workspace = workspace
        self._spans: dict[str, Span] = {}
        self._next: dict[str, list[Span]] = {}
        self._parents: dict[str, str] = {}

    def headers(self, session: str, client: str = "") -> Mapping[str, str] | None:
        """Return what posts of a session carry; to a ``client`` that is not among those traced, that it is not."""
        parent = self._parents.get(session)
        if not parent:
            return None
        share = self._shares.get(session, 1.0)
        if client and share < 1.0 and crc32(f"{parent}{client}".encode()) >= share * 2**32:
            return telemetry.unsampled({"traceparent": parent})
        return {"traceparent": parent}

    def found(self, session: str, record: Record) -> None:
        """Take note of a record that stood in the journal: whoever goes on with a round stays in its trace."""
        if isinstance(record, records.RoundOpened):
            self._parents[session] = record.traceparent
        if isinstance(record, records.RoundOpened | records.EvaluationOpened):
            self._shares[session] = self._sampling.clients_max / max(len(record.clients), 1)

    def begun(self, machine: Machine, decided: Iterable[Record]) -> tuple[Record, ...]:
        """Begin the span of each round that is to be opened; returns the records with their contexts.

        One entry may open several: with too few clients for its strategy a round fails as soon as it is open.
        """
        decided = tuple(decided)
        if any(isinstance(record, records.RoundOpened) for record in decided):
            self.given_up(machine.session)
        return tuple(self._with_context(machine, record) for record in decided)

    def _with_context(self, machine: Machine, record: Record) -> Record:
        if not isinstance(record, records.RoundOpened):
            return record
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.WORKSPACE: self._workspace,
            telemetry.SESSION: machine.session,
            telemetry.ROUND: record.round,
            telemetry.ATTEMPT: record.attempt,
            telemetry.MODEL_VERSION: record.version,
            telemetry.STRATEGY: machine.state.config.strategy,
            telemetry.CODEC: machine.state.config.codec,
            telemetry.UPDATES_TARGET: record.target,
        }
        sampled = self._traces.enabled and self._bucket.take()
        span = self._traces.start_span("round", attributes=attributes, sampled=sampled)
        self._next.setdefault(machine.session, []).append(span)
        parent = span.headers.get("traceparent", "")
        return record.model_copy(update={"traceparent": parent}) if parent else record

    def given_up(self, session: str) -> None:
        """End the spans of rounds that were not journalled."""
        for span in self._next.pop(session, ()):
            span.end()

    def changed_to_next(self, session: str, decided: Iterable[Record]) -> None:
        """From here on posts belong to the round that was opened, if one was."""
        for record in decided:
            self.found(session, record)

    def journalled(self, machine: Machine, decided: tuple[Record, ...]) -> None:
        """Note on the spans what became true."""
        evaluated = any(isinstance(record, records.EvaluationOpened) for record in decided)
        for record in decided:
            self._note(machine, record, evaluated=evaluated)

    def _note(self, machine: Machine, record: Record, *, evaluated: bool) -> None:
        session = machine.session
        if isinstance(record, records.RoundOpened):
            self._end(session)
            self._spans[session] = self._next[session].pop(0)
            self._recorded[session] = 0
        span = self._spans.get(session)
        if span is None:
            return
        match record:
            case records.RoundClosed():
                span.set(telemetry.UPDATES, record.counted)
                span.set(telemetry.BYTES, record.bytes_up + record.bytes_down)
                if not evaluated:
                    self._end(session)
            case records.RoundFailed():
                span.fail(record.reason)
                self._end(session)
            case records.RoundEvaluated():
                self._end(session)
            case _ if telemetry.is_unsampled(span.headers) or not self._traces.enabled:
                pass
            case records.UpdatesRecorded() if not self._is_told(session):
                pass
            case _:
                span.event(record.kind, _attributes(machine, record))

    def _is_told(self, session: str) -> bool:
        """Whether one more entry about updates is told of: the 1st, 2nd, 4th, 8th of a round.

        To say what is waited for looks at every client of it, and of ten thousand there are hundreds of entries.
        """
        count = self._recorded[session] = self._recorded.get(session, 0) + 1
        return count & (count - 1) == 0

    def _end(self, session: str) -> None:
        span = self._spans.pop(session, None)
        if span is not None:
            span.end()

    def forget(self, session: str) -> None:
        """End what there is of a session."""
        self.given_up(session)
        self._end(session)
        self._parents.pop(session, None)
        self._shares.pop(session, None)
        self._recorded.pop(session, None)

    def stand_by(self) -> None:
        """End every span: somebody else goes on with the rounds, in their traces."""
        for session in [*self._spans, *self._next]:
            self.given_up(session)
            self._end(session)

    def close(self) -> None:
        """End every span."""
        for session in [*self._spans, *self._next]:
            self.forget(session)


def _attributes(machine: Machine, record: Record) -> dict[str, telemetry.AttributeValue]:
    """Say why something became true, and what is waited for from then on."""
    found: dict[str, telemetry.AttributeValue] = {}
    reason = getattr(record, "reason", "")
    if reason:
        found[telemetry.REASON] = reason
    for wait in machine.waits():
        found[telemetry.WAIT] = wait.what
    return found
