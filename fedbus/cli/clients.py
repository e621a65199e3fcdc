"""One client: whether it is there, what it gave, what became of it."""

from __future__ import annotations

from collections.abc import Callable

from fedbus.cli.listing import federation_of
from fedbus.cli.output import ago, metrics_text, moment, print_json, print_table, size
from fedbus.cli.roles import Place
from fedbus.federation.contributions import Contribution, Tally
from fedbus.federation.reading import ClientInfo
from fedbus.messages.queries import Seen

SHOWN = 20
"""Contributions that are worth a line each; ``--json`` has the newest 200."""


async def show_client(place: Place, name: str, *, json: bool) -> None:
    """Print a client with its newest contributions."""
    async with federation_of(place) as federation:
        found = await federation.client(name)
    if json:
        print_json(as_json(found))
        return
    tally, seen = found.tally or Tally(), found.seen
    attributes = " ".join(f"{key}={value}" for key, value in sorted(seen.attributes.items())) if seen else ""
    for what, value in (
        ("client", found.client),
        ("there", _there(seen, federation.now) if seen else "no"),
        ("attributes", attributes or "-"),
        ("sessions", tally.sessions),
        ("rounds", f"asked {tally.asked}, counted {tally.counted}, refused {tally.refused}"),
        ("weight", f"{tally.weight:g}"),
        ("bytes", f"{size(tally.bytes_up)} up, {size(tally.bytes_down)} down"),
    ):
        print(f"{what:10s} {value}")
    print()
    rows = [
        (moment(one.at), one.session, one.round, one.outcome, one.what or metrics_text(one.metrics) or "-")
        for one in found.history[:SHOWN]
    ]
    print_table(("when", "session", "round", "outcome", "what"), rows, empty="it was not asked for anything yet")


def _there(seen: Seen, now: Callable[[], float]) -> str:
    return f"{seen.doing or 'idle'}, heard {ago(seen.seen_at, now)}, came {ago(seen.since_at, now)}"


def as_json(found: ClientInfo) -> dict[str, object]:
    """Return a client as REST has it."""
    tally, seen = found.tally or Tally(), found.seen
    return {
        "client": found.client,
        "online": found.online,
        "doing": seen.doing if seen else "",
        "version": seen.version if seen else "",
        "attributes": seen.attributes if seen else {},
        "since_at": seen.since_at if seen else None,
        "last_at": max(tally.last_at, seen.seen_at if seen else 0.0) or None,
        "sessions": tally.sessions,
        "rounds_asked": tally.asked,
        "rounds_counted": tally.counted,
        "rounds_refused": tally.refused,
        "weight": tally.weight,
        "bytes_up": tally.bytes_up,
        "bytes_down": tally.bytes_down,
        "history": [{name: getattr(one, name) for name in Contribution.__slots__} for one in found.history],
    }
