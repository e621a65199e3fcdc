"""Clients behind a firewall that drops all that comes in train: one port leads out, to the broker or to a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from fedbus.bus.embedded.child import die_with

ADDRESS = "198.18.77.1"
PROXY_PORT = 3128
SERVER = Path(__file__).with_name("server.py")
APP = """
import fedbus

app = fedbus.ClientApp()


@app.train
def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    return fedbus.Update({name: array + 1 for name, array in model.items()}, weight=1.0)
"""


@contextlib.asynccontextmanager
async def process(host, log, *command, **how):
    """A process on a host, which ends with the context; its stderr goes into a file."""
    with log.open("wb") as stderr:
        child = await asyncio.create_subprocess_exec(
            *host, *command, stdout=asyncio.subprocess.PIPE, stderr=stderr, preexec_fn=die_with(os.getpid()), **how
        )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            await asyncio.wait_for(child.wait(), 10)
        except TimeoutError:
            child.kill()
            await child.wait()


async def test_a_client_trains_through_nothing_but_443_outbound(hosts, tmp_path):
    """Two rounds over wss with credentials; the firewall let in answers only, and nothing else tried to get out.

    Then two with another client, whom it lets out to an HTTP proxy alone, which knows the broker by a name of its own.
    """
    (tmp_path / "trains.py").write_text(APP)
    logs = tmp_path / "server.log", tmp_path / "client.log"
    async with process(hosts.on(hosts.server), logs[0], sys.executable, str(SERVER), str(tmp_path), ADDRESS) as server:
        await _says(server, b"serving\n", logs)
        async with process(hosts.on(hosts.client), logs[1], *_client(tmp_path, "site-1", ADDRESS), cwd=tmp_path):
            await _says(server, b"done\n", logs)
        _check(hosts.packets(), 443)
        (tmp_path / "next").touch()  # not before: the one that leaves would be asked
        hosts.let_out(PROXY_PORT)
        through = f"http://anna:secret@{ADDRESS}:{PROXY_PORT}"
        client = _client(tmp_path, "site-2", "broker.test")
        async with (
            _proxy(hosts.on(hosts.server), tmp_path),
            process(hosts.on(hosts.client), logs[1], *client, cwd=tmp_path, env={**os.environ, "HTTPS_PROXY": through}),
        ):
            try:
                async with asyncio.timeout(60):
                    code = await server.wait()
            except TimeoutError:
                pytest.fail(_said(logs))
    assert code == 0, _said(logs)
    assert json.loads((tmp_path / "result.json").read_text()) == 2 * [{"outcome": "completed", "values": [2.0]}]
    _check(hosts.packets(), PROXY_PORT)
    await _the_firewall_works(hosts)


def _client(place, name, host):
    command = [sys.executable, "-m", "fedbus", "client", "run", "trains:app", "--name", name]
    return [*command, "--nats", f"wss://{host}", "--credentials", str(place / f"{name}.creds")]


async def _says(server, line, logs):
    async with asyncio.timeout(60):
        assert await server.stdout.readline() == line, _said(logs)


def _said(logs):
    return "".join(f"{log.name}:\n{log.read_text()[-3000:]}\n" for log in logs if log.exists())


@contextlib.asynccontextmanager
async def _proxy(host, place):
    """proxy.py on a host, for whoever has a password."""
    env = {**os.environ, "PYTHONPATH": str(SERVER.parent), "BROKER": ADDRESS}
    options = ["--hostname", ADDRESS, "--port", str(PROXY_PORT), "--num-workers", "1", "--num-acceptors", "1"]
    options += ["--plugins", "names.Names", "--basic-auth", "anna:secret", "--log-level", "e"]
    options += ["--port-file", str(place / "proxy.port")]
    async with process(host, place / "proxy.log", sys.executable, "-m", "proxy", *options, env=env):
        async with asyncio.timeout(60):
            while not (place / "proxy.port").exists():  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.05)
        yield


def _check(seen, port):
    assert set(seen) == {
        ("INPUT", "policy"),
        ("INPUT", "ACCEPT lo"),
        ("INPUT", "ACCEPT ctstate ESTABLISHED"),
        ("INPUT", "DROP rest"),
        ("OUTPUT", "policy"),
        ("OUTPUT", "ACCEPT lo"),
        ("OUTPUT", f"ACCEPT tcp dpt:{port}"),
        ("OUTPUT", "DROP rest"),
        ("FORWARD", "policy"),
    }
    assert seen["INPUT", "ACCEPT ctstate ESTABLISHED"] > 100  # two models of 2 MB came
    assert seen["OUTPUT", f"ACCEPT tcp dpt:{port}"] > 100  # two updates went
    # nobody was waited for, nothing else was tried: no name server, no other port, no telemetry
    for what in (("INPUT", "DROP rest"), ("INPUT", "policy"), ("OUTPUT", "DROP rest"), ("OUTPUT", "policy")):
        assert seen[what] == 0, seen


async def _the_firewall_works(hosts):
    """What has proven something above could have failed: the client is not reached, and reaches no other port."""
    listens = "import socket; s = socket.create_server(('', 8000)); print('up', flush=True); s.accept()"
    tries = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"
    for there, here, address, port in (
        (hosts.client, hosts.server, "198.18.77.2", "8000"),
        (hosts.server, hosts.client, ADDRESS, "8000"),
    ):
        async with process(hosts.on(there), Path(os.devnull), sys.executable, "-c", listens) as listener:
            await listener.stdout.readline()
            async with process(hosts.on(here), Path(os.devnull), sys.executable, "-c", tries, address, port) as caller:
                assert await caller.wait() == 1
    seen = hosts.packets()
    assert seen["INPUT", "DROP rest"] > 0
    assert seen["OUTPUT", "DROP rest"] > 0
