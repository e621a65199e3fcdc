from __future__ import annotations

import json

import pytest

from fedbus.cli.gateways import Gateways


def tell(gateways, name, port):
    """Write what a gateway writes once it takes requests."""
    gateways.file(name).write_text(json.dumps({"http_url": f"http://127.0.0.1:{port}", "pid": 1}))


@pytest.mark.parametrize(("port", "ports"), [(8080, ["8080", "8081"]), (0, ["0", "0"])])
def test_several_have_ports_in_a_row_or_free_ones(tmp_path, port, ports):
    """Each is told its own port; 0 stays 0."""
    gateways = Gateways(tmp_path / "data", count=2, port=port)
    assert gateways.names == ["gateway", "gateway-2"]
    commands = [gateways.arguments(name) for name in gateways.names]
    assert [command[command.index("--port") + 1] for command in commands] == ports
    assert {command[command.index("--listen") + 1] for command in commands} == {"127.0.0.1"}


def test_all_are_missing_until_they_have_written_where_they_are(tmp_path):
    """The address is that of the first, known when it has written it."""
    gateways = Gateways(tmp_path, count=2, port=0)
    assert (gateways.missing(), gateways.url) == (["gateway", "gateway-2"], None)
    tell(gateways, "gateway", 40001)
    assert (gateways.missing(), gateways.url) == (["gateway-2"], "http://127.0.0.1:40001")
    tell(gateways, "gateway-2", 40002)
    assert gateways.missing() == []


def test_who_is_started_again_gets_its_port_again(tmp_path):
    """A free port that was taken once is the port of all lives, and what an earlier life has written is gone."""
    gateways = Gateways(tmp_path, count=1, port=0)
    tell(gateways, "gateway", 40001)
    gateways.missing()
    command = gateways.arguments("gateway")
    assert command[command.index("--port") + 1] == "40001"
    assert not gateways.file("gateway").exists()


def test_none_is_none(tmp_path):
    """Without gateways nothing is waited for, and there is no address."""
    gateways = Gateways(tmp_path, count=0, port=8080)
    assert (gateways.names, gateways.missing(), gateways.url) == ([], [], None)
