"""What a gateway counts: its requests, and the workspace as it is known here.

Whoever collects looks at what was looked at last, which is kept fresh while somebody counts: the reading itself is in a
thread of the collector's, and asks nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web

from fedbus import telemetry
from fedbus.exchange.numbers import watch_bus
from fedbus.gateway.presence import Known
from fedbus.messages.queries import kind_of
from fedbus.telemetry import metrics
from fedbus.telemetry.meters import Readings

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

LOOK_S = 10.0
"""How often it is looked who is there: collectors ask every ten seconds or less often."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Numbers:
    """The numbers of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._meters = gateway.traces.meters
        self._kinds: set[str] = set()
        self._statuses: dict[str, int] = {}

    async def run(self) -> None:
        """Keep what is read fresh, where anybody counts; until cancelled."""
        if not self._meters.enabled:
            return
        self._watch()
        while True:
            await self._gateway.presence.look()
            counts = self._gateway.sessions.statuses(self._gateway.federation.now())
            self._statuses = {str(status): count for status, count in counts.items()}
            await asyncio.sleep(LOOK_S)

    def _watch(self) -> None:
        meters, gateway = self._meters, self._gateway
        watch_bus(meters, gateway.federation.bus)
        meters.watch(metrics.PEERS, self._peers)
        meters.watch(metrics.WAITS, self._waits)
        meters.watch(metrics.WAIT_AGE, self._ages)
        meters.watch(
            metrics.SESSIONS, lambda: [(count, {telemetry.STATUS: name}) for name, count in self._statuses.items()]
        )
        meters.watch(metrics.MESSAGES_DROPPED, self._dropped)
        meters.watch(metrics.READERS, lambda: [(gateway.feed.readers, {})])
        meters.watch(metrics.STREAM_USAGE, self._usage)
        meters.watch(metrics.STREAM_LIMIT, self._limits)

    def _dropped(self) -> Readings:
        registrar = self._gateway.registrar
        dropped = registrar.dropped if registrar is not None else {}
        return [(count, {telemetry.QUEUE: what}) for what, count in dropped.items()]

    @property
    def _known(self) -> Known:
        return self._gateway.presence.known

    def _peers(self) -> Readings:
        known = self._known
        there = {
            "client": known.clients,
            "combiner": known.combiners,
            "coordinator": known.coordinators,
            "gateway": known.gateways,
        }
        return [(len(peers), {telemetry.ROLE: role}) for role, peers in there.items()]

    def _waits(self) -> Readings:
        found = Counter(kind_of(wait) for wait in self._known.waits)
        self._kinds |= found.keys()
        return [(found[kind], {telemetry.WAIT: kind}) for kind in sorted(self._kinds)]

    def _ages(self) -> Readings:
        now, found = self._gateway.federation.now(), dict.fromkeys(self._kinds, 0.0)
        for wait in self._known.waits:
            kind = kind_of(wait)
            found[kind] = max(found.get(kind, 0.0), now - wait.since_at)
        return [(age, {telemetry.WAIT: kind}) for kind, age in found.items()]

    def _usage(self) -> Readings:
        return [(usage.nbytes, {telemetry.STREAM: self._short(name)}) for name, usage in self._known.streams.items()]

    def _limits(self) -> Readings:
        streams = self._known.streams.items()
        return [(one.bytes_max, {telemetry.STREAM: self._short(name)}) for name, one in streams if one.bytes_max > 0]

    def _short(self, stream: str) -> str:
        return stream.removeprefix(self._gateway.federation.subjects.stream(""))

    def request(self, request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        """Count a request that was answered; a stream of events is none that ends."""
        if not self._meters.enabled or response.content_type == "text/event-stream":
            return
        resource = request.match_info.route.resource
        about: dict[str, telemetry.AttributeValue] = {
            telemetry.HTTP_METHOD: request.method if request.method in METHODS else "_OTHER",
            telemetry.HTTP_ROUTE: resource.canonical if resource is not None else "",
        }
        self._meters.record(metrics.REQUEST_DURATION, seconds, about)
        self._meters.add(metrics.REQUESTS, 1, {**about, telemetry.HTTP_STATUS: response.status})
