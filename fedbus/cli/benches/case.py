"""What is to be measured: so many clients, so large a model, spread over what; and the session that runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedbus.cli.benches import expectation
from fedbus.cli.benches.rig import REAL_CLIENTS_MAX, Cast
from fedbus.config.session import SessionConfig

VALUE_FLOOR: float = SessionConfig.model_fields["value_floor"].default

DEADLINE_S = 86_400.0
"""Of rounds and closes: how long a model takes is what is measured, whatever its size."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run: how many clients, how large a model, spread over what.

    ``crowd`` None: above `REAL_CLIENTS_MAX`. ``first``: the number of the first client; a federation of client 0 alone
    never changes its model, and what does not change is not fetched. ``access``: who is let in, as in `Cast.secured`.
    """

    clients: int = 10
    model_mb: float = 45.0
    arrays: int = 62
    rounds: int = 5
    combiners: int = 1
    sharding: Literal["clients", "chunks"] = "clients"
    processes: int | None = None
    crowd: bool | None = None
    workload: str = ""
    first: int = 0
    access: Literal["open", "secured"] = "open"

    @property
    def cast(self) -> Cast:
        """Who takes part."""
        crowd = self.clients > REAL_CLIENTS_MAX if self.crowd is None else self.crowd
        processes = min(self.processes or 2, self.clients)
        return Cast(self.clients, processes, self.combiners, crowd, first=self.first, secured=self.access == "secured")

    def config(self, model: expectation.Arrays) -> SessionConfig:
        """The session: every round waits for every client, nothing is evaluated, and no honest number is too large."""
        value_max = expectation.value_max(model, self.clients, self.rounds, self.first)
        return SessionConfig(
            value_floor=max(VALUE_FLOOR, 2.0 ** math.ceil(math.log2(value_max))),
            rounds=self.rounds,
            clients_min=self.clients,
            quorum=self.clients,
            evaluate_every=0,
            round_attempts_max=1,
            round_deadline_s=DEADLINE_S,
            close_deadline_s=DEADLINE_S,
            sharding=self.sharding,
            versions_kept=2,  # a benchmark of many rounds of a large model must not fill the disk
        )


WORKLOADS = {
    "W1": Case(10, 45.0, 62),
    "W2": Case(4, 400.0, 100),
    "W3": Case(100, 1.0, 20),
    "W4": Case(1000, 0.1, 10),
}
"""The work that the page compares with others by."""
