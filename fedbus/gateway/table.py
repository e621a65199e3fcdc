"""All operations of REST, in the order in which documents show them."""

from __future__ import annotations

from fedbus.gateway.operations import Operation
from fedbus.gateway.routes import (
    audit,
    clients,
    compare,
    events,
    login,
    members,
    models,
    overview,
    people,
    rounds,
    sessions,
    signins,
    strategies,
    system,
    tokens,
    traces,
    workspace,
)

RUNS = (overview, sessions, rounds, traces, events, compare, clients, models, strategies)
ACCESS = (login, signins, members, tokens, people, workspace, audit)
MODULES = (*RUNS, *ACCESS, system)

OPERATIONS: tuple[Operation, ...] = tuple(operation for module in MODULES for operation in module.OPERATIONS)
