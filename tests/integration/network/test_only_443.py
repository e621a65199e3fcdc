"""A client behind a firewall that drops all that comes in, and lets out nothing but port 443, trains."""

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
    """Two rounds over wss with credentials; the firewall let in answers only, and nothing else tried to get out."""
    (tmp_path / "trains.py").write_text(APP)
    python = sys.executable
    client = [python, "-m", "fedbus", "client", "run", "trains:app", "--name", "site-1", "--nats", f"wss://{ADDRESS}"]
    client += ["--credentials", str(tmp_path / "site-1.creds")]
    logs = tmp_path / "server.log", tmp_path / "client.log"
    async with process(hosts.on(hosts.server), logs[0], python, str(SERVER), str(tmp_path), ADDRESS) as server:
        async with asyncio.timeout(40):
            assert (await server.stdout.readline()) == b"serving\n", logs[0].read_text()
        async with process(hosts.on(hosts.client), logs[1], *client, cwd=tmp_path):
            try:
                async with asyncio.timeout(60):
                    code = await server.wait()
            except TimeoutError:
                pytest.fail(f"server:\n{logs[0].read_text()[-3000:]}\nclient:\n{logs[1].read_text()[-3000:]}")
    assert code == 0, logs[0].read_text()[-3000:] + logs[1].read_text()[-3000:]
    assert json.loads((tmp_path / "result.json").read_text()) == {"outcome": "completed", "values": [2.0]}
    _check(hosts.packets())
    await _the_firewall_works(hosts)


def _check(seen):
    assert set(seen) == {
        ("INPUT", "policy"),
        ("INPUT", "ACCEPT lo"),
        ("INPUT", "ACCEPT ctstate ESTABLISHED"),
        ("INPUT", "DROP rest"),
        ("OUTPUT", "policy"),
        ("OUTPUT", "ACCEPT lo"),
        ("OUTPUT", "ACCEPT tcp dpt:443"),
        ("OUTPUT", "DROP rest"),
        ("FORWARD", "policy"),
    }
    assert seen["INPUT", "ACCEPT ctstate ESTABLISHED"] > 100  # two models of 2 MB came
    assert seen["OUTPUT", "ACCEPT tcp dpt:443"] > 100  # two updates went
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
