"""Settings files for brokers that run as services: one alone, the nodes of a cluster, a leaf for a region.

A node is written ``NAME=HOST[,TAG...]``. Nodes that share a host (to try a cluster on one machine) get ports that are
one higher each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedbus.bus.embedded.conf import standalone_text
from fedbus.bus.embedded.settings import BrokerSettings, BrokerTls, join_address, split_address
from fedbus.errors import ConfigError

NODES_MIN = 3
"""Of a cluster: two could not outvote a third, so the loss of one would stop both."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where servers listen: for clients, for the other nodes of a cluster, for leaves; for websockets, 0: nowhere."""

    client: int = 4222
    route: int = 6222
    leaf: int = 7422
    websocket: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """One server to be: its name, the address that it binds, its ports, its tags."""

    name: str
    host: str
    ports: Ports
    tags: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{join_address(self.host, self.ports.client)}"


@dataclass(frozen=True, slots=True)
class Encryption:
    """What is encrypted: for clients with ``certificate`` and ``key``, between servers also with ``neighbour_ca``."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    neighbour_ca: Path | None = None

    def of(self, limits: BrokerSettings) -> BrokerSettings:
        """Return settings with TLS; `ConfigError` where something is missing."""
        if self.certificate is None or self.key is None:
            if any((self.certificate, self.key, self.client_ca, self.neighbour_ca)):
                raise ConfigError("TLS needs both --tls-cert and --tls-key")
            return limits
        certificate, key = self.certificate.absolute(), self.key.absolute()
        client_ca = None if self.client_ca is None else self.client_ca.absolute()
        between = None if self.neighbour_ca is None else BrokerTls(certificate, key, self.neighbour_ca.absolute())
        return replace(limits, tls=BrokerTls(certificate, key, client_ca), neighbours_tls=between)


def read_nodes(texts: Sequence[str], ports: Ports) -> list[Node]:
    """Return the nodes that are written as ``NAME=HOST[,TAG...]``; `ConfigError` for what is none, or is twice."""
    nodes: list[Node] = []
    on_host: Counter[str] = Counter()
    for text in texts:
        name, equals, rest = text.partition("=")
        host, *tags = rest.split(",")
        if not equals or not name or not host:
            raise ConfigError(f"expected a node like n1=10.0.0.1 or n1=10.0.0.1,zone:a, got {text!r}")
        step = on_host[host]
        on_host[host] += 1
        web = ports.websocket and ports.websocket + step
        shifted = Ports(ports.client + step, ports.route + step, ports.leaf + step, web)
        split_address(join_address(host, shifted.client))
        nodes.append(Node(name, host, shifted, tuple(tags)))
    if len({node.name for node in nodes}) < len(nodes):
        raise ConfigError(f"no two nodes share a name: {', '.join(node.name for node in nodes)}")
    return nodes


def single(node: Node, limits: BrokerSettings, *, leaves: bool) -> BrokerSettings:
    """Return the settings of a broker that is alone."""
    leaf_listen = _leaf_listen(node) if leaves else ""
    return replace(limits, name=node.name, tags=node.tags, leaf_listen=leaf_listen, websocket_listen=_web(node))


def cluster(nodes: Sequence[Node], limits: BrokerSettings, name: str, *, leaves: bool) -> list[BrokerSettings]:
    """Return the settings of each node of a cluster; `ConfigError` for fewer than three, or an even number."""
    if len(nodes) < NODES_MIN or len(nodes) % 2 == 0:
        raise ConfigError(f"a cluster has 3 or 5 nodes (--node, repeated), got {len(nodes)}: more than half must live")
    routes = tuple(join_address(node.host, node.ports.route) for node in nodes)
    return [
        replace(single(node, limits, leaves=leaves), cluster_name=name, cluster_listen=route, routes=routes)
        for node, route in zip(nodes, routes, strict=True)
    ]


def leaf(node: Node, limits: BrokerSettings, hubs: Iterable[str], port: int) -> BrokerSettings:
    """Return the settings of a leaf; a hub without a port listens on ``port`` for leaves."""
    addresses = tuple(_hub_address(hub, port) for hub in hubs)
    if not addresses:
        raise ConfigError("a leaf needs --hub HOST[:PORT] of each node of its hub")
    return replace(limits, name=node.name, tags=node.tags, hubs=addresses, websocket_listen=_web(node))


def write(
    directory: Path, nodes: Sequence[Node], settings: Sequence[BrokerSettings], store: Path
) -> Mapping[str, Path]:
    """Write a file for each node; returns them by name. A file that is there already is not touched: `ConfigError`."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {node.name: directory / f"{node.name}.conf" for node in nodes}
    there = [str(path) for path in paths.values() if path.exists()]
    if there:
        raise ConfigError(
            f"{', '.join(there)}: there already, and not written over: remove it, or choose another --out"
        )
    for node, its in zip(nodes, settings, strict=True):
        paths[node.name].write_text(standalone_text(its, store / node.name, node.host, node.ports.client))
    return paths


def _leaf_listen(node: Node) -> str:
    return join_address(node.host, node.ports.leaf)


def _web(node: Node) -> str:
    return join_address(node.host, node.ports.websocket) if node.ports.websocket else ""


def _hub_address(hub: str, port: int) -> str:
    bare = hub.rpartition("]")[2]  # behind the brackets of an IPv6 address
    address = hub if ":" in bare else f"{hub}:{port}"
    split_address(address)
    return address
