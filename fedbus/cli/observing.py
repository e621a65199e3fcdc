"""What a role of the command line tells about itself: its log, its spans, its numbers; options that all roles have.

A process that starts others (`fedbus up`) hands the same on, with files and ports of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedbus.cli.environment import environ, setup_log
from fedbus.errors import ConfigError
from fedbus.telemetry import Wanted

LogFormat = Annotated[
    str,
    typer.Option("--log-format", metavar="FORM", envvar="FEDBUS_LOG_FORMAT", help="text, or json: an object a line."),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file", metavar="FILE", dir_okay=False, show_default=False, help="Log there, rotated, not to stderr."
    ),
]
SpansTo = Annotated[
    str,
    typer.Option(
        "--spans", metavar="WHERE", envvar="FEDBUS_SPANS", help="bus: spans of rounds can be looked at; none: not."
    ),
]
SpansFile = Annotated[
    Path | None,
    typer.Option(
        "--spans-file",
        metavar="FILE",
        dir_okay=False,
        show_default=False,
        help="Append spans there, as OTLP JSON lines.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        min=0,
        max=65535,
        show_default=False,
        help="Answer Prometheus there; 0 takes a free one and says which.",
    ),
]
MetricsListen = Annotated[str, typer.Option("--metrics-listen", metavar="HOST", help="Where --metrics-port listens.")]

TraceRounds = Annotated[
    float, typer.Option("--trace-rounds", metavar="N", min=0, help="Rounds a second that are traced at most.")
]
TraceClients = Annotated[
    int, typer.Option("--trace-clients", metavar="N", min=0, help="Clients of a round that are traced, about.")
]

LOG_FORMATS = ("text", "json")
SPANS = ("bus", "none")


@dataclass(frozen=True, slots=True)
class Observing:
    """What is told, and where; as `fedbus.telemetry.Wanted`, and the log."""

    spans_on_bus: bool = True
    spans_file: Path | None = None
    metrics_port: int | None = None
    metrics_listen: str = "127.0.0.1"
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None

    def wanted(self, workspace: str, *, scrape: bool = False) -> Wanted:
        """Return what a role's telemetry is asked for."""
        return Wanted(
            workspace=workspace,
            spans_on_bus=self.spans_on_bus,
            spans_file=self.spans_file,
            metrics_port=self.metrics_port,
            metrics_listen=self.metrics_listen,
            scrape=scrape,
        )

    def of(self, name: str, index: int) -> Observing:
        """Return what one of several roles is to do: with files of its own, and the ``index``-th port."""
        port = self.metrics_port
        return replace(
            self,
            spans_file=_beside(self.spans_file, name),
            log_file=_beside(self.log_file, name),
            metrics_port=port + index if port else port,
        )

    def arguments(self) -> list[str]:
        """Return the options that ask for it."""
        found = ["--log-level", self.log_level, "--log-format", self.log_format]
        found += ["--spans", "bus" if self.spans_on_bus else "none"]
        if self.log_file is not None:
            found += ["--log-file", str(self.log_file)]
        if self.spans_file is not None:
            found += ["--spans-file", str(self.spans_file)]
        if self.metrics_port is not None:
            found += ["--metrics-port", str(self.metrics_port), "--metrics-listen", self.metrics_listen]
        return found


def _beside(file: Path | None, name: str) -> Path | None:
    return None if file is None else file.with_name(f"{file.stem}.{name}{file.suffix}")


def default() -> Observing:
    """Return what is told where nobody was asked: benches, the demo, clients of a simulation."""
    return Observing(spans_on_bus=_spans(environ().get("FEDBUS_SPANS", "bus")))


def _spans(where: str) -> bool:
    if where not in SPANS:
        raise ConfigError(f"--spans: expected {' or '.join(SPANS)}, got {where!r}")
    return where == "bus"


def observe(  # noqa: PLR0917 - one argument an option, in the order in which they are shown
    role: str,
    name: str,
    workspace: str,
    log_level: str,
    log_format: str,
    log_file: Path | None,
    spans: str = "bus",
    spans_file: Path | None = None,
    metrics_port: int | None = None,
    metrics_listen: str = "127.0.0.1",
) -> Observing:
    """Set the log up, and return what was asked for; `ConfigError` for what there is not."""
    if log_format not in LOG_FORMATS:
        raise ConfigError(f"--log-format: expected {' or '.join(LOG_FORMATS)}, got {log_format!r}")
    form: Literal["text", "json"] = "json" if log_format == "json" else "text"
    setup_log(log_level, name, role=role, workspace=workspace, form=form, file=log_file)
    return Observing(_spans(spans), spans_file, metrics_port, metrics_listen, log_level, form, log_file)
