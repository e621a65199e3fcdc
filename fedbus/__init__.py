"""fedbus: a federated-learning runtime over NATS JetStream.

The public face: `ClientApp`, and `Client` or `Crowd`, beside the data; `connect` and `SessionConfig` for the engineer.
What is not listed in ``__all__`` is not public.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fedbus.version import __version__

if TYPE_CHECKING:
    from fedbus.client.app import ClientApp, DataTask, EvaluateTask, Evaluation, Model, TrainTask, Update
    from fedbus.client.cards import Card
    from fedbus.client.client import Client, Crowd
    from fedbus.config.session import SessionConfig
    from fedbus.errors import FedbusError
    from fedbus.federation.service import Federation, Session, SessionEvent, SessionInfo, SessionResult, connect

__all__ = [
    "Card",
    "Client",
    "ClientApp",
    "Crowd",
    "DataTask",
    "EvaluateTask",
    "Evaluation",
    "FedbusError",
    "Federation",
    "Model",
    "Session",
    "SessionConfig",
    "SessionEvent",
    "SessionInfo",
    "SessionResult",
    "TrainTask",
    "Update",
    "__version__",
    "connect",
]

# A library says nothing unless the application asks for its log.
logging.getLogger("fedbus").addHandler(logging.NullHandler())

_APP = ("ClientApp", "DataTask", "EvaluateTask", "Evaluation", "Model", "TrainTask", "Update")
_FEDERATION = ("Federation", "Session", "SessionEvent", "SessionInfo", "SessionResult", "connect")
_HOMES = {
    **dict.fromkeys(("Client", "Crowd"), "fedbus.client.client"),
    "Card": "fedbus.client.cards",
    "SessionConfig": "fedbus.config.session",
    "FedbusError": "fedbus.errors",
    **dict.fromkeys(_APP, "fedbus.client.app"),
    **dict.fromkeys(_FEDERATION, "fedbus.federation.service"),
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a data owner's process never imports the engineer's side."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedbus' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - used only when a name is first asked for

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
