"""`fedbus model archive`."""

from __future__ import annotations

from fedbus.cli.environment import URL, Credentials, Json, Nats, Store, Workspace
from fedbus.cli.running import run


def archive(
    store: Store = None,
    nats: Nats = URL,
    workspace: Workspace = "default",
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Copy every published version to a store, once; what is there is passed over. `gateway --store` does it always."""
    from fedbus.cli.archiving import archive
    from fedbus.cli.roles import Place

    run(archive(Place(nats, workspace, credentials, store), json=json))
