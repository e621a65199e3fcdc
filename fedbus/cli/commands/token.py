"""`fedbus token create|list|revoke`: what lets machines join, and people use a gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.moments import seconds_of
from fedbus.cli.running import run
from fedbus.errors import ConfigError

app = typer.Typer(help="Hand out tokens: to join with, or to use a gateway.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="For those who ask later.")]


@app.command("create")
def create(
    *,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="What it makes of whoever has it; of --api a person's role.")
    ] = "client",
    api: Annotated[bool, typer.Option("--api", help="A bearer for a gateway, not a token to join with.")] = False,
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="For this name alone; of --api: whose it is.", show_default=False),
    ] = "",
    expires: Annotated[
        float | None,
        typer.Option("--expires", metavar="TIME", parser=seconds_of, help="Such as 30m, 12h, 7d; 0: without an end."),
    ] = None,
    uses: Annotated[int, typer.Option("--uses", min=0, max=10_000, help="Machines it lets in; 0: any number.")] = 1,
    approval: Annotated[
        str | None,
        typer.Option(
            "--approval",
            metavar="HOW",
            help="auto, or ask: a person approves each. Default: the workspace's.",
            show_default=False,
        ),
    ] = None,
    owner: Annotated[
        str, typer.Option("--owner", metavar="PERSON", help="Whose clients they are at a gateway.", show_default=False)
    ] = "",
    url: Annotated[
        list[str] | None,
        typer.Option("--url", metavar="URL", help="Where machines reach the broker; repeatable.", show_default=False),
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Make a token and print it, this once: `fedbus join TOKEN` to run elsewhere, or with --api the bearer."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    place = Place(nats, workspace, credentials)
    if api:
        if url or owner or approval is not None:
            raise ConfigError("--url, --owner and --approval are of tokens to join with, not of --api")
        run(admitting.create_api_token(place, role, name, expires or 0.0, json=json))
        return
    if approval not in (None, "auto", "ask"):
        raise ConfigError(f"--approval: expected auto or ask, got {approval!r}")
    wanted = admitting.Wanted(
        role,
        name,
        3600.0 if expires is None else expires,
        uses,
        approval,  # type: ignore[arg-type]  # looked at above
        owner,
        tuple(url or ()),
    )
    run(admitting.create_token(place, wanted, json=json))


@app.command("list")
def list_tokens(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """List tokens: for whom, how they stand, how often they were used; never their secrets."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.list_tokens(Place(nats, workspace, credentials), json=json))


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as `fedbus token list` shows it.")],
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Let nobody in by a token any more; who has come in by it stays."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.revoke_token(Place(nats, workspace, credentials), token, reason, json=json))
