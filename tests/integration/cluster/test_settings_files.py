"""The files that `fedbus broker settings` writes are taken by nats-server as they stand."""

from __future__ import annotations

import subprocess

import pytest

from fedbus.bus.embedded.binary import find_binary
from fedbus.cli.tree import run

NODES = ["n1=127.0.0.1,zone:a", "n2=127.0.0.1", "n3=::1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kind", "single", "--node", NODES[0], "--leaves", "--file-bytes-max", "1000000"],
        ["--kind", "cluster", "--leaves", *(part for node in NODES for part in ("--node", node))],
        ["--kind", "leaf", "--node", "eu=127.0.0.1", "--hub", "10.0.0.1", "--hub", "[::1]:7423"],
    ],
    ids=lambda arguments: arguments[1],
)
def test_nats_server_takes_the_files(tmp_path, arguments):
    """Each file passes nats-server's own check, which knows every setting by name and type."""
    assert run(["broker", "settings", *arguments, "--out", str(tmp_path), "--store", str(tmp_path / "store")]) == 0
    files = sorted(tmp_path.glob("*.conf"))
    assert files
    for file in files:
        checked = subprocess.run(
            [find_binary(), "-t", "--config", file], capture_output=True, text=True, timeout=20, check=False
        )
        assert "is valid" in checked.stdout + checked.stderr
        assert checked.returncode == 0
