"""Options of how people sign in at a gateway: for how long, with which provider, behind which proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from fedbus.cli.moments import seconds_of
from fedbus.errors import ConfigError

if TYPE_CHECKING:
    from fedbus.gateway.oidc import OidcSettings
    from fedbus.messages.access import PersonRole

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
OidcAcr = Annotated[
    list[str] | None,
    typer.Option(
        "--oidc-acr",
        envvar="FEDBUS_OIDC_ACR",
        metavar="VALUE",
        help="An acr that says that somebody has shown a second factor; asked for; repeatable.",
        show_default=False,
    ),
]
OidcAmr = Annotated[
    list[str] | None,
    typer.Option(
        "--oidc-amr",
        envvar="FEDBUS_OIDC_AMR",
        metavar="VALUE",
        help="A method in amr that says so, such as mfa; repeatable.",
        show_default=False,
    ),
]
SecondFactor = Annotated[
    list[str] | None,
    typer.Option(
        "--second-factor",
        envvar="FEDBUS_SECOND_FACTOR",
        metavar="ROLE",
        help="Who needs one, and cannot come otherwise; repeatable. Default: all who come by the provider.",
        show_default=False,
    ),
]
SignInMax = Annotated[
    float,
    typer.Option(
        "--sign-in-max",
        envvar="FEDBUS_SIGN_IN_MAX",
        metavar="TIME",
        parser=seconds_of,
        help="How long a sign-in lasts.",
    ),
]
SignInIdle = Annotated[
    float,
    typer.Option(
        "--sign-in-idle",
        envvar="FEDBUS_SIGN_IN_IDLE",
        metavar="TIME",
        parser=seconds_of,
        help="How long without anything done on the page.",
    ),
]
AskAgain = Annotated[
    float,
    typer.Option(
        "--ask-again",
        envvar="FEDBUS_ASK_AGAIN",
        metavar="TIME",
        parser=seconds_of,
        help="After how long it asks anew before what lets others in or shuts them out.",
    ),
]


@dataclass(frozen=True, slots=True)
class SigningIn:
    """How people sign in at gateways, as the environment says; ``oidc`` gives the provider, where there is one."""

    public_url: str
    sign_in_s: float
    idle_s: float
    ask_again_s: float
    oidc: Callable[[], OidcSettings | None]


def in_environment() -> SigningIn:
    """Return what `fedbus gateway` reads in the environment, for gateways that have no command line of their own.

    Raises what reading a command line raises, with the variable's name.
    """
    found: list[SigningIn] = []
    reader = typer.Typer(add_completion=False)

    @reader.command()
    def read(
        *,
        public_url: PublicUrl = "",
        issuer: OidcIssuer = "",
        client_id: OidcClientId = "",
        secret_file: OidcClientSecretFile = None,
        roles_claim: OidcRolesClaim = "",
        title: OidcTitle = "",
        acr: OidcAcr = None,
        amr: OidcAmr = None,
        factor: SecondFactor = None,
        sign_in_max: SignInMax = "8h",  # type: ignore[assignment]  # typer parses defaults too
        sign_in_idle: SignInIdle = "2h",  # type: ignore[assignment]
        ask_again: AskAgain = "15m",  # type: ignore[assignment]
    ) -> None:
        factors = (acr or (), amr or (), factor or ())
        oidc = partial(oidc_of, issuer, client_id, secret_file, roles_claim, (), title, *factors)
        found.append(SigningIn(public_url, sign_in_max, sign_in_idle, ask_again, oidc))

    reader([], standalone_mode=False)
    return found[0]


def oidc_of(  # noqa: PLR0917 - one for each option, in their order
    issuer: str,
    client_id: str,
    secret_file: Path | None,
    roles_claim: str,
    role_map: Iterable[str],
    title: str,
    acr: Iterable[str] = (),
    amr: Iterable[str] = (),
    factor: Iterable[str] = (),
) -> OidcSettings | None:
    """Return the provider that options name; None where they name none. `ConfigError` for one that cannot be."""
    from fedbus.gateway.oidc import OidcSettings  # here: a client's machine need not have aiohttp

    pairs, factors, roles = tuple(role_map), (tuple(acr), tuple(amr)), tuple(factor)
    if not issuer:
        if client_id or secret_file or roles_claim or pairs or title or any(factors) or roles:
            raise ConfigError("--oidc-issuer: expected the provider that the other --oidc options are of")
        return None
    return OidcSettings(
        issuer,
        client_id,
        _secret_in(secret_file),
        roles_claim,
        dict(_pair(one) for one in pairs),
        title,
        *factors,
        tuple(_role("--second-factor", one) for one in roles),
    )


def _role(option: str, text: str) -> PersonRole:
    if text not in _roles():
        raise ConfigError(f"{option}: expected one of {', '.join(_roles())}, got {text!r}")
    return cast("PersonRole", text)


def _pair(text: str) -> tuple[str, PersonRole]:
    group, mark, role = text.rpartition("=")
    if not mark or not group or role not in _roles():
        roles = ", ".join(_roles())
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


def _roles() -> tuple[str, ...]:
    """The roles of people; imported when somebody names one, for with them comes pydantic: half of a start."""
    from fedbus.messages.access import PersonRole

    return get_args(PersonRole)
