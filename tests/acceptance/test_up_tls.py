"""From `fedbus up --tls` to a model trained by a machine that has joined over a websocket, by commands alone."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request

import pytest

pytestmark = pytest.mark.slow


def free_port():
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_machine_joins_over_a_websocket_and_trains(shell):
    """One token is all that it is given: it names the address, whom to trust, and lets it in; all of it encrypted."""
    port = free_port()
    shell.up("--tls", "--wss-port", str(port), "--public-host", "127.0.0.1")
    told = shell.ready()
    assert told["nats_url"].startswith("tls://127.0.0.1:")
    assert told["http_url"].startswith("https://127.0.0.1:")
    trusted = ssl.create_default_context(cafile=shell.place / "fedbus-data" / "certs" / "ca.pem")
    with urllib.request.urlopen(f"{told['http_url']}/healthz", context=trusted, timeout=10) as answer:
        assert json.loads(answer.read())["status"] == "ok"

    token = shell.run("token", "create", "--role", "client").stdout.split()[-1]
    theirs = shell.env | {"FEDBUS_HOME": str(shell.place / "elsewhere")}
    del theirs["FEDBUS_URL"]
    ours, shell.env = shell.env, theirs
    shell.run("join", token, "--name", "site-1", "--out", "site-1.creds")
    address = f"wss://127.0.0.1:{port}"
    assert address in (shell.place / "site-1.creds").read_text()
    shell.start("client", "run", "client:app", "--name", "site-1", "--nats", address, "--credentials", "site-1.creds")
    shell.env = ours
    shell.until("the client", lambda: [seen["name"] for seen in shell.json("client", "list")] == ["site-1"])
    watched = shell.run("session", "start", "model.npz", "--rounds", "2", "--clients-min", "1", "--json").stdout
    assert [json.loads(line)["kind"] for line in watched.splitlines()].count("RoundClosed") == 2
    assert json.loads(watched.splitlines()[-1])["kind"] == "SessionEnded"
    assert "Traceback" not in shell.said(), shell.said()
