"""What a federation of a given size needs, computed from measured processor time per byte and per message.

    bytes and messages of a round  x  seconds of a core for each  /  (time of a round x share of a core to plan with)

Nothing is simulated: what is measured on one machine (`Figures`, by `fedbus bench transfer` and `bench clients`) is
multiplied. What was never measured at that size stands as an assumption in `Need`, and what cannot be had by adding
machines - one coordinator decides for a whole workspace - is said in `Plan.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fedbus.errors import ConfigError

GB = 1e9
MB = 1e6

COMBINER_MODELS = 2.3
"""Memory of a combiner in models of 32-bit numbers: sums have 64 bits, and some chunks are on their way."""

COMBINER_BASE_GB = 0.1
"""Python, numpy, and what else it takes before the first update."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds of a core and bytes of memory, measured; the defaults on two shared cores, nats-server 2.15.1.

    Per GB: ``fedbus bench transfer --clients 4 --model-mb 45 --json``. Per client and round, and while idle:
    ``fedbus bench clients --clients 400 --no-crowd --model-mb 0.01 --json`` (connections of their own).
    """

    download_broker_s_per_gb: float = 1.11
    """Chunks of the model read by direct get."""

    upload_broker_s_per_gb: float = 1.00
    """Chunks of an update from a client's connection to a combiner's; also taken for a hop between two servers."""

    upload_combiner_s_per_gb: float = 0.98
    """Received, checked, folded."""

    publish_broker_s_per_gb: float = 1.93
    """The new model stored on disk, once; again for every replica."""

    publish_combiner_s_per_gb: float = 1.48
    """The mean taken, cut into chunks, sent to be stored."""

    round_broker_ms: float = 0.24
    """Per client and round: task, announcement, verdict, receipt."""

    round_combiner_ms: float = 0.13
    round_coordinator_ms: float = 0.13

    idle_broker_percent: float = 2.5
    """Of a core for 1,000 clients that wait: every 5 s each says that it lives."""

    idle_coordinator_percent: float = 1.0

    server_kb_per_client: float = 74.0
    """Memory of the server for each client that is connected, nearly all of it the broker's."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is asked for; below the line, what is assumed of machines and lines."""

    clients: int = 1000
    """Connected at a time. Devices that come and go count while they are there."""

    per_round: int = 0
    """Of these so many train in a round; 0: all."""

    model_mb: float = 45.0
    round_s: float = 600.0
    """A round is to take so long; training is in it."""

    regions: int = 0
    """Leaves with combiners of their own, of equal size; 0: all clients are at the hub."""

    replicas: int = 3

    busy: float = 0.5
    """Share of a core that is planned with: bursts, and neighbours, take the rest."""

    server_cores: int = 16
    server_gbit: float = 10.0
    client_mbit: float = 20.0
    """The slower direction of a client's line."""

    clients_per_server: int = 20_000
    """Connections of one nats-server; an assumption: 400 were measured, 1.5 GB at 20,000 follow from them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes. Cores are whole ones, already divided by `Need.busy`."""

    up_gb: float
    down_gb: float
    hub_cores: float
    hub_servers: int
    leaf_cores: float
    leaf_servers: int
    combiner_cores: float
    combiners: int
    coordinator_cores: float
    region_down_gb: float
    region_up_gb: float
    broker_memory_gb: float
    combiner_memory_gb: float
    round_s_least: float
    limits: tuple[str, ...]


def plan(need: Need, figures: Figures) -> Plan:
    """Return what a federation needs; `ConfigError` where a number is out of its range."""
    _check(need)
    part = need.per_round or need.clients
    model_gb = need.model_mb * MB / GB
    moved, regions = part * model_gb, max(1, need.regions)
    time = need.round_s * need.busy
    hub_s, leaf_s = _broker_s(need, figures, part, model_gb)
    combiner_cores = _combiner_s(need, figures, part, model_gb) / time
    combiners = regions * max(1, math.ceil(combiner_cores / regions))
    coordinating = need.clients / 1000 * figures.idle_coordinator_percent / 100
    coordinating += part * figures.round_coordinator_ms / 1000 / need.round_s
    coordinator_cores = coordinating / need.busy
    if need.regions:
        hub_servers = _servers(need, hub_s / time, 0, moved + need.regions * 2 * model_gb)
        leaf_servers = regions * _servers(need, leaf_s / regions / time, need.clients / regions, 2 * moved / regions)
    else:
        hub_servers = _servers(need, hub_s / time, need.clients, 2 * moved)
        leaf_servers = 0
    hub_servers = max(hub_servers, need.replicas)
    least_s = _least_s(need, figures, part, combiners)
    return Plan(
        up_gb=moved,
        down_gb=moved,
        hub_cores=hub_s / time,
        hub_servers=hub_servers,
        leaf_cores=leaf_s / time,
        leaf_servers=leaf_servers,
        combiner_cores=combiner_cores,
        combiners=combiners,
        coordinator_cores=coordinator_cores,
        region_down_gb=moved / regions if need.regions else 0.0,
        region_up_gb=2 * model_gb if need.regions else 0.0,
        broker_memory_gb=need.clients * figures.server_kb_per_client * 1000 / GB,
        combiner_memory_gb=COMBINER_MODELS * model_gb + COMBINER_BASE_GB,
        round_s_least=least_s,
        limits=tuple(_limits(need, figures, coordinator_cores, least_s)),
    )


def _combiner_s(need: Need, figures: Figures, part: int, model_gb: float) -> float:
    """Return the seconds of a core that all combiners spend in one round."""
    # a region's sum is sent to the root as twice the model's bytes, and folded there once more
    folded_gb = part * model_gb + need.regions * 2 * model_gb
    words_s = part * figures.round_combiner_ms / 1000
    return folded_gb * figures.upload_combiner_s_per_gb + words_s + model_gb * figures.publish_combiner_s_per_gb


def _broker_s(need: Need, figures: Figures, part: int, model_gb: float) -> tuple[float, float]:
    """Return the seconds of a core that servers of the hub, and leaves, spend in one round."""
    moved = part * model_gb
    words_s = part * figures.round_broker_ms / 1000
    idle_s = need.clients / 1000 * figures.idle_broker_percent / 100 * need.round_s
    stored_s = model_gb * figures.publish_broker_s_per_gb * need.replicas
    down_s, up_s = moved * figures.download_broker_s_per_gb, moved * figures.upload_broker_s_per_gb
    if not need.regions:
        # of a cluster's nodes, client and combiner are at the same one by chance only: else one hop more
        hops = 2 - 1 / max(1, need.replicas)
        return down_s + up_s * hops + stored_s + words_s + idle_s, 0.0
    partials_s = need.regions * 2 * model_gb * figures.upload_broker_s_per_gb
    # words cross the leaf to the coordinator, and so does every download, one by one
    relayed_s = moved * figures.upload_broker_s_per_gb + words_s + idle_s
    return down_s + partials_s + stored_s + words_s + idle_s, up_s + relayed_s + partials_s


def _servers(need: Need, cores: float, clients: float, moved_gb: float) -> int:
    by_line = moved_gb * 8 / (need.server_gbit * need.busy * need.round_s)
    return max(
        1, math.ceil(cores / need.server_cores), math.ceil(clients / need.clients_per_server), math.ceil(by_line)
    )


def _least_s(need: Need, figures: Figures, part: int, combiners: int) -> float:
    """Return what a round takes without training: the slowest of what goes on at once, and what comes after it."""
    model_gb = need.model_mb * MB / GB
    line_s = 2 * model_gb * 8000 / need.client_mbit
    words_s = part * figures.round_coordinator_ms / 1000
    folding_s = part * model_gb * figures.upload_combiner_s_per_gb / combiners
    return max(line_s, words_s, folding_s) + model_gb * figures.publish_combiner_s_per_gb


def _limits(need: Need, figures: Figures, coordinator_cores: float, least_s: float) -> Iterable[str]:
    if coordinator_cores > 1:
        most = int(1000 * need.busy * 100 / figures.idle_coordinator_percent)
        yield (
            f"one coordinator would need {coordinator_cores:.2f} cores and has one: at most some {most:,} clients "
            f"connected at a time in a workspace; here {math.ceil(coordinator_cores)} workspaces, whose models nothing "
            f"merges"
        )
    part_gb = (need.per_round or need.clients) * need.model_mb * MB / GB
    read_gb = need.replicas * need.server_gbit / 8 * need.busy * need.round_s
    if part_gb > read_gb:
        yield (
            f"models are read from the {need.replicas} servers that keep them, whose lines carry {read_gb:,.0f} GB in "
            f"a round, not {part_gb:,.0f}: fewer clients a round, or longer rounds"
        )
    if least_s > need.round_s:
        yield f"a round takes {least_s:.0f} s without training, longer than the {need.round_s:g} s asked for"
    if need.regions and need.per_round and need.per_round < need.regions:
        yield "fewer clients a round than regions: most regions send a sum of nothing"


def _check(need: Need) -> None:
    small = {name: getattr(need, name) for name in ("per_round", "regions") if getattr(need, name) < 0}
    positive = [f.name for f in fields(need) if f.name not in ("per_round", "regions")]
    small |= {name: getattr(need, name) for name in positive if not getattr(need, name) > 0}
    if small or need.busy > 1 or need.per_round > need.clients:
        raise ConfigError(f"a number of the plan is out of its range: {small or need}")


_FROM_TRANSFER = ("download_broker", "upload_broker", "upload_combiner", "publish_broker", "publish_combiner")


def measured(runs: Iterable[Mapping[str, Any]], figures: Figures | None = None) -> Figures:
    """Replace figures by what `fedbus bench transfer --json` and `bench clients --json` have printed, in any order."""
    found = figures or Figures()
    for run in runs:
        try:
            if "upload_cpu_s_per_gb" in run:
                new = {
                    f"{name}_s_per_gb": run[f"{way}_cpu_s_per_gb"][role]
                    for name in _FROM_TRANSFER
                    for way, _, role in (name.partition("_"),)
                }
            elif "cpu_ms_per_client_round_by_role" in run:
                thousands = run["clients"] / 1000
                words, idle = run["cpu_ms_per_client_round_by_role"], run["idle_cpu_percent_by_role"]
                new = {f"round_{role}_ms": words[role] for role in ("broker", "combiner", "coordinator")}
                new |= {f"idle_{role}_percent": idle[role] / thousands for role in ("broker", "coordinator")}
                new["server_kb_per_client"] = run["server_rss_growth_mb_per_1000"]  # MB for 1,000 are KB for one
            else:
                raise ConfigError("expected what `bench transfer --json` or `bench clients --json` prints")
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this is no run of a bench: {error} is missing") from error
        found = replace(found, **{name: float(value) for name, value in new.items()})
    return found


ROWS: tuple[tuple[str, str], ...] = (
    ("sent up in a round", "{p.up_gb:,.1f} GB"),
    ("fetched in a round", "{p.down_gb:,.1f} GB"),
    ("cores of the hub's servers", "{p.hub_cores:,.1f}"),
    ("servers of the hub", "{p.hub_servers:,}"),
    ("cores of all leaves", "{p.leaf_cores:,.1f}"),
    ("leaf servers", "{p.leaf_servers:,}"),
    ("cores of all combiners", "{p.combiner_cores:,.1f}"),
    ("combiners, one core each", "{p.combiners:,}"),
    ("cores of the coordinator", "{p.coordinator_cores:,.2f}"),
    ("into each region in a round", "{p.region_down_gb:,.1f} GB"),
    ("out of each region in a round", "{p.region_up_gb:,.2f} GB"),
    ("memory of all brokers for connections", "{p.broker_memory_gb:,.1f} GB"),
    ("memory of each combiner", "{p.combiner_memory_gb:,.1f} GB"),
    ("a round without training, at least", "{p.round_s_least:,.0f} s"),
)
"""What a plan shows: a label, and the value as people read it."""


def rows(found: Plan) -> list[tuple[str, str]]:
    """Return the plan as labels and values."""
    return [(label, text.format(p=found)) for label, text in ROWS]
