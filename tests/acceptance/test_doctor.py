from __future__ import annotations

import pytest

from fedbus.bus.embedded import EmbeddedBroker

pytestmark = pytest.mark.slow

DEAD = "nats://127.0.0.1:1"


def test_a_dead_port_is_the_broken_hop(shell):
    """With nobody at the address the connection fails, is named, with what to do; the exit code is 1."""
    done = shell.run("doctor", "--nats", DEAD, code=1)
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["ok", "DNS"], ["FAILED", "TCP"]]
    assert DEAD in done.stdout
    assert "fedbus up" in done.stdout
    told = shell.json("doctor", "--nats", DEAD, code=1)
    assert not told["ok"]
    assert [(check["hop"], check["ok"]) for check in told["checks"]] == [("DNS", True), ("TCP", False)]


async def test_a_broker_without_a_coordinator(shell, tmp_path):
    """A bare broker is fine up to the streams, which nobody has made."""
    async with EmbeddedBroker(tmp_path / "store") as broker:
        told = shell.json("doctor", "--nats", broker.url, code=1)
    well = ["DNS", "TCP", "TLS", "authentication", "permission", "JetStream", "payload"]
    assert [check["hop"] for check in told["checks"] if check["ok"]] == well
    assert told["checks"][-1]["hop"] == "streams"
    assert "fedbus coordinator" in told["checks"][-1]["advice"]


def test_nobody_takes_part(shell):
    """With the operator's side up and no client, `clients` is the one hop that fails."""
    shell.up("--in-process")
    told = shell.json("doctor", code=1)
    assert [check["hop"] for check in told["checks"] if not check["ok"]] == ["clients"]
