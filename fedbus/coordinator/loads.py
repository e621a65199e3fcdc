"""What combiners expect of all sessions together, so that each session gives its clients to those that expect least."""

from __future__ import annotations

from collections.abc import Mapping

from fedbus.coordinator.events import LoadsChanged
from fedbus.coordinator.machine import Machine


def tell_loads(machines: Mapping[str, Machine], now: float) -> None:
    """Tell each session how many bytes combiners expect for the others."""
    loads = {name: machine.load() for name, machine in machines.items()}
    for name, machine in machines.items():
        others: dict[str, int] = {}
        for other, load in loads.items():
            for combiner, nbytes in load.items() if other != name else ():
                others[combiner] = others.get(combiner, 0) + nbytes
        machine.handle(LoadsChanged(others), now)
