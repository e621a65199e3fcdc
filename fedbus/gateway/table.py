"""All operations of REST, in the order in which documents show them."""

from __future__ import annotations

from fedbus.gateway.operations import Operation
from fedbus.gateway.routes import (
    clients,
    compare,
    events,
    models,
    overview,
    rounds,
    sessions,
    strategies,
    system,
    traces,
)

MODULES = (overview, sessions, rounds, traces, events, compare, clients, models, strategies, system)

OPERATIONS: tuple[Operation, ...] = tuple(operation for module in MODULES for operation in module.OPERATIONS)
