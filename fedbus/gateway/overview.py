"""Everything at a glance, put together from what the gateway knows: presence, the broker, the journal's projection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from fedbus.bus.base import Bus, Usage
from fedbus.federation.contributions import Load
from fedbus.gateway.presence import Known
from fedbus.gateway.views import ArchiveView, BrokerView, OverviewView, PeerView, Status, StreamView, WaitView
from fedbus.messages.presence import Archiving
from fedbus.messages.queries import Seen, Wait
from fedbus.store.archivist import ArchivistState
from fedbus.version import __version__

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

WAITS_MAX = 100
"""Waits that the overview tells; `/waits` tells all."""


async def overview_of(gateway: Gateway) -> OverviewView:
    """Return everything at a glance, at most about a second old."""
    known = await gateway.presence.look()
    streams = gateway.presence.known.streams
    broker = broker_of(gateway.federation.bus, streams)
    catalogue = streams.get(gateway.federation.subjects.stream("model"))
    return OverviewView(
        workspace=gateway.federation.subjects.workspace,
        at=gateway.federation.now(),
        version=__version__,
        broker=broker,
        coordinator_answers=known.answers and broker.connected,
        coordinators=coordinators_of(known),
        combiners=combiners_of(known, loads_of(gateway)),
        gateways=gateways_of(gateway, known),
        clients=len(known.clients),
        clients_doing=dict(known.doing),
        sessions=statuses_of(gateway),
        models=catalogue.messages if catalogue is not None else 0,
        waits=waits_of(known.waits)[:WAITS_MAX],
        jaeger_url=gateway.listening.jaeger_url or None,
        archive=archive_of(gateway.archivist.state) if gateway.archivist is not None else None,
    )


def archive_of(state: ArchivistState | Archiving) -> ArchiveView:
    """Return how far the copying of versions is, as the archivist knows it or its gateway's heartbeat has said it."""
    return ArchiveView(
        store=state.store,
        archived=state.archived,
        waiting=state.waiting,
        waiting_bytes=state.waiting_bytes,
        since_at=state.since_at or None,
        error=state.error,
        error_at=state.error_at or None,
        refused=dict(state.refused),
    )


def broker_of(bus: Bus, streams: Mapping[str, Usage]) -> BrokerView:
    """Return the broker that a bus is connected to, and its streams as they were when they were looked at."""
    name, version = bus.server
    return BrokerView(
        connected=bus.connected,
        server=name,
        version=version,
        round_trip_s=bus.round_trip_s,
        payload_max=bus.payload_max,
        streams=tuple(
            StreamView(
                name=stream,
                storage=usage.storage.value,
                messages=usage.messages,
                nbytes=usage.nbytes,
                bytes_max=usage.bytes_max if usage.bytes_max >= 0 else None,
            )
            for stream, usage in sorted(streams.items())
        ),
    )


def coordinators_of(known: Known) -> tuple[PeerView, ...]:
    """Return the coordinators, and which of them leads."""
    return peers_of("coordinator", known.coordinators, leader=known.leader)


def combiners_of(known: Known, loads: Mapping[str, Load]) -> tuple[PeerView, ...]:
    """Return the combiners with what each has to do."""
    found = []
    for peer in peers_of("combiner", known.combiners):
        load = loads.get(peer.name, Load())
        found.append(peer.model_copy(update={"clients": load.clients, "updates": load.updates, "nbytes": load.nbytes}))
    return tuple(found)


def gateways_of(gateway: Gateway, known: Known) -> tuple[PeerView, ...]:
    """Return the gateways: this one is there, whatever the coordinator has heard."""
    found = {peer.name: peer for peer in peers_of("gateway", known.gateways)}
    now = gateway.federation.now()
    since_at = found[gateway.name].since_at if gateway.name in found else now
    found[gateway.name] = PeerView(
        role="gateway",
        name=gateway.name,
        version=__version__,
        doing=gateway.station.doing(),
        since_at=since_at,
        seen_at=now,
    )
    return tuple(found[name] for name in sorted(found))


def peers_of(
    role: Literal["coordinator", "combiner", "gateway"], peers: Iterable[Seen], leader: str = ""
) -> tuple[PeerView, ...]:
    """Return those of a role by name, as the coordinator knows them."""
    return tuple(
        PeerView(
            role=role,
            name=peer.name,
            version=peer.version,
            doing=peer.doing,
            attributes=peer.attributes,
            since_at=peer.since_at,
            seen_at=peer.seen_at,
            leads=peer.name == leader,
        )
        for peer in sorted(peers, key=lambda peer: peer.name)
    )


def waits_of(waits: Iterable[Wait]) -> tuple[WaitView, ...]:
    """Return what waits, what ends first before the rest."""
    views = [WaitView(**wait.model_dump()) for wait in waits]
    return tuple(sorted(views, key=lambda wait: (wait.until_at, wait.session, wait.what)))


def loads_of(gateway: Gateway) -> Mapping[str, Load]:
    """Return what each combiner has to do in the rounds that are open."""
    return gateway.sessions.loads()


def statuses_of(gateway: Gateway) -> dict[Status, int]:
    """Return how many sessions stand where."""
    return gateway.sessions.statuses(gateway.federation.now())
