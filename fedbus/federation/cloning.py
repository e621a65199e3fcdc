"""A session like another one: its settings with some changed, from the version that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError
from fedbus.federation.info import SessionInfo


def config_of_clone(info: SessionInfo, changes: Mapping[str, Any]) -> SessionConfig:
    """Return a session's settings with some changed, each as a whole; `ConfigError` names what cannot be."""
    try:
        return validated(info.config, changes)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise ConfigError(f"{where}: {first['msg']}, got {str(first['input'])[:80]!r}") from error


def validated(config: SessionConfig, changes: Mapping[str, Any]) -> SessionConfig:
    """Return settings with some changed; raises pydantic's `ValidationError` where they cannot be."""
    return SessionConfig.model_validate(config.model_dump() | dict(changes))


def model_of_clone(info: SessionInfo) -> str:
    """Return the version that a session began with: the published one, else its own first."""
    return info.base or info.first_version
