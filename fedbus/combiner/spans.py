"""A span for each upload, from its announcement to its verdict, under the sender's own span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbus import telemetry
from fedbus.combiner.events import Begun, ChunkArrived, Event, Key, Ticked
from fedbus.combiner.machine import Machine
from fedbus.exchange.station import Station
from fedbus.telemetry import Kind, Span, Telemetry

LINKS_MAX = 64
"""Uploads to which the span of a merge is linked; more say nothing more, and each costs a hundred bytes."""


@dataclass(slots=True)
class Spans:
    """The spans of one session's uploads; does nothing where nobody traces.

    ``folded``: the headers of those that were accepted in the newest round, for the span of what is made of them.
    """

    traces: Telemetry
    station: Station
    machine: Machine
    folded: dict[Key, Mapping[str, str]] = field(default_factory=dict)
    spans: dict[Key, Span] = field(default_factory=dict)
    begun: dict[Key, Begun] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Begin and end spans, now that the machine has taken an event."""
        if not self.traces.enabled:
            return
        machine = self.machine
        if isinstance(event, Begun):
            self.begun[Key(event.sender, event.begin.round, event.begin.attempt)] = event
        if self.begun and not isinstance(event, ChunkArrived | Ticked):
            # An upload may begin later than it was announced: when the round is prepared, or the order is here.
            for key in [key for key in self.begun if key in machine.uploads and key not in self.spans]:
                self.spans[key] = self._begin(self.begun[key])
            early = {Key(e.sender, e.begin.round, e.begin.attempt) for e in machine.early}
            self.begun = {key: one for key, one in self.begun.items() if key in early}
        for key in [key for key in self.spans if self._is_over(key)]:
            self._end(key)

    def _begin(self, event: Begun) -> Span:
        sender, begin, me = event.sender, event.begin, self.station.peer.name
        partial = sender.role == "combiner"
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: begin.session,
            telemetry.ROUND: begin.round,
            telemetry.ATTEMPT: begin.attempt,
            telemetry.COMBINER if partial else telemetry.CLIENT: sender.name,
            telemetry.BYTES: begin.nbytes,
            telemetry.CHUNKS: begin.chunks,
            **telemetry.messaging("fold", "process", self.station.subjects.up(me, sender), me, begin.chunks),
        }
        name = "fold partial" if partial else "fold update"
        return self.traces.start_span(name, parent=event.headers, attributes=attributes, kind=Kind.CONSUMER)

    def _keep(self, key: Key, headers: Mapping[str, str]) -> None:
        if self.folded and next(iter(self.folded)).round != key.round:
            self.folded.clear()
        if len(self.folded) < LINKS_MAX:
            self.folded[key] = headers

    def _is_over(self, key: Key) -> bool:
        upload = self.machine.uploads.get(key)
        return upload is None or upload.is_settled

    def _end(self, key: Key) -> None:
        span, upload = self.spans.pop(key), self.machine.uploads.get(key)
        if upload is not None:
            span.set(telemetry.VERDICT, upload.standing.value)
            if upload.reason:
                span.fail(upload.reason)
            elif span.headers:
                self._keep(key, span.headers)
        span.end()
