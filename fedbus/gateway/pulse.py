"""The overview, said to those who read the workspace's events: at most once a second, and only when it has changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fedbus.errors import FedbusError
from fedbus.gateway.events import frame
from fedbus.gateway.overview import overview_of
from fedbus.gateway.views import OverviewView

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

EVERY_S = 1.0


async def pulse(gateway: Gateway) -> None:
    """Say the overview whenever it has changed, while somebody reads; runs until cancelled."""
    told: OverviewView | None = None
    while True:
        await asyncio.sleep(EVERY_S)
        if not gateway.feed.listeners:
            told = None
            continue
        try:
            found = await overview_of(gateway)
        except FedbusError:
            continue  # the bus is away: what was said last stands, `connected` is told when it is back
        if told is None or _still(found) != _still(told):
            told = found
            gateway.feed.say(frame(found.model_dump_json().encode(), event="overview"))


def _still(view: OverviewView) -> OverviewView:
    """Return what of it does not change by itself."""

    def peers(name: str) -> tuple[object, ...]:
        return tuple(
            peer.model_copy(update={"seen_at": 0.0, "since_at": 0.0, "doing": ""}) for peer in getattr(view, name)
        )

    broker = view.broker.model_copy(update={"round_trip_s": None, "streams": ()})
    names = ("coordinators", "combiners", "gateways")
    return view.model_copy(update={"at": 0.0, "broker": broker, **{name: peers(name) for name in names}})
