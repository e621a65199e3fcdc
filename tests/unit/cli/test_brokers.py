"""`fedbus broker settings` writes files that fit each other, and refuses what would not work."""

from __future__ import annotations

import re

import pytest

from fedbus.bus.base import Placement
from fedbus.bus.embedded import BrokerSettings
from fedbus.cli.brokers import Ports, cluster, leaf, read_nodes, single, write
from fedbus.cli.embedding import embedded
from fedbus.cli.keeping import placement_of
from fedbus.cli.tree import run
from fedbus.errors import ConfigError

LIMITS = BrokerSettings(domain="hub")
THREE = ["n1=10.0.0.1,zone:a", "n2=10.0.0.2,zone:b,disk:fast", "n3=10.0.0.3"]


def test_nodes_are_read_with_their_tags():
    """Name, address and tags come apart; on hosts of their own all have the same ports."""
    nodes = read_nodes(THREE, Ports())
    assert [(node.name, node.host, node.tags) for node in nodes] == [
        ("n1", "10.0.0.1", ("zone:a",)),
        ("n2", "10.0.0.2", ("zone:b", "disk:fast")),
        ("n3", "10.0.0.3", ()),
    ]
    assert {node.ports for node in nodes} == {Ports()}


def test_nodes_of_one_host_do_not_share_ports():
    """To try a cluster on one machine: each further node of a host has ports one higher."""
    nodes = read_nodes(["a=::1", "b=::1", "c=127.0.0.1"], Ports(4000, 6000, 7000))
    assert [node.ports for node in nodes] == [Ports(4000, 6000, 7000), Ports(4001, 6001, 7001), Ports(4000, 6000, 7000)]
    assert nodes[1].url == "nats://[::1]:4001"


@pytest.mark.parametrize("wrong", [["n1"], ["=10.0.0.1"], ["n1="], ["n1=h", "n1=g"], ['n1=h"x']])
def test_what_is_no_node_is_refused(wrong):
    """Without name or address, or twice by one name: ConfigError."""
    with pytest.raises(ConfigError):
        read_nodes(wrong, Ports())


def test_every_node_of_a_cluster_knows_every_route():
    """All nodes have the same routes, each listens on its own, and leaves may come only if that was asked for."""
    nodes = read_nodes(THREE, Ports())
    found = cluster(nodes, LIMITS, "fed", leaves=True)
    assert {its.routes for its in found} == {("10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222")}
    assert [its.cluster_listen for its in found] == list(found[0].routes)
    assert [its.leaf_listen for its in found] == ["10.0.0.1:7422", "10.0.0.2:7422", "10.0.0.3:7422"]
    assert {its.leaf_listen for its in cluster(nodes, LIMITS, "fed", leaves=False)} == {""}
    assert [its.tags for its in found] == [node.tags for node in nodes]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_cluster_that_cannot_lose_a_node_is_refused(count):
    """Fewer than three nodes, or an even number, are a ConfigError that says why."""
    with pytest.raises(ConfigError, match="more than half"):
        cluster(read_nodes([f"n{i}=10.0.0.{i}" for i in range(count)], Ports()), LIMITS, "fed", leaves=False)


def test_a_leaf_names_its_hubs():
    """A hub without a port listens on the usual one; IPv6 may stand there with or without it; none is refused."""
    (node,) = read_nodes(["eu=127.0.0.1"], Ports())
    its = leaf(node, LIMITS, ["10.0.0.1", "hub.example:1", "[::1]", "[::1]:2"], 7422)
    assert its.hubs == ("10.0.0.1:7422", "hub.example:1", "[::1]:7422", "[::1]:2")
    assert not its.keeps_streams
    assert single(node, LIMITS, leaves=False).keeps_streams
    with pytest.raises(ConfigError, match="--hub"):
        leaf(node, LIMITS, [], 7422)


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    """Settings that somebody has edited stay: nothing is written, not even the other nodes' files."""
    nodes = read_nodes(THREE, Ports())
    settings = cluster(nodes, LIMITS, "fed", leaves=False)
    (tmp_path / "n2.conf").write_text("mine")
    with pytest.raises(ConfigError, match=r"n2\.conf.*not written over"):
        write(tmp_path, nodes, settings, tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["n2.conf"]


def test_the_command_writes_and_says_what_to_do_next(tmp_path, capsys):
    """Three files for a cluster, with the command that uses it."""
    nodes = [part for text in THREE for part in ("--node", text)]
    assert run(["broker", "settings", "--kind", "cluster", *nodes, "--out", str(tmp_path), "--store", "/srv"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1.conf", "n2.conf", "n3.conf"]
    assert 'store_dir: "/srv/n2"' in (tmp_path / "n2.conf").read_text()
    told = capsys.readouterr().out
    urls = "nats://10.0.0.1:4222,nats://10.0.0.2:4222,nats://10.0.0.3:4222"
    assert f"fedbus up --nats {urls} --replicas 3" in told


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--kind", "single"], "one --node"),
        (["--kind", "leaf", "--node", "eu=127.0.0.1"], "--hub"),
        (["--kind", "single", "--node", "a=127.0.0.1", "--hub", "h"], "--hub is for --kind leaf"),
        (["--kind", "leaf", "--node", "a=127.0.0.1", "--hub", "h", "--leaves"], "no leaves of its own"),
    ],
)
def test_options_that_do_not_fit_are_usage(tmp_path, capsys, arguments, complaint):
    """What does not fit the kind is exit code 2, and nothing is written."""
    assert run(["broker", "settings", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_placement_is_read_from_two_options():
    """Nothing said is None, which leaves streams where they are; tags are split at commas."""
    assert placement_of("", "") is None
    assert placement_of("", " zone:a, disk:fast,") == Placement("", ("zone:a", "disk:fast"))
    assert placement_of("west", "") == Placement("west", ())


def test_embedded_brokers_form_a_cluster(tmp_path):
    """Three of them have names, stores and routes of their own; one is the single broker it was."""
    assert list(embedded(tmp_path, 1, 0)) == ["broker"]
    brokers = embedded(tmp_path, 3, 4222)
    assert list(brokers) == ["broker-1", "broker-2", "broker-3"]
    assert [broker.port for broker in brokers.values()] == [4222, 4223, 4224]
    routes = {broker._settings.routes for broker in brokers.values()}
    assert len(routes) == 1
    assert len(set(*routes)) == 3
    with pytest.raises(ConfigError, match="more than half"):
        embedded(tmp_path, 4, 0)


@pytest.mark.parametrize(("kept", "count"), [("broker", 3), ("broker-1", 1)])
def test_streams_of_another_layout_are_not_forgotten(tmp_path, kept, count):
    """A cluster would not find a single broker's streams, nor the other way round: it is refused and named."""
    (tmp_path / kept / "jetstream").mkdir(parents=True)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / kept))):
        embedded(tmp_path, count, 0)


def test_more_replicas_than_brokers_are_usage(tmp_path, capsys):
    """What a single embedded broker cannot keep is said before anything is started."""
    assert run(["up", "--replicas", "3", "--data-dir", str(tmp_path / "data")]) == 2
    assert "--brokers 3" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
