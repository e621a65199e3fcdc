"""`fedbus certs init`, `server`, `client`, `show`: a certificate authority for development and private networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedbus.cli.environment import Json
from fedbus.errors import ConfigError

if TYPE_CHECKING:
    from fedbus.access.certs import Certs

app = typer.Typer(help="Certificates for TLS, of an authority of one's own: for development.", no_args_is_help=True)

Dir = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Where the authority and what it signed stand.", show_default=True)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the files are called: NAME.pem, NAME-key.pem.")]
HERE = Path("certs")


def _certs(directory: Path) -> Certs:
    try:
        from fedbus.access.certs import Certs
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "cryptography":
            raise
        raise ConfigError("certificates need cryptography, which is missing: pip install 'fedbus[server]'") from error
    return Certs(directory)


@app.command("init")
def init(
    *,
    directory: Dir = HERE,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Who it says it is.")] = "fedbus development CA",
    days: Annotated[int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")] = 3650,
) -> None:
    """Make an authority: ca.pem, which everybody has to trust, and ca-key.pem, which nobody else may have."""
    path = _certs(directory).init(name, days)
    print(f"{path}  for everybody: --ca {path}, FEDBUS_CA, or in their credentials")
    print(f"next:  fedbus certs server broker --host HOST --dir {directory}")


@app.command("server")
def server(
    name: Name,
    *,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="A name or address under which it is reached; repeatable."),
    ] = None,
    local: Annotated[bool, typer.Option("--local/--no-local", help="Also as localhost, 127.0.0.1 and ::1.")] = True,
    days: Annotated[int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")] = 365,
    directory: Dir = HERE,
) -> None:
    """Make the certificate of a broker, of a node of a cluster, or of a gateway."""
    certs = _certs(directory)
    path, key = certs.server(name, host or (), days, local=local), certs.files(name)[1]
    print(f"{path}  {key}")
    print(f"next:  fedbus gateway --tls-cert {path} --tls-key {key}")
    print(f"       fedbus broker settings --tls-cert {path} --tls-key {key} ...")


@app.command("client")
def client(
    name: Name,
    *,
    days: Annotated[int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")] = 365,
    directory: Dir = HERE,
) -> None:
    """Make the certificate of a client, for brokers that ask for one (mTLS)."""
    certs = _certs(directory)
    path, key = certs.client(name, days), certs.files(name)[1]
    print(f"{path}  {key}")
    print(f"next:  fedbus --ca {certs.ca} --tls-cert {path} --tls-key {key} client run --nats tls://HOST ...")


@app.command("show")
def show(*, directory: Dir = HERE, json: Json = False) -> None:
    """List the certificates in a directory: whose, for which names, until when."""
    from fedbus.cli.output import print_json, print_table

    found = _certs(directory).show()
    if json:
        fields = ("file", "subject", "issuer", "kind", "names", "fingerprint")
        ends = [{"begins_at": one.begins.timestamp(), "ends_at": one.ends.timestamp()} for one in found]
        told = [{field: getattr(one, field) for field in fields} for one in found]
        print_json([{**one, **when} for one, when in zip(told, ends, strict=True)])
        return
    rows = [[one.file, one.kind, ", ".join(one.names), f"{one.ends:%Y-%m-%d}", one.fingerprint[:16]] for one in found]
    print_table(["FILE", "KIND", "NAMES", "UNTIL", "SHA-256"], rows, empty=f"no certificates in {directory}")
