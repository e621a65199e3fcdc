"""The identities of a federation whose parts start by themselves, such as containers: made before any of them runs.

    fedbus keys init --keys KEYS --url nats://broker:4222 --broker access.conf --member coordinator/c-1=FILE ...

It may run at every start: keys that are there are kept, and so are credentials that are still good; what the broker is
told is written anew, with whoever was shut out meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials, write_secret
from fedbus.access.local import is_current
from fedbus.bus.embedded.conf import access_text
from fedbus.cli.output import print_json
from fedbus.errors import ConfigError
from fedbus.messages.access import BUS_ROLES
from fedbus.messages.ids import Peer, check_name


def read_members(texts: Sequence[str]) -> Mapping[Peer, Path]:
    """Return who is to get credentials, and where; written as ``ROLE/NAME=FILE``. `ConfigError` for what is not."""
    found: dict[Peer, Path] = {}
    for text in texts:
        who, equals, file = text.partition("=")
        role, slash, name = who.partition("/")
        if not equals or not slash or not file:
            raise ConfigError(f"expected a member like coordinator/c-1=FILE, got {text!r}")
        if role not in BUS_ROLES:
            raise ConfigError(f"{text!r}: expected one of the roles {', '.join(BUS_ROLES)}, got {role!r}")
        found[Peer(role, check_name("name", name))] = Path(file)
    if len(set(found.values())) < len(texts):
        raise ConfigError("each member has a file of its own, and stands there once")
    return found


def found(
    keys: Path,
    workspace: str,
    members: Mapping[Peer, Path],
    *,
    urls: Sequence[str],
    broker: Path | None,
    store: Path,
    json: bool,
) -> None:
    """Make keys, a workspace, credentials, and what a nats-server that keeps ``store`` is to be told (``broker``)."""
    authority = Authority.open(keys)
    authority.create_workspace(workspace)
    made = []
    for peer, path in members.items():
        if not is_current(path, authority.trust(workspace)):
            issued = authority.issue(workspace, *peer, tuple(urls))
            write_credentials(path, issued)
            authority.note_founder(workspace, issued.jwt)
            made.append(peer.author)
    if broker is not None:
        write_secret(broker, access_text(authority.security(), store))
    if json:
        print_json({"workspace": workspace, "keys": str(keys), "made": made, "broker": str(broker) if broker else None})
        return
    print(f"workspace {workspace}: keys in {keys}; new credentials: {', '.join(made) or 'none, all are good'}")
    if broker is not None:
        print(f"{broker}: for the settings of nats-server, as `include`")
