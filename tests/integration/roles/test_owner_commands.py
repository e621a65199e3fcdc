"""An owner's commands, against a client that is a process of its own: by its state directory, and by nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

import fedbus
from fedbus.bus.embedded.child import die_with

MODEL = {"w": np.zeros((4, 4), np.float32)}
START_S = 60.0
"""Until a process of Python is there, on a machine that has much to do."""

CONFIG = {"rounds": 100_000, "clients_min": 1, "evaluate_every": 0, "purpose": "research/sleep"}


async def command(*words, expect=0):
    """Run a command of `fedbus client`; returns what it printed, errors too."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fedbus",
        "client",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == expect, said.decode()
    return said.decode()


@pytest.fixture
async def site(tmp_path, broker):
    """A client as a process, with a state directory whose path is longer than a socket's may be."""
    state = tmp_path / ("deep" * 20) / "state"
    words = ["client", "run", "client_app:app", "--name", "site-1", "--nats", broker.url, "--state-dir", str(state)]
    env = {"ASKED": str(tmp_path / "asked"), "HURRY": str(tmp_path / "hurry"), "PAUSE_S": "0"}
    with (tmp_path / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fedbus", *words, stderr=log, cwd=Path(__file__).parent,
            env=os.environ | env, preexec_fn=die_with(os.getpid()),
        )  # fmt: skip
    yield state
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_an_owner_is_obeyed(house, make_app, site, eventually):
    """Paused it trains no round more, resumed it does; left, its reason stands in the journal; log and cards tell."""
    await house.operate()
    await house.client("site-2", make_app(0.5, pause_s=0.05))
    await house.present(2, within_s=START_S)
    async with fedbus.connect(house.url) as federation, asyncio.timeout(240):
        session = await federation.start_session(fedbus.SessionConfig(**CONFIG), model=MODEL, name="s")

        async def counted(number):
            info = await session.info()
            return info.rounds and info.rounds[-1].counted == number

        await eventually(lambda: counted(2), START_S)
        control = site / "client-site-1" / "control"
        assert stat.S_ISSOCK(control.stat().st_mode) and stat.S_IMODE(control.stat().st_mode) == 0o600
        assert "paused" in await command("pause", "--state-dir", str(site))
        await eventually(lambda: counted(1), START_S)
        assert "goes on" in await command("resume", "--state-dir", str(site), "--name", "site-1")
        await eventually(lambda: counted(2), START_S)
        done = json.loads(await command("withdraw", "s", "--state-dir", str(site), "--json"))
        assert done["left"] == ["s"] and len(done["rounds"]) == 1
        await eventually(lambda: counted(1), START_S)
        assert set((await session.info()).declined) == {"site-1"}
        assert "research/sleep" in await command("card", "s", "--state-dir", str(site))
        await session.stop()
        assert "names the one before it" in await command("log", "--verify", "--state-dir", str(site))
    lines = [json.loads(line) for line in (await command("log", "--state-dir", str(site), "--json")).splitlines()]
    updates = [line for line in lines if line["what"] == "update"]
    assert updates and all(line["norm"] > 0 and line["purpose"] == "research/sleep" for line in updates)
    assert any(line["what"] == "withdrawal" for line in lines)


async def test_what_is_no_request_is_answered_and_ends_nothing(house, site, eventually):
    """Garbage, a line without an end, an unknown word: each gets an error, and the client goes on."""
    await house.operate()
    await house.present(1, within_s=START_S)
    place = site / "client-site-1"

    def say(data):
        descriptor = os.open(place, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(15)
            line.connect(f"/proc/self/fd/{descriptor}/control")
            os.close(descriptor)
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            return json.loads(line.makefile().readline())

    for data in (
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"do": 3}\n',
        b'{"do": "explode"}\n',
        b"x" * 5000,
        b"",
        b"[" * 4000,
    ):
        assert "error" in await asyncio.to_thread(say, data), data[:20]
    assert (await asyncio.to_thread(say, b'{"do": "status"}\n'))["done"]["paused"] is False
