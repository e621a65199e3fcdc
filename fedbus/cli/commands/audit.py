"""`fedbus audit list|verify|export`: what was done by whom, and whether nothing was taken out of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.moments import moment_of
from fedbus.cli.running import run

app = typer.Typer(help="See what was done by whom, and prove that nothing was taken out of it.", no_args_is_help=True)


def _head(text: str) -> str:
    if text and not re.fullmatch(r"[0-9a-f]{64}", text):
        raise typer.BadParameter(f"expected a digest of 64 hexadecimal digits, got {text!r}")
    return text


Head = Annotated[
    str,
    typer.Option("--head", metavar="DIGEST", callback=_head, help="A head that was noted before: it has to be there."),
]


@app.command("list")
def list_deeds(
    *,
    by: Annotated[str, typer.Option("--by", metavar="WHO", help="Only what this person or role/name did.")] = "",
    action: Annotated[
        str, typer.Option("--action", metavar="NAME", help="Only these, such as member.expel, or member.")
    ] = "",
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="Only what was done to this.")] = "",
    result: Annotated[str, typer.Option("--result", metavar="RESULT", help="Only done, refused or failed.")] = "",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="From 2026-05-01T12:30, or 10m, 2h, 3d ago.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Only what was before.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=100_000, metavar="N", help="At most so many.")] = 50,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """List what was done, the newest first."""
    from fedbus.access.audit import filter_of
    from fedbus.cli import auditing
    from fedbus.cli.roles import Place

    if result not in ("", "done", "refused", "failed"):
        raise typer.BadParameter(f"expected done, refused or failed, got {result!r}", param_hint="--result")
    fits = filter_of(
        by=by,
        action=action,
        target=target,
        result=result,
        since=moment_of(since) if since else 0.0,
        until=moment_of(until) if until else 0.0,
    )
    run(auditing.list_deeds(Place(nats, workspace, credentials), fits, last=last, json=json))


@app.command("verify")
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="An export; without it the audit at the broker.", show_default=False),
    ] = None,
    head: Head = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Check that nothing is missing, changed, moved or put in; exit code 1 where it is."""
    from fedbus.cli import auditing
    from fedbus.cli.roles import Place

    if not run(auditing.verify(Place(nats, workspace, credentials), file, head, json=json)):
        raise typer.Exit(1)


@app.command("export")
def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Without it to standard output.", show_default=False)
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
) -> None:
    """Write all of it as JSON lines, which `fedbus audit verify FILE` verifies without a broker."""
    from fedbus.cli import auditing
    from fedbus.cli.roles import Place

    run(auditing.export(Place(nats, workspace, credentials), file))
