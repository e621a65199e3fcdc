"""`fedbus coordinator`, `fedbus combiner` and `fedbus gateway`: one role of the operator's side in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Keys, LogLevel, Nats, Store, Workspace, host_name
from fedbus.cli.gateways import AllowHost, CorsOrigin, HttpsCert, HttpsKey, JaegerUrl, Proxy
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
from fedbus.cli.providers import (
    AskAgain,
    OidcAcr,
    OidcAmr,
    OidcClientId,
    OidcClientSecretFile,
    OidcIssuer,
    OidcRoleMap,
    OidcRolesClaim,
    OidcTitle,
    PublicUrl,
    SecondFactor,
    SignInIdle,
    SignInMax,
    oidc_of,
)
from fedbus.cli.running import run
from fedbus.cli.sizes import size_of

DONE = 0


def coordinator(
    *,
    nats: Nats = URL,
    name: Annotated[str, typer.Option("--name", help="Who it is; of several each has its own.")] = "coordinator",
    replicas: Replicas = 0,
    placement_cluster: PlacementCluster = "",
    placement_tags: PlacementTags = "",
    trace_rounds: TraceRounds = 10.0,
    trace_clients: TraceClients = 200,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    spans: SpansTo = "bus",
    spans_file: SpansFile = None,
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = "127.0.0.1",
) -> None:
    """Run a coordinator: it decides rounds, or stands by for the one that does, and touches no tensor."""
    from fedbus.cli.roles import Place, coordinate
    from fedbus.coordinator.rounds import Sampling

    observing = observe(
        "coordinator", name, workspace, log_level, log_format, log_file, spans, spans_file, metrics_port, metrics_listen
    )
    placement = placement_of(placement_cluster, placement_tags)
    place = Place(nats, workspace, credentials, observing=observing)
    sampling = Sampling(trace_rounds, trace_clients)
    run(coordinate(place, name, replicas=replicas, placement=placement, sampling=sampling), terminated=DONE)


def combiner(
    *,
    name: Annotated[str, typer.Option("--name", help="Who it is; no two combiners of a workspace share a name.")],
    nats: Nats = URL,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", metavar="KEY=VALUE", help="region=eu/north: whose updates it takes; repeatable."),
    ] = None,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help="Where updates of an open round are kept; default: a temporary place."
        ),
    ] = None,
    memory_max: Annotated[
        int,
        typer.Option(
            "--memory-max",
            metavar="SIZE",
            parser=size_of,
            show_default=False,
            help="Memory it may take, such as 2GiB: a model that does not fit is refused.",
        ),
    ] = 0,
    spool_max: Annotated[
        int,
        typer.Option(
            "--spool-max",
            metavar="SIZE",
            parser=size_of,
            show_default=False,
            help="Bytes of updates it keeps on disk: an update for which there is no room is refused.",
        ),
    ] = 0,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    spans: SpansTo = "bus",
    spans_file: SpansFile = None,
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = "127.0.0.1",
) -> None:
    """Run a combiner: it folds updates as they arrive."""
    from fedbus.cli.loading import pairs
    from fedbus.cli.roles import Place, combine

    observing = observe(
        "combiner", name, workspace, log_level, log_format, log_file, spans, spans_file, metrics_port, metrics_listen
    )
    attributes = pairs("--attribute", attribute or [])
    place = Place(nats, workspace, credentials, observing=observing)
    combining = combine(place, name, data_dir, attributes, memory_bytes_max=memory_max, spool_bytes_max=spool_max)
    run(combining, terminated=DONE)


def gateway(
    *,
    nats: Nats = URL,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Who it is; of several each has its own. Default: this machine.", show_default=False
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="HOST", help="Where it listens; without credentials it asks nobody to sign in."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    allow_host: AllowHost = None,
    cors_origin: CorsOrigin = None,
    jaeger_url: JaegerUrl = "",
    tls_cert: HttpsCert = None,
    tls_key: HttpsKey = None,
    public_url: PublicUrl = "",
    proxy: Proxy = None,
    oidc_issuer: OidcIssuer = "",
    oidc_client_id: OidcClientId = "",
    oidc_client_secret_file: OidcClientSecretFile = None,
    oidc_roles_claim: OidcRolesClaim = "",
    oidc_role_map: OidcRoleMap = None,
    oidc_title: OidcTitle = "",
    oidc_acr: OidcAcr = None,
    oidc_amr: OidcAmr = None,
    second_factor: SecondFactor = None,
    sign_in_max: SignInMax = "8h",  # type: ignore[assignment]  # typer parses defaults too
    sign_in_idle: SignInIdle = "2h",  # type: ignore[assignment]
    ask_again: AskAgain = "15m",  # type: ignore[assignment]
    body_max: Annotated[
        int,
        typer.Option(
            "--body-max", metavar="SIZE", parser=size_of, help="Largest JSON that it takes; models have no limit."
        ),
    ] = 2**20,
    rate: Annotated[
        float, typer.Option("--rate", min=0, help="Requests a second that one address may make; 0: any number.")
    ] = 100.0,
    burst: Annotated[int, typer.Option("--burst", min=1, help="Requests that one address may make at once.")] = 400,
    store: Store = None,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", metavar="FILE", help="Is there, with its URL, while it takes requests."),
    ] = None,
    workspace: Workspace = "default",
    keys: Keys = None,
    credentials: Credentials = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    spans: SpansTo = "bus",
    spans_file: SpansFile = None,
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = "127.0.0.1",
) -> None:
    """Run a gateway: REST, live events and the page, for browsers and programs."""
    from fedbus.cli.roles import Place, serve
    from fedbus.gateway.listening import Listening

    name = host_name() if name is None else name
    observing = observe(
        "gateway", name, workspace, log_level, log_format, log_file, spans, spans_file, metrics_port, metrics_listen
    )
    listening = Listening(
        host=listen,
        port=port,
        hosts=tuple(allow_host or ()),
        cors_origins=tuple(cors_origin or ()),
        jaeger_url=jaeger_url,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        public_url=public_url,
        proxies=tuple(proxy or ()),
        body_bytes_max=body_max,
        rate_per_s=rate,
        burst=burst,
        sign_in_s=sign_in_max,
        idle_s=sign_in_idle,
        ask_again_s=ask_again,
    )
    place = Place(nats, workspace, credentials, store, observing, keys)
    oidc = partial(
        oidc_of,
        oidc_issuer,
        oidc_client_id,
        oidc_client_secret_file,
        oidc_roles_claim,
        oidc_role_map or (),
        oidc_title,
        oidc_acr or (),
        oidc_amr or (),
        second_factor or (),
    )
    run(serve(place, name, listening, ready_file, oidc), terminated=DONE)
