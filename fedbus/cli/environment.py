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

Nats = Annotated[
    str,
    typer.Option("--nats", envvar="FEDBUS_URL", metavar="URL", help="The broker; several addresses with commas."),
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
