"""`fedbus up`: all of the operator's side on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import Credentials, Keys, LogLevel, Store, Workspace, by_way, way_of
from fedbus.cli.gateways import AllowHost, CorsOrigin, HttpsCert, HttpsKey, JaegerUrl
from fedbus.cli.keeping import PlacementCluster, PlacementTags, Replicas, placement_of
from fedbus.cli.observing import (
    LogFile,
    LogFormat,
    MetricsListen,
    MetricsPort,
    SpansFile,
    SpansTo,
    TraceClients,
    TraceRounds,
    observe,
)
from fedbus.cli.running import run

DONE = 0
PORT = 4222
HTTP_PORT = 8080


def up(
    ctx: typer.Context,
    *,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="DIR", help="Journals, models, spools; made when it is not there.")
    ] = Path("fedbus-data"),
    combiners: Annotated[int, typer.Option("--combiners", min=1, max=64, help="How many.")] = 1,
    coordinators: Annotated[
        int, typer.Option("--coordinators", min=1, max=9, help="One leads, the others take over when it is gone.")
    ] = 1,
    nats_port: Annotated[
        int,
        typer.Option("--nats-port", min=0, max=65535, help="Of the embedded broker, on 127.0.0.1; 0 takes a free one."),
    ] = PORT,
    nats: Annotated[
        str | None,
        typer.Option(
            "--nats",
            metavar="URL",
            help="Use this broker in place of an embedded one; of a cluster all addresses, with commas.",
            show_default=False,
            callback=by_way,
        ),
    ] = None,
    brokers: Annotated[
        int, typer.Option("--brokers", min=1, max=5, help="Embedded ones: 1, or 3 or 5 as a cluster.")
    ] = 1,
    replicas: Replicas = 0,
    placement_cluster: PlacementCluster = "",
    placement_tags: PlacementTags = "",
    http_port: Annotated[
        int,
        typer.Option("--http-port", min=0, max=65535, help="Of the gateway and its page, on 127.0.0.1; 0 a free one."),
    ] = HTTP_PORT,
    gateways: Annotated[
        int, typer.Option("--gateways", min=1, max=9, help="How many, on that port and those after it.")
    ] = 1,
    allow_host: AllowHost = None,
    cors_origin: CorsOrigin = None,
    jaeger_url: JaegerUrl = "",
    store: Store = None,
    trace_rounds: TraceRounds = 10.0,
    trace_clients: TraceClients = 200,
    no_http: Annotated[bool, typer.Option("--no-http", help="No gateway: neither REST nor a page.")] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", metavar="FILE", help="Written when all is ready: JSON with addresses and pids."),
    ] = None,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes/--in-process", help="A process for each role, started again when it ends; or one for all."
        ),
    ] = True,
    workspace: Workspace = "default",
    keys: Keys = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt: with --tls-cert, else by an authority made in the data directory.")
    ] = False,
    tls_cert: HttpsCert = None,
    tls_key: HttpsKey = None,
    public_host: Annotated[
        list[str] | None,
        typer.Option("--public-host", metavar="NAME", help="Under which others reach this machine; repeatable."),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST", help="Where broker and gateways listen; others than this: --tls.")
    ] = "127.0.0.1",
    wss_port: Annotated[
        int, typer.Option("--wss-port", min=0, max=65535, help="The broker over websockets, as 443; 0: not.")
    ] = 0,
    client_certs: Annotated[
        bool,
        typer.Option("--client-certs", help="Clients show a certificate of ours, too: `fedbus certs client` makes it."),
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Nobody is asked who he is: whoever reaches the broker may do everything.")
    ] = False,
    credentials: Credentials = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    spans: SpansTo = "bus",
    spans_file: SpansFile = None,
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = "127.0.0.1",
) -> None:
    """Run broker, coordinator, combiners and a gateway with its page until Ctrl-C."""
    from fedbus.cli.encrypting import encryption
    from fedbus.cli.providers import in_environment
    from fedbus.cli.roles import Place
    from fedbus.cli.up import Up
    from fedbus.coordinator.rounds import Sampling
    from fedbus.gateway.listening import Listening

    observing = observe(
        "up", "up", workspace, log_level, log_format, log_file, spans, spans_file, metrics_port, metrics_listen
    )
    if nats is not None and (tls or tls_cert is not None or wss_port or client_certs):
        raise typer.BadParameter(
            "--tls, --wss-port, --client-certs are of an embedded broker; one of --nats has its own"
        )
    if open_ and listen != "127.0.0.1":
        raise typer.BadParameter("--open lets everybody do everything, --listen lets others reach it: not both")
    if open_ and keys is not None:
        raise typer.BadParameter("--open has no keys, --keys is not open")
    if not open_ and keys is None and nats is None:
        keys = data_dir / "keys"
    place = Place(nats or "", workspace, credentials, store, observing)
    signing_in = in_environment()
    listening = Listening(
        hosts=tuple(allow_host or ()),
        cors_origins=tuple(cors_origin or ()),
        jaeger_url=jaeger_url,
        public_url=signing_in.public_url,
        sign_in_s=signing_in.sign_in_s,
        idle_s=signing_in.idle_s,
        ask_again_s=signing_in.ask_again_s,
    )
    side = Up(
        place,
        data_dir,
        keys=keys,
        encryption=encryption(
            data_dir,
            tls=tls,
            certificate=tls_cert,
            key=tls_key,
            ca=way_of(ctx).ca,
            hosts=public_host or (),
            listen=listen,
            wss_port=wss_port,
            client_certs=client_certs,
        ),
        combiners=combiners,
        coordinators=coordinators,
        port=nats_port,
        brokers=brokers,
        replicas=replicas,
        placement=placement_of(placement_cluster, placement_tags),
        gateways=0 if no_http else gateways,
        http_port=http_port,
        listening=listening,
        oidc=signing_in.oidc,
        sampling=Sampling(trace_rounds, trace_clients),
        ready_file=ready_file,
        log_level=log_level,
    )
    run(side.run(processes=processes), terminated=DONE)
