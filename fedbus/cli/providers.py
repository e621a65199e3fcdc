"""Options of a gateway whose people sign in with an OIDC provider, and of one behind a proxy; also as FEDBUS_OIDC_*."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from fedbus.errors import ConfigError
from fedbus.messages.access import PersonRole

if TYPE_CHECKING:
    from fedbus.gateway.oidc import OidcSettings

SECRET_BYTES_MAX = 4096
"""Of a client's secret: providers give some 40."""

PublicUrl = Annotated[
    str,
    typer.Option(
        "--public-url",
        envvar="FEDBUS_PUBLIC_URL",
        metavar="URL",
        help="Where browsers find it behind a proxy that ends TLS.",
        show_default=False,
    ),
]
OidcIssuer = Annotated[
    str,
    typer.Option(
        "--oidc-issuer",
        envvar="FEDBUS_OIDC_ISSUER",
        metavar="URL",
        help="A provider that people may sign in with.",
        show_default=False,
    ),
]
OidcClientId = Annotated[
    str,
    typer.Option(
        "--oidc-client-id",
        envvar="FEDBUS_OIDC_CLIENT_ID",
        metavar="ID",
        help="Who the gateway is for that provider.",
        show_default=False,
    ),
]
OidcClientSecretFile = Annotated[
    Path | None,
    typer.Option(
        "--oidc-client-secret-file",
        envvar="FEDBUS_OIDC_CLIENT_SECRET_FILE",
        metavar="FILE",
        help="With what it proves that.",
        show_default=False,
    ),
]
OidcRolesClaim = Annotated[
    str,
    typer.Option(
        "--oidc-roles-claim",
        envvar="FEDBUS_OIDC_ROLES_CLAIM",
        metavar="CLAIM",
        help="Where somebody's groups stand, such as realm_access.roles.",
        show_default=False,
    ),
]
OidcRoleMap = Annotated[
    list[str] | None,
    typer.Option("--oidc-role-map", metavar="GROUP=ROLE", help="What a group is here; repeatable.", show_default=False),
]
OidcTitle = Annotated[
    str,
    typer.Option(
        "--oidc-title",
        envvar="FEDBUS_OIDC_TITLE",
        metavar="TEXT",
        help="What the button says; default: the provider's host.",
        show_default=False,
    ),
]


def oidc_of(
    issuer: str, client_id: str, secret_file: Path | None, roles_claim: str, role_map: Iterable[str], title: str
) -> OidcSettings | None:
    """Return the provider that options name; None where they name none. `ConfigError` for one that cannot be."""
    from fedbus.gateway.oidc import OidcSettings  # here: a client's machine need not have aiohttp

    pairs = tuple(role_map)
    if not issuer:
        if client_id or secret_file or roles_claim or pairs or title:
            raise ConfigError("--oidc-issuer: expected the provider that the other --oidc options are of")
        return None
    return OidcSettings(
        issuer, client_id, _secret_in(secret_file), roles_claim, dict(_pair(one) for one in pairs), title
    )


def _pair(text: str) -> tuple[str, PersonRole]:
    group, mark, role = text.rpartition("=")
    if not mark or not group or role not in get_args(PersonRole):
        roles = ", ".join(get_args(PersonRole))
        raise ConfigError(f"--oidc-role-map: expected GROUP=ROLE with one of {roles}, got {text!r}")
    return group, cast("PersonRole", role)


def _secret_in(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        with file.open("rb") as opened:
            secret = opened.read(SECRET_BYTES_MAX + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--oidc-client-secret-file: {str(file)!r} cannot be read: {error}") from error
    if not secret or len(secret) > SECRET_BYTES_MAX:
        raise ConfigError(f"--oidc-client-secret-file: {str(file)!r} has no secret in it")
    return secret
