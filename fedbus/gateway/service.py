"""The gateway as a role: a place on the bus on one side, a web server on the other.

It keeps nothing that another gateway could not tell: what it shows is read from the journal, the board and the roster,
what it is asked to do becomes a command on the bus. So it may be killed at any time, and several may run.

When it is to end, it takes no more connections, tells the streams to end (a reader then goes on at another gateway,
behind the last event that it has), lets running requests finish for a bounded time, and says `Bye`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from aiohttp import web

from fedbus.access.audit import Audit
from fedbus.access.authority import Authority
from fedbus.access.credentials import Credentials
from fedbus.access.envelopes import Signer
from fedbus.access.members import Members
from fedbus.access.registrar import Registrar
from fedbus.access.seals import seal_of
from fedbus.bus.base import Bus
from fedbus.clock import Clock
from fedbus.errors import ConfigError, FedbusError
from fedbus.exchange.spans import carry
from fedbus.exchange.station import Station
from fedbus.federation.service import Federation
from fedbus.gateway.auth import Auth
from fedbus.gateway.catalogue import Catalogue
from fedbus.gateway.deeds import Deeds
from fedbus.gateway.entries import Entries
from fedbus.gateway.feed import Feed
from fedbus.gateway.http import application
from fedbus.gateway.listening import Listening
from fedbus.gateway.numbers import Numbers
from fedbus.gateway.oidc import Oidc, OidcSettings
from fedbus.gateway.openapi import document
from fedbus.gateway.presence import Presence
from fedbus.gateway.projection import Projection
from fedbus.gateway.pulse import pulse
from fedbus.gateway.server import Runner
from fedbus.gateway.signins import SignIns
from fedbus.gateway.spans import TraceBook
from fedbus.gateway.table import OPERATIONS
from fedbus.gateway.tls import certificate_of
from fedbus.messages.ids import Peer
from fedbus.messages.presence import TOLD_MAX, Archiving, NameIsTaken
from fedbus.store.archivist import Archivist
from fedbus.store.objects import Store
from fedbus.telemetry import Telemetry
from fedbus.telemetry.scrape import Scrape
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.gateway")

HEARTBEAT_S = 2.0
"""How often a gateway says that it lives, as coordinators do."""


class Gateway:
    """One gateway.

    ``listened``: called with its URL when it takes requests. ``scrape``: gives its numbers as Prometheus reads them.

    ``credentials``: its own, where the workspace is secured; then whoever asks has to say who she is. ``signer``: with
    which it signs the commands that it hands on.
    ``oidc``: a provider that may say it. ``authority``: the workspace's keys, where this gateway has them: then it lets
    in and shuts out, and tells the broker so by ``push``; ``ears``: a connection by which it hears who asks for that.

    ``federation``: what it knows of the bus, entered while it runs. ``trust``, ``members``: whose signatures count, and
    who is known; None where the gateway is open. ``auth``: who asks, ``sign_ins``: of people. ``deeds``: what comes of
    it, for the ``audit``. ``presence``: who is there, what waits. ``sessions``: what the journals say; ``feed``: events
    to those who read them live. ``draining``: set when it is to end; a stream that sees it ends. ``app``: its web
    application.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        incarnation: str,
        workspace: str,
        clock: Clock,
        workers: Workers,
        listening: Listening | None = None,
        traces: Telemetry | None = None,
        listened: Callable[[str], None] | None = None,
        scrape: Scrape | None = None,
        store: str | Store | None = None,
        credentials: Credentials | None = None,
        oidc: OidcSettings | None = None,
        authority: Authority | None = None,
        push: Callable[[], Awaitable[None]] | None = None,
        signer: Signer | None = None,
        ears: Bus | None = None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.listening = listening or Listening()
        self._certificate = certificate_of(self.listening.tls_certificate, self.listening.tls_key)
        self.traces = traces or Telemetry.off()
        self.federation = Federation(
            bus,
            workspace=workspace,
            name=name,
            clock=clock,
            workers=workers,
            store=store,
            role="gateway",
            seal=seal_of(credentials),
            signer=signer,
        )
        subjects = self.federation.subjects
        self.trust = credentials.trust if credentials is not None else None
        self.members = Members(bus, subjects, clock) if credentials is not None else None
        secret = _secret_of(credentials)
        factor_roles = oidc.factor_roles if oidc is not None else ()
        self.auth = Auth(self.members, clock, workspace, secret, self.listening, factor_roles)
        self.sign_ins = SignIns(self.auth)
        self.oidc = Oidc(oidc, secret, workspace, clock) if oidc is not None and secret else None
        self.audit = Audit(bus, subjects, Peer("gateway", name), clock)
        self.registrar: Registrar | None = None
        if authority is not None and push is not None and self.members is not None:
            writer = Peer("gateway", name)
            self.registrar = Registrar(
                bus, subjects, self.members, authority, self.audit, clock, push=push, writer=writer, ears=ears
            )
        self.deeds = Deeds(self.audit, clock, Peer("gateway", name).author)
        self.archivist: Archivist | None = None
        self._workers = workers
        self.station = Station(bus, workspace, Peer("gateway", name), incarnation, clock, heartbeat_s=HEARTBEAT_S)
        self.station.doing = self._doing
        self.station.archiving = self._archive_state
        self.draining = asyncio.Event()
        self.presence = Presence(self.federation, clock)
        self.feed = Feed(
            lambda: self.federation.journal, lambda session: self.sessions.folded.sequences.get(session, 0)
        )
        self.sessions = Projection(self.federation, self.feed)
        self.entries = Entries(lambda: self.federation.journal, lambda: self.feed.life)
        self.spans = TraceBook(self.federation)
        self.numbers = Numbers(self)
        self.scrape = scrape
        self.catalogue = Catalogue(self.federation, self.sessions.version)
        self._listened = listened
        self._requests = 0
        self.app = application(self, OPERATIONS, self.listening)

    def _parts(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs as long as the gateway does; what one of them raises ends it."""
        live = (self.sessions.run(), self.sessions.watch(), pulse(self), self.spans.run(), self.numbers.run())
        models = (self.catalogue.run(), self.catalogue.watch())
        place = (self.station.present(), self._heed(), carry(self.station, self.traces))
        who = (self.members.follow(),) if self.members is not None else ()
        registers = (self.registrar.run(),) if self.registrar is not None else ()
        return (*models, *place, *who, *registers, self.audit.run(), self.deeds.run(), self.presence.run(), *live)

    async def run(self) -> None:
        """Serve until cancelled; then drain and say `Bye`.

        Raises `ConfigError` where it cannot listen there, `NameTaken` where another gateway lives under its name.
        """
        async with self.federation:
            try:
                async with together() as group:
                    for part in (*self._parts(), *self._archiving()):
                        group.create_task(part)
                    if self._certificate is not None:
                        group.create_task(self._certificate.watch())
                    runner = await self._listen()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await self._drain(runner)
            finally:
                with suppress(FedbusError):
                    await self.deeds.finish()
                with suppress(FedbusError):
                    await self.station.leave()

    def _archiving(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Copy what is published to the store behind the bus, where there is one."""
        federation, archive = self.federation, self.federation.models.archive
        if archive is not None:
            bus, subjects = federation.bus, federation.subjects
            self.archivist = Archivist(
                bus, subjects, archive, workers=self._workers, clock=self.clock, models=federation.store
            )
            yield self.archivist.run()

    async def _listen(self) -> web.AppRunner:
        where, certificate = self.listening, self._certificate
        runner = Runner(self.app, where)
        await runner.setup()
        context = None if certificate is None else certificate.context
        try:
            await web.TCPSite(runner, where.host, where.port, ssl_context=context).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(f"cannot listen on {where.host} port {where.port}: {error.strerror or error}") from error
        url = url_of(where.host, runner.addresses[0][1], secure=certificate is not None)
        log.info("gateway %s of workspace %s: %s", self.name, self.federation.subjects.workspace, url)
        if self._listened is not None:
            self._listened(url)
        return runner

    async def _drain(self, runner: web.AppRunner) -> None:
        """Take nothing new, end streams, let what runs finish within its time, then cut it off."""
        self.draining.set()
        if self._requests:
            log.info("waiting for %d requests, at most %g s", self._requests, self.listening.drain_s)
        await runner.cleanup()

    @cached_property
    def document(self) -> bytes:
        """The document of REST (OpenAPI 3.1), as JSON."""
        return json.dumps(document(OPERATIONS, is_open=self.auth.is_open)).encode()

    def unready(self) -> str:
        """Return why no requests should come here now; empty where they should."""
        if self.draining.is_set():
            return "the gateway is about to end"
        if not self.federation.bus.connected:
            return "the broker is not connected"
        return "" if self.sessions.caught_up else "the journal is still being read"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a request as one that runs."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def _heed(self) -> None:
        """Hear whether another gateway lives under our name: raises `NameTaken`; else runs until cancelled."""
        told = await self.station.listen(self.station.subjects.ack(self.station.peer))
        try:
            async for heard in self.station.hear(told):
                if isinstance(heard.envelope.body, NameIsTaken):
                    self.station.heed(heard.envelope.body)
        finally:
            await told.close()

    def _archive_state(self) -> Archiving | None:
        if self.archivist is None:
            return None
        state = self.archivist.state
        return Archiving(
            store=state.store[:200],
            archived=state.archived,
            waiting=state.waiting,
            waiting_bytes=state.waiting_bytes,
            since_at=state.since_at,
            error=state.error[:200],
            error_at=state.error_at,
            refused={version: why[:200] for version, why in list(state.refused.items())[:TOLD_MAX]},
        )

    def _doing(self) -> str:
        return "drains" if self.draining.is_set() else f"serves {self._requests} requests"


def _secret_of(credentials: Credentials | None) -> bytes:
    """Return the secret that gateways alone have, of which cookies are made; `ConfigError` where there is none."""
    if credentials is None:
        return b""
    try:
        secret = bytes.fromhex(credentials.secrets.get("login", ""))
    except ValueError as error:
        raise ConfigError("the credentials are damaged: their `login` is no hexadecimal") from error
    if len(secret) < 32:
        raise ConfigError("credentials of a gateway are needed here: these have no `login` among their secrets")
    return secret


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL under which this machine reaches a gateway that listens there."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = "127.0.0.1"
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
