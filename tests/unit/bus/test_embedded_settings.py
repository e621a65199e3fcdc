"""What is written for nats-server: single brokers, nodes of a cluster, leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedbus.bus.embedded import BrokerSettings
from fedbus.bus.embedded.conf import standalone_text
from fedbus.bus.embedded.settings import join_address, split_address
from fedbus.errors import ConfigError

STORE = Path("/var/lib/nats/n1")
ROUTES = ("10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222")
NODE = BrokerSettings(
    name="n1",
    tags=("zone:a",),
    domain="hub",
    cluster_name="fed",
    cluster_listen="10.0.0.1:6222",
    routes=ROUTES,
    leaf_listen="10.0.0.1:7422",
)
LEAF = BrokerSettings(name="eu", domain="hub", hubs=("10.0.0.1:7422", "10.0.0.2:7422"))


def test_a_node_names_its_cluster_and_all_routes():
    """Name, tags, domain, cluster, every route, and where leaves may come stand in a node's file."""
    text = standalone_text(NODE, STORE, "10.0.0.1", 4222)
    for line in (
        'listen: "10.0.0.1:4222"',
        'server_name: "n1"',
        'server_tags: ["zone:a"]',
        '  domain: "hub"',
        "  sync_interval: always",
        '  name: "fed"',
        '  routes: ["nats-route://10.0.0.1:6222", "nats-route://10.0.0.2:6222", "nats-route://10.0.0.3:6222"]',
        'leafnodes {\n  listen: "10.0.0.1:7422"',
    ):
        assert line in text
    assert "mappings" not in text


def test_a_leaf_keeps_nothing_and_maps_what_is_asked_of_streams():
    """A leaf has no JetStream: `$JS.API` of its clients goes to the hub's domain, over any of its nodes."""
    text = standalone_text(LEAF, STORE, "127.0.0.1", 4222)
    assert "jetstream {" not in text
    assert 'mappings: { "$JS.API.>": "$JS.hub.API.>" }' in text
    assert 'urls: ["nats-leaf://10.0.0.1:7422", "nats-leaf://10.0.0.2:7422"]' in text
    assert "listen: " not in text.partition("leafnodes")[2]


def test_a_single_broker_has_no_neighbours():
    """By default there is neither cluster nor leaf, and the file's size is left to nats-server or as chosen."""
    text = standalone_text(BrokerSettings(), STORE, "127.0.0.1", 4222)
    assert "cluster {" not in text
    assert "leafnodes" not in text
    assert "\n  max_file_store" not in text
    assert "\n  max_file_store: 7\n" in standalone_text(BrokerSettings(file_bytes_max=7), STORE, "127.0.0.1", 4222)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": 'n" }'},
        {"tags": ("zone a",)},
        {"domain": "a.b"},
        {"cluster_name": "fed"},
        {"cluster_listen": "10.0.0.1:6222"},
        {"cluster_name": "fed", "cluster_listen": "10.0.0.1:6222"},
        {"cluster_name": "fed", "cluster_listen": "10.0.0.1", "routes": ROUTES},
        {"leaf_listen": "10.0.0.1:7422"},
        {"hubs": ("10.0.0.1:7422",)},
        {"domain": "hub", "hubs": ("10.0.0.1:0",)},
        {"domain": "hub", "hubs": ('10.0.0.1"]}:1',)},
    ],
)
def test_neighbours_that_do_not_fit_are_refused(wrong):
    """Half a cluster, a leaf without a domain, words and addresses that are none are ConfigErrors."""
    with pytest.raises(ConfigError):
        BrokerSettings(**wrong)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:4222", "hub.example:65535"])
def test_an_address_is_taken_apart_and_put_together(address):
    """Host and port come apart and together again, the brackets of IPv6 included."""
    assert join_address(*split_address(address)) == address
