"""Makes `readers` importable, and gateways that are processes of their own, to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from fedbus.bus.embedded.child import die_with

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
async def spawn_gateway(broker, tmp_path):
    """Gateways that are processes of their own, by name; each call returns the process and its address."""
    running = []

    async def spawn(name):
        ready = tmp_path / f"{name}.json"
        command = [
            sys.executable, "-m", "fedbus", "gateway", "--name", name, "--nats", broker.url, "--port", "0",
            "--rate", "0", "--ready-file", str(ready), "--log-level", "warning",
        ]  # fmt: skip
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, preexec_fn=die_with(os.getpid())
            )
        running.append(process)
        async with asyncio.timeout(60):
            while not ready.exists():
                assert process.returncode is None, (tmp_path / f"{name}.log").read_text()
                await asyncio.sleep(0.05)
        return process, json.loads(ready.read_text())["http_url"]

    yield spawn
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
