"""`fedbus model list|show|download`, and what is done with a version: import, promote, roll back, note, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbus.cli import completing
from fedbus.cli.environment import URL, Credentials, Json, Nats, Store, Workspace
from fedbus.cli.running import run
from fedbus.errors import ConfigError

app = typer.Typer(help="See, fetch, import, promote and remove models.", no_args_is_help=True)

Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="As `fedbus model list` shows it, or @STAGE.", autocompletion=completing.versions
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace-s", min=0, max=86400, metavar="SECONDS", help="Until the arrays go: who reads them may go on."
    ),
]
Stage = Annotated[
    str, typer.Argument(metavar="STAGE", help="Its name, such as production.", autocompletion=completing.stages)
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="For those who ask later.")]


@app.command("list")
def list_models(
    *,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="Those of one session.", show_default=False)
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="STAGE", help="The one that a stage has.", show_default=False)
    ] = None,
    text: Annotated[str, typer.Option("--text", metavar="TEXT", help="Part of a name or note, in any case.")] = "",
    kept: Annotated[
        str | None,
        typer.Option("--kept", metavar="WHERE", help="kept, archived, retired or removed.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Also those whose arrays are removed.")] = False,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """List the published versions, oldest first."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    if kept not in (None, "kept", "archived", "retired", "removed"):
        raise ConfigError(f"--kept: expected kept, archived, retired or removed, got {kept!r}")
    asked = {"session": session or "", "stage": stage or "", "text": text, "kept": kept or ""}
    run(registry.list_models(Place(nats, workspace, credentials, store), asked, every=every, json=json))


@app.command("show")
def show(
    version: Version,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show a version: where it comes from, what was measured, and its arrays."""
    from fedbus.cli.registry import show_model
    from fedbus.cli.roles import Place

    run(show_model(Place(nats, workspace, credentials, store), version, json=json))


@app.command("download")
def download(
    version: Version,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: VERSION.safetensors, here.")
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Fetch a version into a safetensors file; its digest is checked before the file gets its name."""
    from fedbus.cli.listing import download
    from fedbus.cli.roles import Place

    run(download(Place(nats, workspace, credentials, store), version, output, json=json))


@app.command("import")
def import_model(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A .safetensors or .npz file.")
    ],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A new name; those that end in -NUMBER are taken.")],
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What is noted beside it.")] = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Bring a model in as a version, from which sessions can go on."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.import_model(Place(nats, workspace, credentials), file, version, note, json=json))


@app.command("promote")
def promote(
    version: Version,
    stage: Stage,
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Give a stage a version: whoever asks for the stage gets it from now on."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.promote(Place(nats, workspace, credentials, store), version, stage, reason, json=json))


@app.command("rollback")
def rollback(
    stage: Stage,
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Give a stage the version back that it had before."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.rollback(Place(nats, workspace, credentials, store), stage, reason, json=json))


@app.command("verify")
def verify(
    model: Annotated[str, typer.Argument(metavar="VERSION|FILE", help="A version, @STAGE, or a downloaded file.")],
    signature: Annotated[
        str, typer.Option("--signature", metavar="HEX", help="Of a file, in place of the one in it.")
    ] = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Check that a model is what its workspace has published and signed; exit code 1 where it is not."""
    from fedbus.cli.listing import verify_model
    from fedbus.cli.roles import Place

    if not run(verify_model(Place(nats, workspace, credentials, store), model, signature, json=json)):
        raise typer.Exit(1)


@app.command("annotate")
def annotate(
    version: Version,
    note: Annotated[str, typer.Argument(metavar="NOTE", help="In place of what was noted before; '' takes it away.")],
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Note something beside a version."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.annotate(Place(nats, workspace, credentials), version, note, json=json))


@app.command("card")
def card(
    version: Version,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.", show_default=False)
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show a version's card: what it is, how it was made and measured, in Markdown."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.show_card(Place(nats, workspace, credentials), version, output, json=json))


@app.command("lineage")
def lineage(
    version: Version,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show where a version comes from, and what was made of it."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.show_lineage(Place(nats, workspace, credentials), version, json=json))


@app.command("remove")
def remove(
    version: Version,
    reason: Reason = "",
    grace_s: Grace = 600.0,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Remove a version's arrays; refused where a stage or a session needs it."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.remove_model(Place(nats, workspace, credentials), version, reason, grace_s, json=json))


@app.command("collect")
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would go.")] = False,
    grace_s: Grace = 600.0,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Remove versions beyond what is kept (fedbus retention) that nothing needs."""
    from fedbus.cli import registry
    from fedbus.cli.roles import Place

    run(registry.collect(Place(nats, workspace, credentials, store), grace_s, dry_run=dry_run, json=json))
