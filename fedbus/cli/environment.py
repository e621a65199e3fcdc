"""The environment, and what all commands take from it: the one place in fedbus that reads it."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from fedbus.errors import ConfigError

URL = "nats://127.0.0.1:4222"

Nats = Annotated[
    str,
    typer.Option("--nats", envvar="FEDBUS_URL", metavar="URL", help="The broker; several addresses with commas."),
]
Credentials = Annotated[
    str | None,
    typer.Option("--credentials", envvar="FEDBUS_CREDENTIALS", metavar="FILE", help="NATS credentials (.creds)."),
]
Workspace = Annotated[
    str,
    typer.Option("--workspace", envvar="FEDBUS_WORKSPACE", metavar="NAME", help="Federations of one broker are apart."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
LogLevel = Annotated[
    str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error: what goes to stderr.")
]


def environ() -> Mapping[str, str]:
    """Return the environment, for telemetry and for child processes."""
    return os.environ


def host_name() -> str:
    """Return the machine's name, or the container's, without its domain, as a name of a role."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64]
    if not name:
        raise ConfigError("this machine has no name; give one: --name NAME")
    return name


def setup_log(level: str, who: str) -> None:
    """Write log lines for people on stderr; ``who`` stands on every line."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"--log-level: expected debug, info, warning or error, got {level!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(f"%(asctime)s {who:12s} %(level)s%(message)s", "%H:%M:%S"))
    logging.basicConfig(level=number, handlers=[handler], force=True)


class _Lines(logging.Formatter):
    """A line says its level only when it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        record.level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)
