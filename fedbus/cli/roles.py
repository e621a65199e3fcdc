"""Roles put together from argv and environment: a connection, threads, traces, a place on disk."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

import fedbus
from fedbus import telemetry
from fedbus.access import known
from fedbus.access.authority import Authority
from fedbus.access.renewal import renewing
from fedbus.access.signing import credentials_at, signing_of
from fedbus.bus.base import Bus, Placement
from fedbus.bus.nats import connect
from fedbus.cli.crashing import crashing
from fedbus.cli.environment import environ
from fedbus.cli.observing import Observing, default
from fedbus.cli.output import size
from fedbus.clock import SystemClock
from fedbus.combiner.service import Combiner
from fedbus.coordinator.rounds import Sampling
from fedbus.coordinator.service import Coordinator
from fedbus.errors import ConfigError
from fedbus.messages.ids import check_name
from fedbus.store.spools import Spools
from fedbus.telemetry import Tracing, metrics
from fedbus.workers import Threads

if TYPE_CHECKING:
    from fedbus.client.cards import OnCard
    from fedbus.gateway.listening import Listening
    from fedbus.gateway.oidc import OidcSettings

log = logging.getLogger("fedbus.cli")

FOLD_THREADS = max(1, min(4, os.cpu_count() or 1))
"""Threads of a combiner: a session folds in one, so more pay only where several sessions run at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a role belongs: broker, workspace, the credentials' file, and the URL of the store behind the bus.

    ``observing``: what it tells about itself there. ``keys``: of a gateway, the directory of the workspace's authority.
    """

    url: str
    workspace: str = "default"
    credentials: str | None = None
    store: str | None = None
    observing: Observing | None = None
    keys: Path | None = None

    @property
    def observed(self) -> Observing:
        """What a role there tells about itself; the default where nobody has said."""
        return self.observing or default()


async def coordinate(
    place: Place,
    name: str,
    *,
    replicas: int = 0,
    placement: Placement | None = None,
    sampling: Sampling | None = None,
) -> None:
    """Run a coordinator until cancelled; ``replicas`` and ``placement`` are of the workspace's streams."""
    check_name("coordinator name", name)
    place = await _joined(place, "coordinator", name)
    workers = Threads(2, name)
    async with _traced("coordinator", name, place) as tracing:
        try:
            async with (
                _connected(place, name) as bus,
                await connect(place.url, name=f"{name}-ears", credentials=place.credentials) as ears,
            ):
                log.info("coordinating workspace %s", place.workspace)
                signing = await asyncio.to_thread(signing_of, place.credentials, SystemClock())
                await Coordinator(
                    bus,
                    name=name,
                    incarnation=secrets.token_hex(8),
                    workspace=place.workspace,
                    clock=SystemClock(),
                    workers=workers,
                    replicas=replicas,
                    placement=placement,
                    sampling=sampling,
                    signing=signing,
                    traces=tracing.telemetry,
                    crash=crashing(environ().get("FEDBUS_CRASH", "")),
                    ears=ears,
                ).run()
        finally:
            workers.close()


async def combine(
    place: Place,
    name: str,
    data_dir: Path | None = None,
    attributes: Mapping[str, str] | None = None,
    *,
    memory_bytes_max: int = 0,
    spool_bytes_max: int = 0,
) -> None:
    """Run a combiner until cancelled; what it spools stands under ``data_dir``, or in a temporary place.

    What a killed process of the same name and directory had accepted is gone on with. ``memory_bytes_max``,
    ``spool_bytes_max`` 0: as much as the machine and the disk give.
    """
    check_name("combiner name", name)
    place = await _joined(place, "combiner", name)
    workers = Threads(FOLD_THREADS, name)
    async with _traced("combiner", name, place) as tracing:
        with ExitStack() as stack:
            stack.callback(workers.close)
            if data_dir is None:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"fedbus-{name}-")))
            else:
                path = data_dir / f"spool-{name}"
            spools = await asyncio.to_thread(Spools, path, spool_bytes_max)
            stack.callback(spools.close)
            _say_what_is_left(spools)
            tracing.telemetry.meters.watch(metrics.SPOOL, lambda: [(spools.nbytes, {})])
            async with _connected(place, name) as bus:
                log.info("combining for workspace %s, spool in %s", place.workspace, path)
                signing = await asyncio.to_thread(signing_of, place.credentials, SystemClock())
                await Combiner(
                    bus,
                    name=name,
                    incarnation=spools.incarnation,
                    life=spools.life,
                    workspace=place.workspace,
                    clock=SystemClock(),
                    workers=workers,
                    make_spool=spools.open,
                    left=spools.sessions,
                    memory_bytes_max=memory_bytes_max,
                    attributes=attributes,
                    signing=signing,
                    traces=tracing.telemetry,
                    crash=crashing(environ().get("FEDBUS_CRASH", "")),
                ).run()


async def serve(
    place: Place,
    name: str,
    listening: Listening,
    ready_file: Path | None = None,
    oidc: Callable[[], OidcSettings | None] = lambda: None,
) -> None:
    """Run a gateway until cancelled; then it drains. ``ready_file``: is there while it takes requests.

    ``oidc``: gives the provider that people may sign in with, where there is one.
    """
    try:
        from fedbus.gateway.service import Gateway  # here: a client's machine need not have aiohttp
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "aiohttp":
            raise
        raise ConfigError("a gateway needs aiohttp, which is not installed: pip install 'fedbus[server]'") from error
    check_name("gateway name", name)
    place = await _joined(place, "gateway", name)
    workers = Threads(4, name)  # reading models, validating, digesting: what would keep the loop from answering others
    async with _traced("gateway", name, place) as tracing:
        with ExitStack() as stack:
            stack.callback(workers.close)
            if ready_file is not None:
                stack.callback(ready_file.unlink, missing_ok=True)
            credentials = await asyncio.to_thread(credentials_at, place.credentials)
            authority = None if place.keys is None else await asyncio.to_thread(Authority.open, place.keys)
            if authority is not None and credentials is None:
                raise ConfigError("a gateway with --keys has credentials of its workspace: --credentials FILE")
            provider = await asyncio.to_thread(oidc)
            if provider is not None and credentials is None:
                raise ConfigError("--oidc-issuer: without credentials nobody is asked to sign in: --credentials FILE")
            push = None
            if authority is not None and credentials is not None:
                push = partial(authority.push, place.workspace, place.url, ca=credentials.trust.ca)
            async with _connected(place, name) as bus, AsyncExitStack() as also:
                ears = None
                if push is not None:
                    ears = await also.enter_async_context(
                        await connect(place.url, name=f"{name}-ears", credentials=place.credentials)
                    )
                await Gateway(
                    bus,
                    name=name,
                    incarnation=secrets.token_hex(8),
                    workspace=place.workspace,
                    clock=SystemClock(),
                    workers=workers,
                    listening=listening,
                    traces=tracing.telemetry,
                    listened=partial(_write_ready, ready_file),
                    scrape=tracing.scrape,
                    store=place.store,
                    credentials=credentials,
                    authority=authority,
                    push=push,
                    signer=(await asyncio.to_thread(signing_of, place.credentials, SystemClock())).signer,
                    oidc=provider,
                    ears=ears,
                ).run()


def _write_ready(file: Path | None, url: str) -> None:
    """Write the ready file whole, under another name first: a reader sees all of it or none."""
    if file is None:
        return
    part = file.with_name(file.name + ".part")
    part.write_bytes(orjson.dumps({"http_url": url, "pid": os.getpid()}) + b"\n")
    part.replace(file)


def _say_what_is_left(spools: Spools) -> None:
    for left in spools.left:
        updates = f"{left.updates} update{'s' if left.updates > 1 else ''}"
        log.info("adopted %s of round %d of %s (%s)", updates, left.round, left.session, size(left.nbytes))
    if spools.anew:
        log.warning("begins with an empty spool, clients send again what they hold: %s", spools.anew)


async def take_part(
    place: Place,
    app: fedbus.ClientApp,
    name: str,
    attributes: Mapping[str, str] | None = None,
    *,
    count: int | None = None,
    first: int = 0,
    state_dir: Path | None = None,
    policy: Path | None = None,
    on_card: OnCard | None = None,
    outgoing_log: Path | None = None,
) -> None:
    """Run a client until cancelled; with ``count`` a crowd of so many, from number ``first`` of a series on.

    ``policy``, ``on_card``, ``outgoing_log``: of the owner of its data (`fedbus.Client`).
    """
    async with _traced("client", name, place) as tracing:
        party = fedbus.Client if count is None else partial(fedbus.Crowd, count=count, first=first)
        client = party(
            place.url,
            app,
            name=name,
            credentials=place.credentials,
            attributes=attributes,
            workspace=place.workspace,
            traces=tracing.telemetry,
            state_dir=state_dir,
            policy=policy,
            on_card=on_card,
            outgoing_log=outgoing_log,
            crash=crashing(environ().get("FEDBUS_CRASH", "")),
        )
        async with client:
            who = name if count is None else f"{name}-{first} .. {name}-{first + count - 1} in one process"
            log.info("%s: connected, workspace %s; waiting for tasks", who, place.workspace)
            await client.run()


async def _joined(place: Place, role: str, name: str) -> Place:
    """Return the place with the credentials that were got on this machine under that name, where no others are said."""
    if place.credentials:
        return place
    found = await asyncio.to_thread(known.find, place.url, place.workspace, role=role, name=name)
    return place if found is None else replace(place, credentials=str(found))


@asynccontextmanager
async def _connected(place: Place, name: str) -> AsyncIterator[Bus]:
    """Connect as a role, whose credentials are renewed before they end."""
    async with (
        await connect(place.url, name=name, credentials=place.credentials) as bus,
        renewing(bus, place.credentials, SystemClock()),
    ):
        yield bus


@asynccontextmanager
async def _traced(role: str, instance: str, place: Place) -> AsyncIterator[Tracing]:
    """Trace and count for a role as is asked for; what waits to be sent is sent at the end."""
    wanted = place.observed.wanted(place.workspace, scrape=role == "gateway")
    tracing = await asyncio.to_thread(telemetry.setup, role, instance, environ(), wanted)
    try:
        yield tracing
    finally:
        await asyncio.to_thread(tracing.shutdown)
