"""What integration tests share: a real broker, the operator's side of a federation on it, and a collector of traces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import fedbus
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.embedded.child import die_with
from fedbus.bus.nats import connect
from fedbus.clock import SystemClock
from fedbus.combiner.service import Combiner
from fedbus.coordinator.service import Coordinator
from fedbus.gateway.listening import Listening
from fedbus.gateway.service import Gateway
from fedbus.store.spool import Memory
from fedbus.tensors import CHUNK_BYTES
from fedbus.workers import Threads

ROLE = Path(__file__).with_name("role_process.py")
"""One role of the operator's side as a process of its own."""

START_S_MAX = 60.0
"""A process imports for a second of a processor, which on a machine that does ten other things are twenty seconds."""

PATIENCE_S = 60.0
"""For what comes by itself, and is waited for by looking: nothing is timed, so only what never comes takes as long."""


class Collector:
    """A collector of OTLP/HTTP that decodes what it is sent; with ``silent`` it takes everything and never answers."""

    def __init__(self, *, silent=False):
        self.requests = []
        self._release = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append((self.path, self.headers["Content-Type"], body))
                if silent:
                    collector._release.wait(20)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self):
        """Return (resource attributes, span) of every span that came."""
        found = []
        for path, _, body in self.requests:
            if path.endswith("/v1/metrics"):
                continue
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [(about, span) for span in scope.spans]
        return found

    def metrics(self):
        """Return (resource attributes, metric) of every metric that came."""
        found = []
        for path, _, body in self.requests:
            if not path.endswith("/v1/metrics"):
                continue
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_metrics:
                    found += [(about, metric) for metric in scope.metrics]
        return found

    def decoded(self):
        """Return {span name: (resource attributes, span)}; of several spans of one name the last."""
        return {span.name: (about, span) for about, span in self.spans()}


@pytest.fixture(scope="module")
def make_collector():
    """Start collectors, ``make_collector(silent=False)``; all are stopped after the last test that may want them."""
    with contextlib.ExitStack() as stack:
        yield lambda **how: stack.enter_context(Collector(**how))


@pytest.fixture
def collector(make_collector):
    """A collector that answers."""
    return make_collector()


@pytest.fixture
async def broker(tmp_path):
    """A real broker with a store of its own."""
    async with EmbeddedBroker(tmp_path / "store") as running:
        yield running


class House:
    """Roles in this process, each with a connection of its own, as they would have in processes of their own.

    Closing it raises what any of them died of; `check` does so at once.
    """

    def __init__(self, url):
        self.url = url
        self.clients = {}
        self.gateways = {}
        self._roles = {}
        self._stack = contextlib.AsyncExitStack()

    async def coordinator(self, name="coordinator", **how):
        """Start a coordinator."""
        bus, common = await self._role(name)
        self._roles[name] = asyncio.create_task(Coordinator(bus, **common, **how).run(), name=name)

    async def combiner(self, name="combiner", make_spool=lambda session: Memory(), **how):
        """Start a combiner."""
        bus, common = await self._role(name)
        self._roles[name] = asyncio.create_task(Combiner(bus, make_spool=make_spool, **common, **how).run(), name=name)

    async def gateway(self, name="gateway", store=None, **listening):
        """Start a gateway on a free port, settings as in `Listening`, perhaps with a store; returns its URL."""
        bus, common = await self._role(name)
        url = asyncio.get_running_loop().create_future()
        where = Listening(**{"port": 0, "rate_per_s": 0.0} | listening)
        self.gateways[name] = gateway = Gateway(bus, **common, listening=where, listened=url.set_result, store=store)
        self._roles[name] = asyncio.create_task(gateway.run(), name=name)
        await asyncio.wait({self._roles[name], url}, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        return await url

    async def _role(self, name):
        workers = Threads(2, name)
        self._stack.callback(workers.close)
        bus = await self._stack.enter_async_context(await connect(self.url, name=name))
        clock = SystemClock()
        common = {"name": name, "incarnation": secrets.token_hex(8), "workspace": "default"}
        return bus, common | {"clock": clock, "workers": workers}

    async def client(self, name, app, url=None, **how):
        """Start a client, perhaps by another way to the broker; returns it."""
        client = await self._stack.enter_async_context(fedbus.Client(url or self.url, app, name=name, **how))
        self._roles[name] = asyncio.create_task(client.run(), name=name)
        self.clients[name] = client
        return client

    async def crowd(self, name, app, count, **how):
        """Start a crowd; returns it."""
        crowd = await self._stack.enter_async_context(fedbus.Crowd(self.url, app, name=name, count=count, **how))
        self._roles[name] = asyncio.create_task(crowd.run(), name=name)
        return crowd

    async def dismiss(self, name):
        """Stop a client and close its connection."""
        await self.stop(name)
        await self.clients.pop(name).__aexit__(None, None, None)

    async def operate(self, combiners=1, **how):
        """Start a coordinator and some combiners, and wait until they take commands."""
        await self.coordinator(**how)
        for number in range(1, combiners + 1):
            await self.combiner(f"combiner-{number}", **how)
        await self.present(combiners, "combiners")

    async def present(self, count, what="clients", within_s=PATIENCE_S):
        """Wait until so many clients (or combiners) are there."""
        async with fedbus.connect(self.url) as federation:
            await eventually(lambda: self._are_there(federation, count, what), within_s)

    async def _are_there(self, federation, count, what):
        self.check()
        with contextlib.suppress(fedbus.FedbusError):  # no coordinator answers yet
            return len(await getattr(federation, what)()) >= count
        return False

    async def run(self, model, within_s=PATIENCE_S, name=None, chunk_bytes=CHUNK_BYTES, **config):
        """Run a session to its end; returns (result, the records of its journal, its last model)."""
        async with fedbus.connect(self.url) as federation, asyncio.timeout(within_s):
            settings = fedbus.SessionConfig(**config)
            session = await federation.start_session(settings, model=model, name=name, chunk_bytes=chunk_bytes)
            result = await session.wait()
            facts = [event.data async for event in session.events()]
            arrays = await federation.models.get(result.model_version)
        self.check()
        return result, facts, {key: array.copy() for key, array in arrays.items()}

    def check(self):
        """Raise what a role has died of."""
        for role in self._roles.values():
            if role.done() and not role.cancelled() and role.exception() is not None:
                raise AssertionError(f"{role.get_name()} has died") from role.exception()

    async def stop(self, name):
        """Stop a role; raises what it died of."""
        role = self._roles.pop(name)
        role.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await role

    async def aclose(self):
        """Stop all, clients first; raises what any of them died of."""
        try:
            self.check()
        finally:
            for role in self._roles.values():
                role.cancel()
            await asyncio.gather(*self._roles.values(), return_exceptions=True)
            await self._stack.aclose()


async def eventually(condition, within_s=PATIENCE_S, every_s=0.02):
    """Wait until a condition (a function, or one that gives an awaitable) is true; returns its value."""
    end = time.monotonic() + within_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"not within {within_s:g} s: {condition}"
        await asyncio.sleep(every_s)


@pytest.fixture(name="eventually", scope="session")
def fixture_eventually():
    """``await eventually(condition)``: wait until it is true."""
    return eventually


@pytest.fixture(scope="session")
def make_house():
    """``contextlib.aclosing(make_house(url))``: a house on a broker; nobody lives there yet."""
    return House


@pytest.fixture
async def house(broker):
    """A house on the broker; nobody lives there yet."""
    async with contextlib.aclosing(House(broker.url)) as house:
        yield house


def shifting_app(shift, weight=1.0, *, pause_s=0.0, started=None):
    """An app whose update is the model plus a shift: the next model can be told by hand, bit for bit."""
    app = fedbus.ClientApp()

    @app.train
    async def train(model, task):
        if started is not None:
            started.set()
        if pause_s:
            await asyncio.sleep(pause_s)
        arrays = {name: (array + array.dtype.type(shift)) for name, array in model.items()}
        return fedbus.Update(arrays, weight=weight, metrics={"shift": shift})

    @app.evaluate
    def evaluate(model, task):
        first = next(iter(model.values()))
        return fedbus.Evaluation(weight=weight, metrics={"first": float(first.flat[0])})

    return app


@pytest.fixture(scope="session")
def make_app():
    """``make_app(shift, weight)``: an app whose update is the model plus ``shift``."""
    return shifting_app


@pytest.fixture
def zeros():
    """A small model of zeros: sums of small multiples of 2^-k stay exact in it, so results are compared bit for bit."""
    return {"w": np.zeros((5, 7), np.float32), "b": np.zeros(3, np.float64)}


class Processes:
    """The operator's side as processes; they die with the test's."""

    def __init__(self, url, directory):
        self.url = url
        self.directory = directory
        self.running = {}
        self.spare = {}

    async def start(self, role, name, region=""):
        """Start a role, and wait until it listens."""
        self.running[name] = self.spare.pop(name, None) or await self._spawn(role, name, region)
        self.running[name].stdin.write(b"go\n")
        await self._hears(name, self.running[name], b"ready\n")

    async def prepare(self, role, name, region=""):
        """Have a process ready for the next `start`: on a busy machine what it imports may take seconds."""
        self.spare[name] = await self._spawn(role, name, region)
        await self._hears(name, self.spare[name], b"imported\n")

    async def _spawn(self, role, name, region):
        command = [sys.executable, str(ROLE), role, name, self.url, str(self.directory / name), region]
        with (self.directory / f"{name}.log").open("ab") as log:
            pipe = asyncio.subprocess.PIPE
            return await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=log, preexec_fn=die_with(os.getpid())
            )

    async def _hears(self, name, process, what):
        async with asyncio.timeout(START_S_MAX):
            while (line := await process.stdout.readline()) != what:
                assert line == b"imported\n", (self.directory / f"{name}.log").read_text()

    def signal(self, name, number):
        """Send a role a signal."""
        self.running[name].send_signal(number)

    async def kill(self, name):
        """Kill a role as with -9."""
        process = self.running.pop(name)
        process.kill()
        await process.wait()

    async def end(self):
        """Kill all; those that died by themselves are a defect."""
        died = {name: process.returncode for name, process in self.running.items() if process.returncode is not None}
        for name in [*self.running]:
            with contextlib.suppress(ProcessLookupError):
                await self.kill(name)
        for process in self.spare.values():
            process.kill()
            await process.wait()
        assert not died, "\n".join((self.directory / f"{name}.log").read_text()[-3000:] for name in died)


@pytest.fixture(scope="session")
def make_processes():
    """``make_processes(url, directory)``: the operator's side as processes; nobody runs yet."""
    return Processes


@pytest.fixture
def hear(broker):
    """Enter ``hear(subject, count)`` and go on when so many messages of it (behind ``fb.default.``) were seen."""

    @contextlib.asynccontextmanager
    async def heard(subject, count):
        async with await connect(broker.url, name="ear") as bus:
            messages = await bus.subscribe(f"fb.default.{subject}")
            seen = 0
            async for _ in messages:
                seen += 1
                if seen == count:
                    break
            yield

    return heard
