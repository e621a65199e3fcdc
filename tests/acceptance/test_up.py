from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import urllib.request
from functools import partial

import numpy as np
import pyte
import pytest

from fedbus.tensors import files, model_digest

pytestmark = pytest.mark.slow

START = ("session", "start", "model.npz", "--clients-min", "3", "--evaluate-every", "0")


def test_from_up_to_a_downloaded_model(shell):
    """The whole way by commands: up, clients, a session that is watched, its model in a file with the digest told."""
    up = shell.up("--combiners", "2", "--coordinators", "2")
    told = shell.ready()
    assert set(told) == {"nats_url", "http_url", "pids", "credentials"}
    assert set(told["pids"]) == {"broker", "coordinator", "coordinator-2", "combiner-1", "combiner-2", "gateway"}
    clients = shell.clients(3)

    doctor = shell.json("doctor")
    assert doctor["ok"]
    assert [check["hop"] for check in doctor["checks"]][-1] == "clocks"

    watched = shell.run(*START, "--rounds", "3", "--name", "first", "--json").stdout.splitlines()
    kinds = [json.loads(line)["kind"] for line in watched]
    assert kinds.count("RoundClosed") == 3
    assert kinds[-1] == "SessionEnded"
    assert "round   3: 3 clients" in shell.run("session", "watch", "first").stdout

    (listed,) = shell.json("session", "list")
    shown = shell.json("session", "show", "first")
    assert listed["state"] == shown["state"] == "completed"
    assert [r["counted"] for r in shown["rounds_closed"]] == [3, 3, 3]

    models = shell.json("model", "list")
    assert [model["version"] for model in models] == ["first-0", "first-1", "first-2", "first-3"]
    assert shell.json("model", "show", "first-3")["arrays"][0] == {"name": "w", "dtype": "<f4", "shape": [300, 1000]}
    told = shell.json("model", "download", "first-3", "--output", "got.safetensors")
    arrays = files.read(shell.place / "got.safetensors")
    assert told["digest"] == shown["digest"] == model_digest(arrays)
    assert np.abs(arrays["w"]).max() > 0

    assert [shell.end(client) for client in clients[:2]] == [0, 0]
    assert shell.end(clients[2], signal.SIGINT) == 130
    pids = shell.ready()["pids"]
    assert shell.end(up, signal.SIGINT) == 130
    assert "Traceback" not in shell.said(), shell.said()
    assert not (shell.place / "ready.json").exists()
    assert not any(shell.alive(pid) for pid in pids.values())


def test_a_gateway_that_is_killed_answers_again_where_it_was(shell):
    """The ready file tells where the first of two gateways answers; after kill -9 its pid is new, its page the same."""
    shell.up("--gateways", "2")
    before = shell.ready()
    assert {"gateway", "gateway-2"} < set(before["pids"])
    os.kill(before["pids"]["gateway"], signal.SIGKILL)
    shell.until("pid", lambda: shell.ready()["pids"]["gateway"] != before["pids"]["gateway"])

    def page():
        try:
            with urllib.request.urlopen(before["http_url"], timeout=5) as answer:
                return answer.read()
        except OSError:
            return None

    assert b"<html" in shell.until("page", page)
    assert shell.ready()["http_url"] == before["http_url"]


def test_top_draws_and_leaves_the_terminal_as_it_was(shell):
    """In a terminal of 80x24 who leads and what waits is drawn; Ctrl-C ends it, and the screen of before is back."""
    shell.up("--no-http")
    shell.run(*START, "--name", "alone", "--no-watch")
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    screen, said = pyte.Screen(80, 24), b""
    stream = pyte.ByteStream(screen)
    command = [sys.executable, "-m", "fedbus", "top", "--every-s", "0.2"]
    env = shell.env | {"TERM": "xterm"}
    with subprocess.Popen(command, cwd=shell.place, env=env, stdin=inside, stdout=inside, stderr=inside) as top:
        os.close(inside)
        while not any("alone round 1: waiting for" in line for line in screen.display):
            got = os.read(outside, 65536)
            said += got
            stream.feed(got)
        assert any("coordinator leads" in line for line in screen.display)
        assert any(line.startswith("combiner-1") for line in screen.display)
        top.send_signal(signal.SIGINT)
        while True:
            try:
                said += os.read(outside, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
    os.close(outside)
    assert top.returncode == 130
    assert said.count(b"\x1b[?1049h") == said.count(b"\x1b[?1049l") == 1
    assert b"Traceback" not in said


def test_no_http_is_no_gateway(shell):
    """With --no-http nothing listens, and the ready file says null."""
    shell.up("--no-http")
    assert shell.ready()["http_url"] is None
    assert set(shell.ready()["pids"]) == {"broker", "coordinator", "combiner-1"}


@pytest.mark.parametrize(
    ("up", "victims"),
    [((), ("combiner-1", "coordinator", "broker")), (("--brokers", "3"), ("broker-1",))],
    ids=["one-broker", "three-brokers"],
)
def test_who_is_killed_in_mid_round_comes_back_and_the_model_is_the_same(shell, up, victims):
    """Kill -9 of a role in the middle of a round changes its pid and nothing else: same digest, all updates counted; so
    does that of one of three brokers, the one that everybody is connected to.
    """
    shell.up(*up)
    shell.clients(3)
    slow = ("--rounds", "3", "--train-config", "sleep_s=0.8", "--seed", "5")
    shell.run(*START, *slow, "--name", "calm")
    calm = shell.json("session", "show", "calm")
    for victim in victims:
        watching = shell.start(*START, *slow, "--name", f"without-{victim}")
        shell.until("round 2", partial(shell.has_said, watching, "round   1: 3 clients"))
        before = shell.ready()["pids"]
        os.kill(before[victim], signal.SIGKILL)
        assert watching.wait(90) == 0, shell.said()
        rough = shell.json("session", "show", f"without-{victim}")
        assert rough["state"] == "completed", shell.said()
        assert rough["digest"] == calm["digest"]
        assert [r["counted"] for r in rough["rounds_closed"]] == [3, 3, 3]
        after = shell.ready()["pids"]
        assert {name for name in before if before[name] != after[name]} == {victim}
        assert shell.alive(after[victim])


def test_sigterm_is_a_clean_end(shell):
    """SIGTERM ends `up` with 0, its roles and its broker with it."""
    up = shell.up()
    pids = shell.ready()["pids"]
    assert shell.end(up) == 0
    assert not any(shell.alive(pid) for pid in pids.values())


def test_no_orphans_when_up_is_killed(shell):
    """Kill -9 of `up` ends the broker and the roles within seconds."""
    up = shell.up()
    pids = shell.ready()["pids"]
    assert shell.end(up, signal.SIGKILL) == -signal.SIGKILL
    shell.until("no process left", lambda: not any(shell.alive(pid) for pid in pids.values()), 20.0)


def test_in_one_process(shell):
    """With --in-process all roles share one pid, and a session runs all the same."""
    up = shell.up("--in-process")
    pids = shell.ready()["pids"]
    assert pids["coordinator"] == pids["combiner-1"] == up.pid != pids["broker"]
    shell.clients(1)
    events = shell.run("session", "start", "model.npz", "--rounds", "2", "--evaluate-every", "0").stdout
    assert "completed: 2 rounds done" in events
    assert shell.end(up) == 0


def test_a_port_in_use_is_said(shell):
    """The port of another broker is refused in one line that names it."""
    shell.up()
    port = shell.env["FEDBUS_URL"].rpartition(":")[2]
    done = shell.run("up", "--nats-port", port, "--data-dir", "other", code=2)
    assert port in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_session_can_be_left_and_stopped(shell):
    """Ctrl-C of a watch leaves the session running and says so; `session stop` ends it, and its models stay."""
    shell.up("--in-process")
    shell.clients(1)
    watching = shell.start(
        "session",
        "start",
        "model.npz",
        "--rounds",
        "500",
        "--name",
        "long",
        "--train-config",
        "sleep_s=0.2",
        "--evaluate-every",
        "0",
    )
    shell.until("two rounds", lambda: "round   2" in shell.said())
    assert shell.end(watching, signal.SIGINT) == 130
    assert "long goes on" in shell.said()
    stopped = shell.json("session", "stop", "long", "--reason", "enough")
    assert stopped["state"] == "stopped"
    assert "enough" in stopped["reason"]
    assert len(shell.json("model", "list")) >= 3
    assert "Traceback" not in shell.said()
