"""The operator's side on one machine: brokers, coordinators, combiners, gateways, kept alive until somebody stops them.

Each role is a process of its own by default, so that one may be killed and comes back; they leave before the broker
does, so that they can say `Bye`. The ready file appears when the coordinator answers and knows every combiner, and the
gateways take requests; it is written anew whenever a pid changes.

Unless it is to be open, the broker knows whom the keys of the data directory have signed, and nobody else; each process
has credentials of its own (`fedbus.cli.identities`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fedbus.bus.base import Placement
from fedbus.bus.nats.connection import without_secrets
from fedbus.cli.embedding import KeptBroker, embedded
from fedbus.cli.encrypting import Encryption, renewing
from fedbus.cli.gateways import Gateways
from fedbus.cli.identities import Identities, forget
from fedbus.cli.processes import Process
from fedbus.cli.proxying import NONE
from fedbus.cli.roles import Place, combine, coordinate, serve
from fedbus.cli.supervisor import Supervisor
from fedbus.coordinator.rounds import Sampling
from fedbus.errors import BrokerFailed, BusUnavailable, ConfigError, FedbusError
from fedbus.federation.service import Federation, connect
from fedbus.gateway.listening import Listening
from fedbus.messages.ids import Peer
from fedbus.together import together

if TYPE_CHECKING:
    from fedbus.gateway.oidc import OidcSettings

log = logging.getLogger("fedbus.cli")

READY_S_MAX = 60.0
"""From the broker's start to everybody's presence: two seconds on a machine that is not busy."""

LOOK_S = 0.1
STARTS_MAX = 3
"""A role that ends so often before all is ready will not live."""


class Up:
    """One operator's side.

    ``place.url`` empty: with an embedded broker on ``port``, or a cluster of ``brokers`` of them on that and the next
    ports (``port`` 0: on free ones), which then keep every stream each, unless ``replicas`` says otherwise. So many
    ``gateways`` listen on ``http_port`` and the next ones, otherwise as ``listening`` says; they copy versions to the
    store of ``place``. ``oidc``: the provider of those in this process; others read the environment themselves.
    ``sampling``: which rounds are traced. ``keys``: the directory of the authority that says who may take part, made
    where there is none; None: everybody who reaches the broker may do everything. ``encryption``: with which
    certificates it is reached from other machines; None: in the clear, and from this one alone.
    """

    def __init__(
        self,
        place: Place,
        data_dir: Path,
        *,
        keys: Path | None = None,
        encryption: Encryption | None = None,
        combiners: int,
        coordinators: int = 1,
        port: int = 0,
        brokers: int = 1,
        replicas: int = 0,
        placement: Placement | None = None,
        gateways: int = 0,
        http_port: int = 0,
        listening: Listening | None = None,
        oidc: Callable[[], OidcSettings | None] = lambda: None,
        sampling: Sampling | None = None,
        ready_file: Path | None = None,
        log_level: str = "info",
        quiet: bool = False,
    ) -> None:
        if not place.url and replicas > brokers:
            raise ConfigError(f"--replicas {replicas} needs --brokers {replicas}, or --nats with a cluster's addresses")
        self.place = place
        self.supervisor = Supervisor(self._write_ready)
        self._data_dir = data_dir
        self._keys = keys
        self._identities: Identities | None = None
        self._issued: Mapping[Peer, Path] = {}
        self._coordinators = ["coordinator", *(f"coordinator-{index}" for index in range(2, coordinators + 1))]
        self._combiners = [f"combiner-{index + 1}" for index in range(combiners)]
        self._encryption = encryption
        if encryption is not None:
            listening = encryption.gateway(listening or Listening())
        self._gateways = Gateways(data_dir, count=gateways, port=http_port, like=listening)
        self._oidc = oidc
        self._embedded = not place.url
        self._port = port
        self._ports: list[int] = []
        self._brokers = brokers
        self._replicas = replicas or (brokers if brokers > 1 and not place.url else 0)
        self._placement = placement
        self._sampling = sampling or Sampling()
        self.page = ""
        """Where a person opens the page; signs her in, once and soon, where it is secured."""
        self._ready_file = ready_file
        self._log_level = log_level
        self._quiet = quiet
        self._ready = False

    @property
    def http_url(self) -> str | None:
        """Where the first gateway answers; None where there is none."""
        return self._gateways.url

    async def run(self, *, processes: bool = True) -> None:
        """Run until cancelled."""
        async with self.running(processes=processes):
            if not self._quiet:
                self._announce()
            await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self, *, processes: bool = True) -> AsyncIterator[None]:
        """Everything is there and ready inside the block, and gone after it."""
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)  # one of an earlier run would lie
        try:
            async with self._broker(), self._known(), together() as group:
                keeping = [group.create_task(work) for work in (self._processes() if processes else self._in_process())]
                await self._until_ready()
                self._ready = True
                self._write_ready()
                yield
                for task in keeping:
                    task.cancel()
        finally:
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)

    @asynccontextmanager
    async def _known(self) -> AsyncIterator[None]:
        """Everybody has credentials inside the block, and this user's commands find theirs by the broker's address."""
        url, identities = self.place.url, self._identities
        if identities is None:
            if self._embedded:
                await forget(url)  # of a secured one that listened there before
            yield
            return
        told, ca = self._reached()
        self._issued = await identities.issue(told or url, self._peers.values(), ca)
        self.place = replace(self.place, credentials=str(self._issued[Peer("admin", identities.admin)]))
        await identities.remember(",".join(filter(None, (url, told))), self._issued)
        try:
            yield
        finally:
            if self._embedded:
                await forget(url, identities.authority.directory)

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[None]:
        if self._keys is not None:
            self._identities = await Identities.made(self._keys, self.place.workspace)
        if self.place.url:
            if self._identities is not None:
                await self._identities.authority.push(self.place.workspace, self.place.url)
            yield
            return
        security = None if self._identities is None else self._identities.security
        brokers = embedded(self._data_dir, self._brokers, self._port, security, self._encryption)
        keeping: list[asyncio.Task[None]] = []
        try:
            # here, for the first start may fail for good: the port in use, no binary
            await asyncio.gather(*(broker.start() for broker in brokers.values()))
            await next(iter(brokers.values())).wait_for_streams()
            self._ports = [broker.port for broker in brokers.values()]
            urls = ",".join(broker.url for broker in brokers.values())
            if self._encryption is not None:
                urls = self._encryption.url(self._ports)
            self.place = replace(self.place, url=urls)
            for name, broker in brokers.items():
                keeping.append(asyncio.create_task(self.supervisor.keep(name, KeptBroker(broker).start)))
            if self._encryption is not None:
                keeping.append(asyncio.create_task(renewing(self._encryption, brokers.values())))
            yield
        finally:
            for task in keeping:
                task.cancel()
            if keeping:
                await asyncio.wait(keeping)
            await asyncio.gather(*(broker.stop() for broker in brokers.values()))

    def _reached(self) -> tuple[str, str]:
        """Return where others reach the broker, and who signed its certificate; both '' where it is not encrypted."""
        if self._encryption is None:
            return "", ""
        return ",".join(self._encryption.told(self._ports)), self._encryption.ca

    def _processes(self) -> Iterator[Coroutine[Any, Any, None]]:
        # by the environment: an address may hold a password, and everybody on the machine sees a command line
        common = self._common()
        starts = {
            name: ["coordinator", "--name", name, *self._keeping(), *self._tracing(), *common[name]]
            for name in self._coordinators
        }
        for name in self._combiners:
            starts[name] = ["combiner", "--name", name, "--data-dir", str(self._data_dir.resolve()), *common[name]]
        for name, arguments in starts.items():
            yield self.supervisor.keep(name, partial(Process.start, arguments, env=self._environment(name)))
        for name in self._gateways.names:
            yield self.supervisor.keep(name, partial(self._start_gateway, name, common[name]))

    async def _start_gateway(self, name: str, common: list[str]) -> Process:
        return await Process.start([*self._gateways.arguments(name), *common], env=self._environment(name))

    def _environment(self, name: str) -> dict[str, str]:
        place = self._place_of(name)
        told = {
            "FEDBUS_URL": place.url,
            "FEDBUS_WORKSPACE": place.workspace,
            "FEDBUS_CREDENTIALS": place.credentials,
            "FEDBUS_STORE": place.store,
            "FEDBUS_KEYS": None if place.keys is None else str(place.keys),
            "FEDBUS_PROXY": NONE,  # the address says all of the way already
        }
        return {variable: value for variable, value in told.items() if value}

    @property
    def _peers(self) -> dict[str, Peer]:
        """Who it starts, by name."""
        roles = {"coordinator": self._coordinators, "combiner": self._combiners, "gateway": self._gateways.names}
        return {name: Peer(role, name) for role, names in roles.items() for name in names}

    @property
    def _names(self) -> list[str]:
        return [*self._peers]

    def _common(self) -> dict[str, list[str]]:
        """Return the options of every role by which it tells about itself."""
        observing = self.place.observing or replace(self.place.observed, log_level=self._log_level)
        return {name: observing.of(name, index).arguments() for index, name in enumerate(self._names)}

    def _place_of(self, name: str) -> Place:
        """Return where a role belongs: its own credentials; what it tells goes to files and a port of its own.

        Gateways have the keys, too: they sign in who joins, and make the broker know who was shut out.
        """
        peer = self._peers[name]
        observing = self.place.observed.of(name, self._names.index(name))
        if self._identities is None:
            return replace(self.place, observing=observing)
        keys = self._identities.authority.directory if peer.role == "gateway" else None
        return replace(self.place, credentials=str(self._issued[peer]), keys=keys, observing=observing)

    def _keeping(self) -> list[str]:
        options = ["--replicas", str(self._replicas)]
        if self._placement is not None:
            options += ["--placement-cluster", self._placement.cluster]
            options += ["--placement-tags", ",".join(self._placement.tags)]
        return options

    def _tracing(self) -> list[str]:
        sampling = self._sampling
        return ["--trace-rounds", str(sampling.rounds_per_s), "--trace-clients", str(sampling.clients_max)]

    def _in_process(self) -> Iterator[Coroutine[Any, Any, None]]:
        for name in self._names:
            self.supervisor.pids[name] = os.getpid()
        for name in self._coordinators:
            place, sampling = self._place_of(name), self._sampling
            yield coordinate(place, name, replicas=self._replicas, placement=self._placement, sampling=sampling)
        for name in self._combiners:
            yield combine(self._place_of(name), name, self._data_dir)
        for name in self._gateways.names:
            listening, file = self._gateways.begin(name), self._gateways.file(name)
            yield serve(self._place_of(name), name, listening, file, self._oidc)

    async def _until_ready(self) -> None:
        """Wait until the coordinator answers and knows every combiner, and every gateway takes requests."""
        missing = "the coordinator does not answer"
        try:
            async with (
                asyncio.timeout(READY_S_MAX),
                connect(
                    self.place.url, credentials=self.place.credentials, workspace=self.place.workspace
                ) as federation,
            ):
                while missing := await self._missing(federation):
                    self._check_starts()
                    await asyncio.sleep(LOOK_S)
                if self._identities is not None:
                    await self._identities.enlist(federation.bus, self._issued)
                    if self._gateways.url:
                        self.page = await self._identities.link(federation.bus, self._gateways.url)
        except TimeoutError as error:
            raise BrokerFailed(f"not ready within {READY_S_MAX:g} s: {missing}; see the lines above") from error

    async def _missing(self, federation: Federation) -> str:
        try:
            there = {seen.name for seen in await federation.combiners()}
        except BusUnavailable:
            return "the coordinator does not answer"
        away = [name for name in self._combiners if name not in there]
        if away:
            return f"the coordinator does not know {', '.join(away)}"
        silent = self._gateways.missing()
        return f"{', '.join(silent)} takes no requests" if silent else ""

    def _check_starts(self) -> None:
        for name, starts in self.supervisor.starts.items():
            if starts >= STARTS_MAX:
                raise FedbusError(f"{name} does not live ({self.supervisor.ends.get(name)}): see its lines above")

    def _write_ready(self) -> None:
        """Write the ready file whole, under another name first: a reader sees all of it or none."""
        if self._ready_file is None or not self._ready:
            return
        told = {
            "nats_url": self.place.url,
            "http_url": self._gateways.url,
            "pids": self.supervisor.pids,
            "credentials": self.place.credentials,
        }
        part = self._ready_file.with_name(self._ready_file.name + ".part")
        # an address may hold a password: such a file is for its owner alone
        part.touch(mode=0o600 if "@" in self.place.url or "proxy=" in self.place.url else 0o666)
        part.write_bytes(orjson.dumps(told) + b"\n")
        part.replace(self._ready_file)

    def _announce(self) -> None:
        count, others = len(self._combiners), len(self._coordinators) - 1
        leading = f"{1 + others} coordinators" if others else "coordinator"
        kept = f", {self._replicas} replicas" if self._replicas else ""
        print(
            f"ready at {without_secrets(self.place.url)}: {leading}, {count} combiner{'s' if count > 1 else ''}{kept}; "
            f"data in {self._data_dir}"
        )
        if self._keys is None and self._embedded:
            print("open:  nobody is asked who he is; whoever reaches the broker may do everything")
        if told := self._reached()[0]:
            print(f"reach: {told}   (from other machines: fedbus token create, then fedbus join there)")
        if self._encryption is not None and self._encryption.own is not None:
            at, (certificate, key) = without_secrets(self.place.url), self._encryption.own
            print(f"certs: export FEDBUS_URL={at} FEDBUS_TLS_CERT={certificate} FEDBUS_TLS_KEY={key}   (for commands)")
        if self._gateways.url:
            print(f"page:  {self.page or self._gateways.url}{'   (logs you in, once)' if self.page else ''}")
        print("next:  fedbus client run MODULE:APP --name site-1   (Ctrl-C here stops everything)", flush=True)
