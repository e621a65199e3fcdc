"""`fedbus broker settings`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fedbus.errors import ConfigError

app = typer.Typer(help="Brokers that run as services.", no_args_is_help=True)


class Kind(Enum):
    """What a server is among others."""

    SINGLE = "single"
    CLUSTER = "cluster"
    LEAF = "leaf"


@app.callback()
def broker() -> None:
    """Brokers that run as services."""


@app.command("settings")
def settings(
    *,
    kind: Annotated[Kind, typer.Option("--kind", help="One server, the nodes of a cluster, or a region's leaf.")],
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NAME=HOST[,TAG...]", help="A server and the address it binds; one for each node."
        ),
    ] = None,
    hub: Annotated[
        list[str] | None,
        typer.Option("--hub", metavar="HOST[:PORT]", help="Where a node of the hub listens for leaves; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where NAME.conf is written.")] = Path(),
    store: Annotated[Path, typer.Option("--store", metavar="DIR", help="Streams are kept in DIR/NAME.")] = Path(
        "/var/lib/nats"
    ),
    leaves: Annotated[bool, typer.Option("--leaves", help="Listen for leaves (single and cluster).")] = False,
    cluster_name: Annotated[str, typer.Option("--cluster-name", metavar="NAME", help="Of the cluster.")] = "fedbus",
    domain: Annotated[str, typer.Option("--domain", metavar="NAME", help="Of JetStream; a leaf names its hub's.")] = (
        "hub"
    ),
    client_port: Annotated[int, typer.Option("--client-port", min=1, max=65000, help="For clients.")] = 4222,
    route_port: Annotated[int, typer.Option("--route-port", min=1, max=65000, help="For nodes of a cluster.")] = 6222,
    leaf_port: Annotated[int, typer.Option("--leaf-port", min=1, max=65000, help="For leaves.")] = 7422,
    file_bytes_max: Annotated[
        int, typer.Option("--file-bytes-max", min=0, help="On disk; 0: three quarters of what is free.")
    ] = 0,
    memory_bytes_max: Annotated[int, typer.Option("--memory-bytes-max", min=1, help="For streams in memory.")] = (
        512 * 2**20
    ),
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Its certificate, PEM with its chain: TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option("--tls-client-ca", metavar="FILE", help="Clients show a certificate that this CA signed."),
    ] = None,
    neighbour_ca: Annotated[
        Path | None,
        typer.Option("--neighbour-ca", metavar="FILE", help="TLS between servers, whose certificates this CA signed."),
    ] = None,
    websocket_port: Annotated[
        int, typer.Option("--websocket-port", min=0, max=65535, help="For clients over websockets, as 443; 0: none.")
    ] = 0,
    websocket_plain: Annotated[
        bool, typer.Option("--websocket-plain", help="Websockets without TLS, behind a proxy that has it.")
    ] = False,
) -> None:
    """Write settings files for nats-server, complete and with reasons, and say how to start and use it."""
    from fedbus.bus.embedded import BrokerSettings
    from fedbus.cli import brokers

    ports = brokers.Ports(client_port, route_port, leaf_port, websocket_port)
    nodes = brokers.read_nodes(node or [], ports)
    if kind is not Kind.CLUSTER and len(nodes) != 1:
        raise ConfigError(f"--kind {kind.value} is one server: give one --node NAME=HOST, not {len(nodes)}")
    if hub and kind is not Kind.LEAF:
        raise ConfigError("--hub is for --kind leaf")
    if leaves and kind is Kind.LEAF:
        raise ConfigError("--leaves is for single and cluster: a leaf has no leaves of its own")
    limits = brokers.Encryption(tls_cert, tls_key, tls_client_ca, neighbour_ca).of(
        BrokerSettings(
            domain=domain,
            file_bytes_max=file_bytes_max,
            memory_bytes_max=memory_bytes_max,
            websocket_plain=websocket_plain,
        )
    )
    if kind is Kind.CLUSTER:
        described = brokers.cluster(nodes, limits, cluster_name, leaves=leaves)
    elif kind is Kind.SINGLE:
        described = [brokers.single(nodes[0], limits, leaves=leaves)]
    else:
        described = [brokers.leaf(nodes[0], limits, hub or (), leaf_port)]
    for name, path in brokers.write(out, nodes, described, store).items():
        print(f"{path}  start it where {name} is: nats-server --config {path.name}")
    url = ",".join(each.url if tls_cert is None else each.url.replace("nats://", "tls://") for each in nodes)
    if kind is Kind.LEAF:
        print(f"next:  fedbus combiner --name NAME --nats {url}")
    else:
        replicas = " --replicas 3" if kind is Kind.CLUSTER else ""
        print(f"next:  fedbus up --nats {url}{replicas}")
