"""For tests: of fedbus, of your app, of your plug-ins.

`simulate(seed)` lives through a whole federation under misfortune, in this process and in virtual time (docs/how-to/
simulate-faults.md); what it is made of is a `Plan`, which `shrink` makes smaller while it goes wrong in the same way.
`fedbus.testing.bus`, `fedbus.testing.aggregator`, `fedbus.testing.codec` and `fedbus.testing.store` are the contracts
of plug-ins.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedbus.testing.lives import Report, Violation
    from fedbus.testing.misfortune import Misfortune
    from fedbus.testing.plan import Plan
    from fedbus.testing.shrinking import Shrunk, expression, shrink
    from fedbus.testing.store import check_store
    from fedbus.testing.world import simulate

__all__ = ["Misfortune", "Plan", "Report", "Shrunk", "Violation", "check_store", "expression", "shrink", "simulate"]

_WHERE = {
    "Misfortune": "misfortune",
    "Plan": "plan",
    "Report": "lives",
    "Shrunk": "shrinking",
    "Violation": "lives",
    "check_store": "store",
    "expression": "shrinking",
    "shrink": "shrinking",
    "simulate": "world",
}


def __getattr__(name: str) -> object:
    # only when it is asked for: `fedbus --help` imports this package, and has to be quick
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
