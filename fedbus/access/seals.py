"""Who can open what is sealed on the bus (`fedbus.store.sealing`): whoever has the workspace's secret."""

from __future__ import annotations

from fedbus.access.credentials import Credentials
from fedbus.errors import ConfigError
from fedbus.store.sealing import WorkspaceSeal


def seal_of(credentials: Credentials | None) -> WorkspaceSeal | None:
    """Return the seal of who has the workspace's secret; None for whoever has none. `ConfigError` for a damaged one."""
    secret = credentials.secrets.get("seal", "") if credentials is not None else ""
    if not secret:
        return None
    try:
        return WorkspaceSeal(secret)
    except ValueError as error:
        raise ConfigError("the seal in these credentials is damaged: get them anew") from error
