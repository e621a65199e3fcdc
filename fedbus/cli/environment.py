"""The environment, and what all commands take from it: the one place in fedbus that reads it."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fedbus.errors import ConfigError
from fedbus.telemetry.logs import LogForm, handler_of

URL = "nats://127.0.0.1:4222"


def choose_tls(ctx: typer.Context, ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Have brokers' addresses (`Nats`) name these files."""
    ctx.obj = [None if path is None else path.resolve() for path in (ca, certificate, key)]


def _with_tls(ctx: typer.Context, url: str | None) -> str | None:
    files = ctx.find_root().obj
    if not url or not files or not any(files):
        return url
    from fedbus.bus.tls import SECURE_SCHEMES, TlsFiles, scheme_of, with_files  # here: `fedbus --help` is quick

    for part in url.split(","):
        if scheme_of(part.strip()) not in SECURE_SCHEMES:
            raise ConfigError("--ca and --tls-cert (FEDBUS_CA, ...) are for TLS, the address is not: write tls://")
    return with_files(url, TlsFiles(*files))


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
Nats = Annotated[
    str,
    typer.Option(
        "--nats",
        envvar="FEDBUS_URL",
        metavar="URL",
        help="The broker; several addresses with commas.",
        callback=_with_tls,
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
