"""All operations of REST, in the order in which documents show them."""

from __future__ import annotations

import importlib
import importlib.util

from fedbus.gateway.operations import Operation

# For a while: modules that are being written are taken as they come.
_MODULES = (
    "overview",
    "sessions",
    "rounds",
    "events",
    "compare",
    "clients",
    "models",
    "strategies",
    "traces",
    "system",
)


def _found(name: str) -> tuple[Operation, ...]:
    full = f"fedbus.gateway.routes.{name}"
    if importlib.util.find_spec(full) is None:
        return ()
    operations: tuple[Operation, ...] = importlib.import_module(full).OPERATIONS
    return operations


OPERATIONS: tuple[Operation, ...] = tuple(operation for name in _MODULES for operation in _found(name))
