"""Copying what is published to the store behind the bus, once."""

from __future__ import annotations

from fedbus.cli.listing import federation_of
from fedbus.cli.output import print_json, size
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import BadMessage, ConfigError
from fedbus.store.archivist import Archivist
from fedbus.workers import Threads


async def archive(place: Place, *, json: bool) -> None:
    """Copy every version that the store has not; `BadMessage` where one of them cannot be copied."""
    if place.store is None:
        raise ConfigError("expected a store to copy to: --store file:///DIR or --store s3://BUCKET/PREFIX")
    workers = Threads(2, "fedbus-archivist")
    try:
        async with federation_of(place) as federation:
            there = federation.models.archive
            assert there is not None, "the place has a store"
            archivist = Archivist(
                federation.bus,
                federation.subjects,
                there,
                workers=workers,
                clock=SystemClock(),
                models=federation.store,
            )
            state = await archivist.once()
    finally:
        workers.close()
    if json:
        print_json(
            {
                "store": state.store,
                "archived": state.archived,
                "copied": state.copied,
                "nbytes": state.copied_bytes,
                "refused": state.refused,
            }
        )
    else:
        print(f"{state.store}: {state.archived} versions; new: {state.copied}, {size(state.copied_bytes)}")
    if state.refused:
        told = "; ".join(f"{version}: {reason}" for version, reason in sorted(state.refused.items())[:10])
        raise BadMessage(f"{len(state.refused)} versions cannot be archived: {told}")
