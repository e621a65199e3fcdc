"""What is there and what it waits for: everything at a glance, and its parts."""

from __future__ import annotations

from fedbus.access.actions import Action
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.overview import combiners_of, coordinators_of, loads_of, overview_of, waits_of
from fedbus.gateway.paging import Paged, page_of
from fedbus.gateway.presence import Known
from fedbus.gateway.problems import Refused
from fedbus.gateway.views import OverviewView, Page, PeerView, WaitView


async def overview(call: Call) -> Reply:
    """Everything at a glance: who is there, the broker, sessions by status, what waits on whom until when."""
    return await overview_of(call.gateway)


async def waits(call: Call) -> Reply:
    """What waits now, what ends first before the rest."""
    known = await _known(call)
    found = waits_of(known.waits)
    keys = {id(wait): f"{wait.until_at:017.6f} {wait.session} {wait.round} {wait.what}" for wait in found}
    return page_of(sorted(found, key=lambda wait: keys[id(wait)]), call.asked(Paged), key=lambda wait: keys[id(wait)])


async def combiners(call: Call) -> Reply:
    """Combiners by name, with what each has to do in the rounds that are open."""
    return page_of(combiners_of(await _known(call), loads_of(call.gateway)), call.asked(Paged), key=_name)


async def coordinators(call: Call) -> Reply:
    """Coordinators by name; one of them leads, the others stand by."""
    return page_of(coordinators_of(await _known(call)), call.asked(Paged), key=_name)


def _name(peer: PeerView) -> str:
    return peer.name


async def _known(call: Call) -> Known:
    """Return what the coordinator says; 503 where none answers: an empty list would say that nobody is there."""
    known = await call.gateway.presence.look()
    if not known.answers:
        raise Refused(503, "no coordinator answers; is one running? (fedbus doctor)", headers={"Retry-After": "2"})
    return known


TOP = "fedbus top --json"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "getOverview", "GET", f"{API}/overview", "Everything at a glance", overview, TOP, "Federation.overview",
        answer=OverviewView, needs=Action.OVERVIEW_READ,
    ),
    Operation(
        "listWaits", "GET", f"{API}/waits", "What waits, on whom, until when", waits, TOP, "Federation.waits",
        query=Paged, answer=Page[WaitView], needs=Action.OVERVIEW_READ,
    ),
    Operation(
        "listCombiners", "GET", f"{API}/combiners", "Combiners that are there", combiners, TOP, "Federation.combiners",
        query=Paged, answer=Page[PeerView], needs=Action.OVERVIEW_READ,
    ),
    Operation(
        "listCoordinators", "GET", f"{API}/coordinators", "Coordinators that are there", coordinators, TOP,
        "Federation.coordinators", query=Paged, answer=Page[PeerView], needs=Action.OVERVIEW_READ,
    ),
)  # fmt: skip
