"""The environment, and what all commands take from it: the one place in fedbus that reads it."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from fedbus.errors import ConfigError
from fedbus.telemetry.logs import LogForm, handler_of

URL = "nats://127.0.0.1:4222"


@dataclass(frozen=True, slots=True)
class Way:
    """What stands before a command about how brokers are reached: files for TLS, and a proxy with who signed its."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None
    proxy_ca: Path | None = None


def choose_way(ctx: typer.Context, way: Way) -> None:
    """Have brokers' addresses (`Nats`) name these files, and this proxy."""
    files = {name: getattr(way, name) for name in ("ca", "certificate", "key", "proxy_ca")}
    ctx.obj = replace(way, **{name: path.resolve() for name, path in files.items() if path is not None})


def way_of(ctx: typer.Context) -> Way:
    """Return what was said before the command."""
    way = ctx.find_root().obj
    return way if isinstance(way, Way) else Way()


def by_way(ctx: typer.Context, url: str | None) -> str | None:
    """Return a broker's URL whose addresses name the files and the proxy that they are to be reached by."""
    if not url:
        return url
    way = way_of(ctx)
    from fedbus.bus.tls import SECURE_SCHEMES, TlsFiles, scheme_of, with_files  # here: `fedbus --help` is quick
    from fedbus.cli.proxying import proxied

    files = TlsFiles(way.ca, way.certificate, way.key)
    if files and any(scheme_of(part.strip()) not in SECURE_SCHEMES for part in url.split(",")):
        raise ConfigError("--ca and --tls-cert (FEDBUS_CA, ...) are for TLS, the address is not: write tls://")
    return proxied(with_files(url, files), way.proxy, way.proxy_ca, environ())


TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--ca", envvar="FEDBUS_CA", metavar="FILE", help="Who signed the broker's certificate.", show_default=False
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="FEDBUS_TLS_CERT",
        metavar="FILE",
        help="A certificate of ours, where the broker asks.",
        show_default=False,
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option("--tls-key", envvar="FEDBUS_TLS_KEY", metavar="FILE", help="Its key.", show_default=False),
]
HttpProxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        envvar="FEDBUS_PROXY",
        metavar="URL",
        help="The HTTP proxy to the broker, as http://HOST:3128; none: not even that of HTTPS_PROXY.",
        show_default=False,
    ),
]
ProxyCa = Annotated[
    Path | None,
    typer.Option(
        "--proxy-ca",
        envvar="FEDBUS_PROXY_CA",
        metavar="FILE",
        help="Who signed the certificate of a proxy of https://.",
        show_default=False,
    ),
]
Nats = Annotated[
    str,
    typer.Option(
        "--nats",
        envvar="FEDBUS_URL",
        metavar="URL",
        help="The broker; several addresses with commas.",
        callback=by_way,
    ),
]
Credentials = Annotated[
    str | None,
    typer.Option("--credentials", envvar="FEDBUS_CREDENTIALS", metavar="FILE", help="NATS credentials (.creds)."),
]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        envvar="FEDBUS_KEYS",
        metavar="DIR",
        help="The workspace's keys: who has them says who takes part.",
        show_default=False,
    ),
]
Workspace = Annotated[
    str,
    typer.Option("--workspace", envvar="FEDBUS_WORKSPACE", metavar="NAME", help="Federations of one broker are apart."),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="FEDBUS_STORE",
        metavar="URL",
        help="The store behind the bus: file:///DIR, s3://BUCKET/PREFIX, ...",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
LogLevel = Annotated[
    str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error: what goes to stderr.")
]


def environ() -> Mapping[str, str]:
    """Return the environment, for telemetry and for child processes."""
    return os.environ


def choose_home() -> None:
    """Have what is known of brokers looked up where ``FEDBUS_HOME`` says, if it says anything."""
    home = os.environ.get("FEDBUS_HOME")
    if home:
        from fedbus.access import known  # here: `fedbus --help` is quick

        known.use_home(Path(home))


def host_name() -> str:
    """Return the machine's name, or the container's, without its domain, as a name of a role."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64]
    if not name:
        raise ConfigError("this machine has no name; give one: --name NAME")
    return name


def setup_log(
    level: str,
    who: str,
    *,
    role: str = "",
    workspace: str = "",
    form: LogForm = "text",
    file: Path | None = None,
) -> None:
    """Write log lines to stderr, or to a file; ``who`` stands on every line."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"--log-level: expected debug, info, warning or error, got {level!r}")
    handler = handler_of(form, role=role, instance=who, workspace=workspace, file=file, stream=sys.stderr)
    logging.basicConfig(level=number, handlers=[handler], force=True)
