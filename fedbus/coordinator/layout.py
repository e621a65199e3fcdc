"""Which combiner folds whose update, and along which tree the sums meet: pure functions of names, regions and loads.

A region is a path such as ``eu/north``; the empty one lies around all others. A client's update goes to a combiner of
the region that fits it longest: its own, else one around it; only where that is allowed, to any. Of those that fit
equally well the one that expects the fewest bytes takes it.

Sums meet region by region. Each region has a head: of its own combiners the one that holds most counted updates; where
a region has none of its own, the head of the region inside of it that holds most. Combiners send to their region's
head, heads to the head of the region around, and the head of the smallest region that lies around everything that
counts is the root. So whatever was folded in a region leaves it at most once, as one sum:

    root (eu) <-- eu/north <-- eu/north's other combiners
              <-- eu/south <-- ...
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Literal

from fedbus.messages.ids import SHARDS_MAX

Region = tuple[str, ...]
"""A region's path, outermost first."""

REGION = "region"
"""The attribute in which a client or a combiner says where it is."""


def region_of(text: str) -> Region:
    """Return the path of a region as people write it: ``/eu/north/`` is ``eu/north``."""
    return tuple(part for part in text.split("/") if part)


def candidates(home: Region, regions: Mapping[str, Region], residency: str) -> list[str]:
    """Return the combiners that may take an update from a region, those that fit it best; none where none may."""
    around = [name for name, region in regions.items() if home[: len(region)] == region]
    if around:
        longest = max(len(regions[name]) for name in around)
        return sorted(name for name in around if len(regions[name]) == longest)
    return sorted(regions) if residency == "prefer" else []


def place(
    clients: Mapping[str, str], combiners: Mapping[str, str], loads: Mapping[str, int], nbytes: int, residency: str
) -> dict[str, str]:
    """Share clients out over combiners, least loaded first; both are given as names with their regions.

    ``loads``: the bytes that each combiner expects already. ``nbytes``: of one update. A client without a combiner that
    may take its update is left out. Returned by name of the client.
    """
    regions = {name: region_of(text) for name, text in combiners.items()}
    expected = {name: loads.get(name, 0) for name in regions}
    by_home: dict[Region, list[str]] = {}
    for client in sorted(clients):
        by_home.setdefault(region_of(clients[client]), []).append(client)
    places: dict[str, str] = {}
    for home in sorted(by_home):
        line = [(expected[name], name) for name in candidates(home, regions, residency)]
        if not line:
            continue
        heapify(line)
        for client in by_home[home]:
            load, name = line[0]
            places[client] = name
            expected[name] = load + max(nbytes, 1)
            heapreplace(line, (expected[name], name))
    return places if len(by_home) == 1 else {client: places[client] for client in sorted(places)}


def shards_of(sharding: Literal["clients", "chunks"], combiners: Iterable[str]) -> tuple[str, ...]:
    """Return who owns which part of the chunks, in order; none where each combiner takes whole updates.

    One combiner alone takes whole updates in any case.
    """
    names = sorted(combiners)[:SHARDS_MAX]
    return tuple(names) if sharding == "chunks" and len(names) > 1 else ()


@dataclass(frozen=True, slots=True)
class Tree:
    """Along which way sums meet. ``parents``: of those that do not send to the root themselves."""

    root: str
    parents: dict[str, str]

    def parent(self, name: str) -> str:
        """Who takes a combiner's sum; nobody the root's."""
        return "" if name == self.root else self.parents.get(name, self.root)


@dataclass(slots=True)
class _Node:
    """A region: who is there, who heads it, how much is held in it."""

    own: list[str]
    inner: list[Region]
    held: int = 0
    head: str = ""


def tree(held: Mapping[str, int], combiners: Mapping[str, str]) -> Tree:
    """Return the tree of those that hold counted updates (combiner -> how many, at least one).

    ``combiners``: all that may take part, with their regions; a region's only combiner heads it though it holds none.
    """
    regions = {name: region_of(combiners.get(name, "")) for name in combiners.keys() | held.keys()}
    top = _around([regions[name] for name in held])
    nodes: dict[Region, _Node] = {}
    for region in {regions[name][:depth] for name in held for depth in range(len(top), len(regions[name]) + 1)}:
        nodes[region] = _Node([], [])
    for name, region in regions.items():
        if region in nodes:
            nodes[region].own.append(name)
    parents: dict[str, str] = {}
    for region in sorted(nodes, key=lambda region: (-len(region), region)):
        node = nodes[region]
        node.held = sum(held.get(name, 0) for name in node.own) + sum(nodes[inner].held for inner in node.inner)
        node.head = _head(node, nodes, held)
        inner_heads = [nodes[inner].head for inner in node.inner]
        for name in [*(name for name in node.own if name in held), *inner_heads]:
            if name != node.head:
                parents[name] = node.head
        if region != top:
            nodes[region[:-1]].inner.append(region)
    root = nodes[top].head
    return Tree(root, {name: parent for name, parent in sorted(parents.items()) if parent != root})


def _around(regions: Collection[Region]) -> Region:
    """Return the smallest region that lies around all of them."""
    first, last = min(regions), max(regions)
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    return first[:depth]


def _head(node: _Node, nodes: Mapping[Region, _Node], held: Mapping[str, int]) -> str:
    if node.own:
        return min(node.own, key=lambda name: (-held.get(name, 0), name))
    best = min(node.inner, key=lambda inner: (-nodes[inner].held, inner))
    return nodes[best].head
