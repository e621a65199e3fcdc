"""The files that `fedbus broker settings` writes are taken by nats-server as they stand."""

from __future__ import annotations

import subprocess

import pytest

from fedbus.access.certs import Certs
from fedbus.bus.embedded.binary import find_binary
from fedbus.cli.tree import run

NODES = ["n1=127.0.0.1,zone:a", "n2=127.0.0.1", "n3=::1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kind", "single", "--node", NODES[0], "--leaves", "--file-bytes-max", "1000000"],
        ["--kind", "cluster", "--leaves", *(part for node in NODES for part in ("--node", node))],
        ["--kind", "leaf", "--node", "eu=127.0.0.1", "--hub", "10.0.0.1", "--hub", "[::1]:7423"],
        ["--kind", "single", "--node", NODES[0], "--websocket-port", "8443", "--websocket-plain"],
    ],
    ids=lambda arguments: " ".join(arguments[1:2] + arguments[4:5]),
)
def test_nats_server_takes_the_files(tmp_path, arguments):
    """Each file passes nats-server's own check, which knows every setting by name and type."""
    assert run(["broker", "settings", *arguments, "--out", str(tmp_path), "--store", str(tmp_path / "store")]) == 0
    _check(tmp_path)


def test_nats_server_takes_the_files_with_tls(tmp_path):
    """The same of a cluster, a hub and a leaf whose clients and neighbours show certificates; websockets as well."""
    certs = Certs(tmp_path / "certs")
    certs.init()
    certificate, key = map(str, (certs.server("node"), certs.files("node")[1]))
    tls = [
        "--tls-cert",
        certificate,
        "--tls-key",
        key,
        "--tls-client-ca",
        str(certs.ca),
        "--neighbour-ca",
        str(certs.ca),
    ]
    nodes = [part for node in NODES for part in ("--node", node)]
    leaf = ["--kind", "leaf", "--node", "eu=127.0.0.1", "--hub", "10.0.0.1"]
    for arguments in (["--kind", "cluster", "--leaves", *nodes], leaf):
        assert run(["broker", "settings", *arguments, *tls, "--websocket-port", "8443", "--out", str(tmp_path)]) == 0
    assert len(_check(tmp_path)) == 4
    text = (tmp_path / "n2.conf").read_text()
    assert text.count("verify: true") == 4  # clients, websockets, nodes, leaves
    assert 'listen: "127.0.0.1:8444"' in text
    assert "is not encrypted" not in text
    assert run(["broker", "settings", *leaf, *tls[2:], "--out", str(tmp_path / "half")]) == 2


def _check(directory):
    files = sorted(directory.glob("*.conf"))
    assert files
    for file in files:
        checked = subprocess.run(
            [find_binary(), "-t", "--config", file], capture_output=True, text=True, timeout=20, check=False
        )
        assert "is valid" in checked.stdout + checked.stderr
        assert checked.returncode == 0
    return files
