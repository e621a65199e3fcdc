"""The command line as its users have it: processes, files, signals. Everything that is started here is ended here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedbus

CLIENT = """
import time
import numpy as np
import fedbus

app = fedbus.ClientApp()

@app.train
def train(model, task):
    time.sleep(task.config.get("sleep_s", 0))
    rng = np.random.default_rng(task.seed)
    arrays = {k: v + rng.standard_normal(v.shape, dtype=v.dtype) for k, v in model.items()}
    return fedbus.Update(arrays, weight=1 + task.seed % 7, metrics={"loss": 1 / task.round})
"""

STOP_S_MAX = 25.0


def wait_until(what: str, condition: Callable[[], Any], deadline_s: float = 90.0) -> Any:
    """Wait for something to become true; return it."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Shell:
    """A directory with a client, a model, and a command line in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("FEDBUS_", "OTEL_"))}
        self.env["FEDBUS_HOME"] = str(place / "home")
        self.started: list[subprocess.Popen[bytes]] = []
        (place / "client.py").write_text(CLIENT)
        np.savez(place / "model.npz", w=np.zeros((300, 1000), np.float32), b=np.zeros(3, np.float32))

    def run(self, *arguments: str, code: int | None = 0, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit code must be ``code``, or 0 or 1 where that is None."""
        done = subprocess.run(
            [sys.executable, "-m", "fedbus", *arguments],
            cwd=self.place,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode in ((0, 1) if code is None else (code,)), (
            f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str, **how: Any) -> Any:
        """Run a command with --json; return its last line's value."""
        return json.loads(self.run(*arguments, "--json", **how).stdout.splitlines()[-1])

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; it is ended with the test. Its words go to a file."""
        with (self.place / f"{len(self.started)}-{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedbus", *arguments],
                cwd=self.place,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        """What all started commands have said."""
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.place.glob("*.log")))

    def has_said(self, process: subprocess.Popen[bytes], words: str) -> bool:
        """Whether one started command has said something by now."""
        (log,) = self.place.glob(f"{self.started.index(process)}-*.log")
        return words in log.read_text()

    def up(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the operator's side on a free port and wait until it is ready; commands find it from then on."""
        process = self.start("up", "--nats-port", "0", "--http-port", "0", "--ready-file", "ready.json", *arguments)
        wait_until("ready file", lambda: (self.place / "ready.json").exists() or process.poll() is not None)
        assert process.poll() is None, self.said()
        self.env["FEDBUS_URL"] = self.ready()["nats_url"]
        return process

    def ready(self) -> dict[str, Any]:
        """Return the ready file."""
        return json.loads((self.place / "ready.json").read_text())

    def clients(self, count: int) -> list[subprocess.Popen[bytes]]:
        """Start clients and wait until they are there."""
        started = [self.start("client", "run", "client:app", "--name", f"site-{i}") for i in range(count)]
        asyncio.run(self._present(count))
        return started

    async def _present(self, count: int, within_s: float = 90.0) -> None:
        """Wait until so many clients are there; by a connection, as each command would take a second from them."""
        told = self.ready()
        async with (
            fedbus.connect(told["nats_url"], credentials=told["credentials"]) as federation,
            asyncio.timeout(within_s),
        ):
            while len(await federation.clients()) != count:  # noqa: ASYNC110 - the state of others
                await asyncio.sleep(0.05)

    until = staticmethod(wait_until)
    alive = staticmethod(alive)

    def end(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; the end must come in bounded time."""
        process.send_signal(number)
        return process.wait(STOP_S_MAX)


@contextmanager
def _opened(place: Path) -> Iterator[Shell]:
    shell = Shell(place)
    try:
        yield shell
    finally:
        for process in reversed(shell.started):
            if process.poll() is None:
                process.terminate()
        for process in reversed(shell.started):
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A command line in a directory of its own."""
    with _opened(tmp_path) as shell:
        yield shell


@pytest.fixture(scope="module")
def shared_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A command line of all tests of a module."""
    with _opened(tmp_path_factory.mktemp("shared")) as shell:
        yield shell
