"""`EmbeddedBroker`: the life of a nats-server that belongs to us.

    stopped --start--> running --stop / kill--> stopped        (store, port and settings stay for the next start)

One broker per store: nats-server does not look whether another uses its directory, and two would destroy it. The lock
is a file lock on a descriptor that the broker itself inherits, so it is held exactly as long as that process lives.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fedbus.bus.embedded.binary import find_binary
from fedbus.bus.embedded.child import Child, start_child
from fedbus.bus.embedded.conf import settings_text
from fedbus.bus.embedded.settings import BrokerSecurity, BrokerSettings, join_address, split_address
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.identity import Identity, identify_by
from fedbus.bus.nats.jetstream import JetStream
from fedbus.bus.nats.requests import Requests
from fedbus.errors import BrokerFailed, BrokerMissing, BusError, BusUnavailable, ConfigError

READY_S_MAX = 30.0
"""From start to the first answer of JetStream: 0.1 s for an empty store; a large one is read again after a crash."""

STOP_S_MAX = 10.0
"""From SIGTERM to the end: nats-server writes its indices; then it is killed, which costs the next start time only."""

LOCK_S_MAX = 5.0
"""For a broker of the same store that is just ending, as its parent was killed a moment ago."""

LOOK_S = 0.02
"""Between looks at a process, a file, a lock."""

LOG_TAIL_BYTES = 2000


class EmbeddedBroker:
    """A nats-server with JetStream, a store of its own, bound to loopback unless told otherwise.

    Entering the context starts it, leaving stops it. Raises `BrokerMissing` (no binary, or too old), `BrokerFailed`
    (with the end of its log; the store in use by another) and `ConfigError` (the port in use).
    """

    def __init__(
        self,
        store_dir: str | Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: BrokerSettings | None = None,
        security: BrokerSecurity | Callable[[], BrokerSecurity] | None = None,
        by_watcher: bool | None = None,
    ) -> None:
        """``port`` 0 takes a free one, and keeps it over restarts. ``by_watcher``: see `child.start_child`.

        ``security``: who is let in; None: everybody who reaches it. A function is asked at each start.
        """
        self._store = Path(store_dir).resolve()
        self._host = host
        self._port = port
        self._settings = settings or BrokerSettings()
        self._security = security
        self._probes: tuple[Identity | None, ...] = (None,)
        self._by_watcher = by_watcher
        self._child: Child | None = None

    # ---- what is known of it

    @property
    def url(self) -> str:
        """Where clients on this machine connect."""
        return f"{'nats' if self._settings.tls is None else 'tls'}://{join_address(_here(self._host), self.port)}"

    @property
    def wss_url(self) -> str:
        """Where clients on this machine connect over a websocket; '' where there is none."""
        listen = self._settings.websocket_listen
        if not listen:
            return ""
        host, port = split_address(listen, free=True)
        if not port:
            raise BrokerFailed("the embedded broker's websocket has no port before its first start")
        return f"{'ws' if self._settings.websocket_plain else 'wss'}://{join_address(_here(host), port)}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        if not self._port:
            raise BrokerFailed("the embedded broker has no port before its first start")
        return self._port

    @property
    def pid(self) -> int:
        """Its process."""
        if self._child is None:
            raise BrokerFailed("the embedded broker is not running")
        return self._child.process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._child is not None and self._child.process.poll() is None

    def log_tail(self) -> str:
        """Return the end of what it wrote: its log, and what it said before it had one."""
        texts = []
        for name in ("broker.log", "broker.out"):
            with suppress(OSError), (self._store / name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                texts.append(file.read().decode(errors="replace").strip())
        return "\n".join(text for text in texts if text) or "(it wrote no log)"

    # ---- its life

    async def start(self) -> None:
        """Start it and wait until it serves; nothing happens when it runs already.

        One that is alone serves when JetStream answers. A node of a cluster and a leaf need others for that: they serve
        when they take connections, and `wait_for_streams` waits for the rest.
        """
        if self.running:
            return
        self._release()
        binary = await asyncio.to_thread(find_binary)
        self._make_store()
        lock = await self._lock()
        try:
            self._put_last_run_aside()
            self._check_ports()
            security = self._security() if callable(self._security) else self._security
            self._probes = (None,) if security is None else tuple(Identity(*probe) for probe in security.probes)
            self._write_settings(settings_text(self._settings, self._store, self._host, self._port, security))
            output = self._store / "broker.out"
            self._child = start_child(self._command(binary), output, lock, by_watcher=self._by_watcher)
        finally:
            os.close(lock)  # the broker has its own copy now
        try:
            await self._ready()
        except BaseException:
            await self.stop()
            raise

    def _write_settings(self, text: str) -> None:
        path = self._store / "broker.conf"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def _command(self, binary: Path) -> list[str]:
        # env(1) adds to the environment without anybody here reading it
        env = shutil.which("env")
        if env is None:
            raise BrokerMissing("no `env` on the PATH, which every POSIX system has: look at the PATH")
        settings = self._settings
        limits = [f"GOMEMLIMIT={settings.go_memory_bytes}", f"GOGC={settings.go_gc_percent}"]
        return [env, *limits, str(binary), "--config", str(self._store / "broker.conf")]

    def _make_store(self) -> None:
        try:
            self._store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"store {self._store} cannot be made: {error.strerror}") from error

    def _put_last_run_aside(self) -> None:
        for stale in self._store.glob("*.ports"):
            stale.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # `log_tail` is to tell of this run
            (self._store / "broker.log").replace(self._store / "broker.log.last")

    async def _lock(self) -> int:
        path = self._store / "broker.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        loop = asyncio.get_running_loop()
        end = loop.time() + LOCK_S_MAX
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if loop.time() >= end:
                    os.close(lock)
                    other = self._pid_on_file()
                    text = f"store {self._store} is in use by another broker{other}"
                    raise BrokerFailed(f"{text}: stop that one, or take another directory") from error
                await asyncio.sleep(LOOK_S)
            else:
                return lock

    def _pid_on_file(self) -> str:
        with suppress(OSError):
            return f" (process {(self._store / 'broker.pid').read_text().strip()})"
        return ""

    def _check_ports(self) -> None:
        _check_port(self._host, self._port)
        if self._settings.websocket_listen:
            _check_port(*split_address(self._settings.websocket_listen, free=True))

    async def _ready(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_S_MAX
        reason = "it wrote no ports file"
        while loop.time() < end:
            if not self.running:
                raise BrokerFailed(f"the embedded broker ended at its start; the end of its log:\n{self.log_tail()}")
            if self._read_port():
                try:
                    await self._ask(end - loop.time(), streams=self._alone)
                except BusError as error:
                    reason = str(error)
                else:
                    return
            await asyncio.sleep(LOOK_S)
        text = f"the embedded broker was not ready in {READY_S_MAX:g} s ({reason})"
        raise BrokerFailed(f"{text}; the end of its log:\n{self.log_tail()}")

    def _read_port(self) -> bool:
        for path in self._store.glob(f"*_{self.pid}.ports"):
            with suppress(ValueError, KeyError, IndexError, OSError):  # not written to the end yet
                told = json.loads(path.read_text())
                self._port = _port_of(told["nats"][0])
                if self._settings.websocket_listen:
                    host, _ = split_address(self._settings.websocket_listen, free=True)
                    listen = join_address(host, _port_of(told["websocket"][0]))
                    self._settings = replace(self._settings, websocket_listen=listen)
                return True
        return False

    async def wait_for_streams(self, deadline_s: float = READY_S_MAX) -> None:
        """Wait until JetStream answers here: in a cluster when most of its nodes are there, at a leaf when a hub is."""
        await self._ask(deadline_s, streams=True)

    @property
    def _alone(self) -> bool:
        return not self._settings.routes and self._settings.keeps_streams

    async def _ask(self, deadline_s: float, *, streams: bool) -> None:
        tls = self._settings.tls
        if tls is not None and tls.clients_ca is not None:
            self._look_into_log()
            return
        context = None if tls is None else await asyncio.to_thread(_only, tls.certificate)
        # in each workspace, one after the other: a server takes an account in when somebody comes to it, and of several
        # that come at once to a new one it may destroy what they begin with
        for probe in self._probes:
            await self._ask_as(probe, context, deadline_s, streams=streams)

    async def _ask_as(
        self, probe: Identity | None, tls: ssl.SSLContext | None, deadline_s: float, *, streams: bool
    ) -> None:
        connection = Connection(self.url, "fedbus-readiness")
        try:
            await connection.open(
                identify=identify_by(probe),
                tls=tls,
                inbox_prefix="_INBOX",
                deadline_s=min(5.0, deadline_s),
            )
            if streams:
                requests = Requests(connection)
                await requests.open()
                jetstream = JetStream(connection, requests)
                await jetstream.api("INFO", None, deadline_s=deadline_s, what="is JetStream ready?")
        except BusUnavailable as error:
            if connection.distrust:  # it will not become better by waiting
                raise BrokerFailed(
                    f"the embedded broker is up, but nobody would connect: {connection.distrust}"
                ) from error
            raise
        finally:
            await connection.close()

    def _look_into_log(self) -> None:
        """Raise `BusUnavailable` unless it says there that it is ready: it would ask us for a certificate of ours."""
        with suppress(OSError):
            if "Server is ready" in (self._store / "broker.log").read_text(errors="replace"):
                return
        raise BusUnavailable("its log does not say yet that it is ready")

    async def stop(self) -> None:
        """Let it write its indices and end; after `STOP_S_MAX` it is killed. Idempotent."""
        await self._end(signal.SIGTERM, STOP_S_MAX)

    async def kill(self) -> None:
        """Kill it as with -9, for tests; `start` brings it back on the same port."""
        await self._end(signal.SIGKILL, STOP_S_MAX)

    def reload(self) -> None:
        """Have it read its certificates anew; what is connected stays, and whoever was shut out stays out."""
        if self._child is not None and self.running:
            self._child.process.send_signal(signal.SIGHUP)

    async def restart(self) -> None:
        """Stop and start on the same port and store."""
        await self.stop()
        await self.start()

    async def _end(self, number: signal.Signals, deadline_s: float) -> None:
        if self._child is None:
            return
        process = self._child.process
        self._child.dismiss_watcher()
        if process.poll() is None:
            process.send_signal(number)
            try:
                await self._gone(deadline_s)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        self._release()

    async def _gone(self, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while self.running and loop.time() < end:  # noqa: ASYNC110 - no event tells of its end on every loop and system
            await asyncio.sleep(LOOK_S)

    def _release(self) -> None:
        if self._child is not None:
            self._child.dismiss_watcher()
            self._child.process.wait()
            self._child = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _check_port(host: str, port: int) -> None:
    if not port:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # as nats-server does: the remains of closed connections are no obstacle
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            text = f"port {port} on {host} cannot be had ({error.strerror})"
            raise ConfigError(f"{text}: stop what uses it, or choose another port (0 takes a free one)") from error


def _here(host: str) -> str:
    """Return how this machine reaches what listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - to connect, not to bind


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def _only(certificate: Path) -> ssl.SSLContext:
    """Return a context that trusts this very certificate, under whatever name: the one that our own process shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"certificate {certificate} of the broker cannot be read ({error}): expected PEM") from error
    return context
