"""`fedbus person add|list|set|remove`: who may use the gateways, and as what."""

from __future__ import annotations

from typing import Annotated

import typer

from fedbus.cli.environment import URL, Credentials, Json, Nats, Workspace
from fedbus.cli.running import run

app = typer.Typer(help="Decide which people may do what at a gateway.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The person's name, such as an address of hers.")]
Roles = Annotated[
    list[str],
    typer.Option("--role", metavar="ROLE", help="admin, engineer, data-owner, viewer or auditor; repeatable."),
]
Subjects = Annotated[
    list[str] | None,
    typer.Option(
        "--login",
        metavar="ISSUER#SUB",
        help="Who an OIDC provider says she is; repeatable.",
        show_default=False,
    ),
]


@app.command("add")
def add(
    name: Name,
    *,
    role: Roles,
    login: Subjects = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Make a person known; `fedbus token create --api --name NAME` gives her something to log in with."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.add_person(Place(nats, workspace, credentials), name, role, login or [], json=json))


@app.command("list")
def list_people(
    nats: Nats = URL, workspace: Workspace = "default", credentials: Credentials = None, json: Json = False
) -> None:
    """List people, with their roles."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.list_people(Place(nats, workspace, credentials), json=json))


@app.command("set")
def set_person(
    name: Name,
    *,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="ROLE", help="Her roles from now on; repeatable.", show_default=False),
    ] = None,
    login: Subjects = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="active or suspended.", show_default=False)
    ] = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Change a person's roles, logins or state."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.set_person(Place(nats, workspace, credentials), name, role, login, state, json=json))


@app.command("remove")
def remove(
    name: Name,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Let a person in no more; her tokens end with it."""
    from fedbus.cli import admitting
    from fedbus.cli.roles import Place

    run(admitting.remove_person(Place(nats, workspace, credentials), name, json=json))
