"""The operator's side on one machine: brokers, coordinators, combiners, gateways, kept alive until somebody stops them.

Each role is a process of its own by default, so that one may be killed and comes back; they leave before the broker
does, so that they can say `Bye`. The ready file appears when the coordinator answers and knows every combiner, and the
gateways take requests; it is written anew whenever a pid changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from fedbus.bus.base import Placement
from fedbus.bus.embedded import BrokerSettings, EmbeddedBroker
from fedbus.bus.nats.connection import without_secrets
from fedbus.cli.gateways import Gateways
from fedbus.cli.processes import Process
from fedbus.cli.roles import Place, combine, coordinate, serve
from fedbus.cli.supervisor import Supervisor
from fedbus.coordinator.rounds import Sampling
from fedbus.errors import BrokerFailed, BusUnavailable, ConfigError, FedbusError
from fedbus.federation.service import Federation, connect
from fedbus.gateway.listening import Listening
from fedbus.together import together

log = logging.getLogger("fedbus.cli")

READY_S_MAX = 60.0
"""From the broker's start to everybody's presence: two seconds on a machine that is not busy."""

LOOK_S = 0.1
STARTS_MAX = 3
"""A role that ends so often before all is ready will not live."""


class _Broker:
    """The embedded broker as something to keep alive; its port and store stay over its lives."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    async def start(self) -> _Broker:
        await self._broker.start()
        return self

    @property
    def pid(self) -> int:
        return self._broker.pid

    async def wait(self) -> str:
        while self._broker.running:  # noqa: ASYNC110 - as in the broker: no event tells of its end
            await asyncio.sleep(LOOK_S)
        return "see broker.log in its store"

    async def stop(self) -> None:
        await self._broker.stop()


class Up:
    """One operator's side.

    ``place.url`` empty: with an embedded broker on ``port``, or a cluster of ``brokers`` of them on that and the next
    ports (``port`` 0: on free ones), which then keep every stream each, unless ``replicas`` says otherwise. So many
    ``gateways`` listen on ``http_port`` and the next ones, otherwise as ``listening`` says; they copy versions to the
    store of ``place``. ``sampling``: which rounds are traced.
    """

    def __init__(
        self,
        place: Place,
        data_dir: Path,
        *,
        combiners: int,
        coordinators: int = 1,
        port: int = 0,
        brokers: int = 1,
        replicas: int = 0,
        placement: Placement | None = None,
        gateways: int = 0,
        http_port: int = 0,
        listening: Listening | None = None,
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
        self._coordinators = ["coordinator", *(f"coordinator-{index}" for index in range(2, coordinators + 1))]
        self._combiners = [f"combiner-{index + 1}" for index in range(combiners)]
        self._gateways = Gateways(data_dir, count=gateways, port=http_port, like=listening)
        self._port = port
        self._brokers = brokers
        self._replicas = replicas or (brokers if brokers > 1 and not place.url else 0)
        self._placement = placement
        self._sampling = sampling or Sampling()
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
            async with self._broker(), together() as group:
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
    async def _broker(self) -> AsyncIterator[None]:
        if self.place.url:
            yield
            return
        brokers = embedded(self._data_dir, self._brokers, self._port)
        keeping: list[asyncio.Task[None]] = []
        try:
            # here, for the first start may fail for good: the port in use, no binary
            await asyncio.gather(*(broker.start() for broker in brokers.values()))
            await next(iter(brokers.values())).wait_for_streams()
            urls = ",".join(broker.url for broker in brokers.values())
            self.place = replace(self.place, url=urls)
            for name, broker in brokers.items():
                keeping.append(asyncio.create_task(self.supervisor.keep(name, _Broker(broker).start)))
            yield
        finally:
            for task in keeping:
                task.cancel()
            if keeping:
                await asyncio.wait(keeping)
            await asyncio.gather(*(broker.stop() for broker in brokers.values()))

    def _processes(self) -> Iterator[Coroutine[Any, Any, None]]:
        # by the environment: an address may hold a password, and everybody on the machine sees a command line
        env = {"FEDBUS_URL": self.place.url, "FEDBUS_WORKSPACE": self.place.workspace}
        if self.place.credentials:
            env["FEDBUS_CREDENTIALS"] = self.place.credentials
        if self.place.store:
            env["FEDBUS_STORE"] = self.place.store
        common = self._common()
        starts = {
            name: ["coordinator", "--name", name, *self._keeping(), *self._tracing(), *common[name]]
            for name in self._coordinators
        }
        for name in self._combiners:
            starts[name] = ["combiner", "--name", name, "--data-dir", str(self._data_dir.resolve()), *common[name]]
        for name, arguments in starts.items():
            yield self.supervisor.keep(name, partial(Process.start, arguments, env=env))
        for name in self._gateways.names:
            yield self.supervisor.keep(name, partial(self._start_gateway, name, common[name], env))

    async def _start_gateway(self, name: str, common: list[str], env: dict[str, str]) -> Process:
        return await Process.start([*self._gateways.arguments(name), *common], env=env)

    @property
    def _names(self) -> list[str]:
        return [*self._coordinators, *self._combiners, *self._gateways.names]

    def _common(self) -> dict[str, list[str]]:
        """Return the options of every role by which it tells about itself."""
        observing = self.place.observing or replace(self.place.observed, log_level=self._log_level)
        return {name: observing.of(name, index).arguments() for index, name in enumerate(self._names)}

    def _place_of(self, name: str) -> Place:
        """Return where a role in this process belongs: what it tells goes to files and a port of its own."""
        return replace(self.place, observing=self.place.observed.of(name, self._names.index(name)))

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
            yield serve(self._place_of(name), name, self._gateways.begin(name), self._gateways.file(name))

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
        part.touch(mode=0o600 if "@" in self.place.url else 0o666)
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
        if self._gateways.url:
            print(f"page:  {self._gateways.url}")
        print("next:  fedbus client run MODULE:APP --name site-1   (Ctrl-C here stops everything)", flush=True)


def embedded(data_dir: Path, count: int, port: int) -> dict[str, EmbeddedBroker]:
    """Return one embedded broker, or the nodes of a cluster of them, by name; none is started.

    A cluster does not find the streams that a single broker has kept, nor the other way round: `ConfigError`.
    """
    if count == 1:
        _check_kept(data_dir / "broker-1", "--brokers 3 (or 5)")
        return {"broker": EmbeddedBroker(data_dir / "broker", port=port)}
    _check_kept(data_dir / "broker", "--brokers 1")
    if count % 2 == 0:
        raise ConfigError(f"--brokers {count}: 1, 3 or 5, for more than half must live")
    routes = [f"127.0.0.1:{free}" for free in _free_ports(count)]
    return {
        name: EmbeddedBroker(
            data_dir / name,
            port=port and port + index,
            settings=BrokerSettings(
                name=name, cluster_name="fedbus", cluster_listen=routes[index], routes=tuple(routes)
            ),
        )
        for index, name in enumerate(f"broker-{index + 1}" for index in range(count))
    }


def _check_kept(store: Path, option: str) -> None:
    if (store / "jetstream").exists():
        raise ConfigError(
            f"{store} holds the streams of an earlier run with {option}: do so again, or take another dir"
        )


def _free_ports(count: int) -> list[int]:
    # nodes have to know each other's ports before they start; between here and there somebody else could take one,
    # in which case the start fails and says so
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]
