"""What programs around a gateway ask it: whether it lives, whether it is ready."""

from __future__ import annotations

from fedbus.gateway.operations import Call, Operation, Reply
from fedbus.gateway.views import HealthView
from fedbus.version import __version__


async def health(call: Call) -> Reply:
    """Whether the process answers: what a supervisor starts it again by."""
    return HealthView(status="ok", version=__version__)


OPERATIONS: tuple[Operation, ...] = (
    Operation("getHealth", "GET", "/healthz", "Whether the gateway lives.", health, answer=HealthView),
)
