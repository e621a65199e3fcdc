"""Who takes part and what with: what `Client` and `Crowd` hand on to the `Hub` that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedbus.access.signing import OPEN, Signing
from fedbus.client.app import ClientApp
from fedbus.client.owner import NO_WISHES, Wishes
from fedbus.client.state import State
from fedbus.clock import Clock
from fedbus.crash import Crash
from fedbus.messages.ids import Peer
from fedbus.telemetry import Telemetry
from fedbus.workers import Workers


@dataclass(frozen=True, slots=True)
class Setup:
    """Who is here and what they work with.

    ``peer``: who says `Hello`: the client itself, or the crowd of ``clients`` that begins at number ``first`` of its
    series. ``workers`` None: threads of its own. ``wishes``: of the owner of its data. ``signing``: with which it
    signs, and knows the workspace's models.
    """

    app: ClientApp
    peer: Peer
    clients: tuple[str, ...]
    workspace: str
    attributes: Mapping[str, str]
    clock: Clock
    traces: Telemetry
    incarnation: str
    workers: Workers | None
    crash: Crash
    first: int = 0
    state: State | None = None
    wishes: Wishes = NO_WISHES
    signing: Signing = OPEN

    @property
    def crowd(self) -> bool:
        """Whether one speaks for many."""
        return self.peer.role == "crowd"
