"""`fedbus member list|show|approve|suspend|resume|expel`, and `renew` and `rotate` for one's own identity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Keys, Nats, Workspace
from fedbus.cli.running import run

if TYPE_CHECKING:
    from fedbus.messages.ids import Peer

app = typer.Typer(help="Decide who takes part.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The member's name; or ROLE/NAME.")]
Role = Annotated[str, typer.Option("--role", metavar="ROLE", help="The member's role at the broker.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="The member and the audit are told.")]


@app.command("list")
def list_members(
    *,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Only of this role.", show_default=False)] = "",
    state: Annotated[
        str,
        typer.Option(
            "--state", metavar="STATE", help="Only waiting, active, suspended or expelled ones.", show_default=False
        ),
    ] = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """List who has an identity at the broker, and in which state."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.list_members(Place(nats, workspace, credentials), role, state, json=json))


@app.command("show")
def show(
    name: Name,
    role: Role = "client",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Show a member: its key, its state, who has decided so, until when it lasts."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.show_member(Place(nats, workspace, credentials), _peer(role, name), json=json))


@app.command("approve")
def approve(
    name: Name,
    role: Role = "client",
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Let in who waits; to refuse it: `fedbus member expel`."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.decide(Place(nats, workspace, credentials), "approve", _peer(role, name), reason, json=json))


@app.command("suspend")
def suspend(
    name: Name,
    role: Role = "client",
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Shut a member out until it is resumed: its connections are cut at once."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.decide(Place(nats, workspace, credentials), "suspend", _peer(role, name), reason, json=json))


@app.command("resume")
def resume(
    name: Name,
    role: Role = "client",
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Let a suspended member back in, with the credentials that it has."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.decide(Place(nats, workspace, credentials), "resume", _peer(role, name), reason, json=json))


@app.command("expel")
def expel(
    name: Name,
    role: Role = "client",
    reason: Reason = "",
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Shut a member out for good; its name may be taken again, with another token and another key."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.decide(Place(nats, workspace, credentials), "expel", _peer(role, name), reason, json=json))


@app.command("issue")
def issue(
    name: Name,
    *,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Its role at the broker.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where its credentials are written (0600).")],
    url: Annotated[
        list[str] | None,
        typer.Option("--url", metavar="URL", help="Where it reaches the broker; repeatable.", show_default=False),
    ] = None,
    workspace: Workspace = "default",
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Make credentials with the workspace's keys, without a token: for roles that are started beside them."""
    from fedbus.cli import keyed

    run(keyed.issue(keys, workspace, role, name, tuple(url or ()), out, json=json))


@app.command("renew")
def renew(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Renew one's own credentials now; a client that runs does so by itself before they end."""
    from fedbus.cli import joining
    from fedbus.cli.roles import Place

    run(joining.renew(Place(nats, workspace, credentials), rotate=False, json=json))


@app.command("rotate")
def rotate(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """Replace one's own key by a new one: a client that runs goes on with it, the old key ends."""
    from fedbus.cli import joining
    from fedbus.cli.roles import Place

    run(joining.renew(Place(nats, workspace, credentials), rotate=True, json=json))


def _peer(role: str, name: str) -> Peer:
    """Return the member that is meant: ``NAME`` with its ``--role``, or ``ROLE/NAME``."""
    from fedbus.messages.ids import Peer, check_name

    said, slash, rest = name.partition("/")
    return Peer(said, check_name("name", rest)) if slash else Peer(role, check_name("name", name))
