"""Where versions come from: each names the one that it was made from, across sessions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from fedbus.messages.records import ModelPublished

VERSIONS_MAX = 1000
"""Versions of one lineage: what a graph can show, and a page of REST can hold."""


class Lineage:
    """The catalogue as a forest."""

    def __init__(self, entries: Iterable[ModelPublished]) -> None:
        self._entries = {entry.version: entry for entry in entries}
        self._children: dict[str, list[str]] = {}
        for entry in self._entries.values():
            if entry.parent:
                self._children.setdefault(entry.parent, []).append(entry.version)

    def of(self, entry: ModelPublished) -> list[ModelPublished]:
        """Return a version with those that it goes back to, those made from it, and its session's, oldest first.

        At most `VERSIONS_MAX`, by their distance in the forest.
        """
        found = {entry.version: entry}
        self._ancestors(entry, found, VERSIONS_MAX // 2)
        waiting = deque([entry.version])
        while waiting and len(found) < VERSIONS_MAX:
            self._spread(waiting, found)
        for other in self._entries.values():
            if len(found) >= VERSIONS_MAX:
                break
            if other.session == entry.session and entry.parent:
                found.setdefault(other.version, other)
        return _ordered(found)

    def _ancestors(self, entry: ModelPublished, found: dict[str, ModelPublished], count_max: int) -> None:
        while entry.parent in self._entries and entry.parent not in found and len(found) < count_max:
            entry = self._entries[entry.parent]
            found[entry.version] = entry

    def _spread(self, waiting: deque[str], found: dict[str, ModelPublished]) -> None:
        for child in self._children.get(waiting.popleft(), ()):
            if child not in found and len(found) < VERSIONS_MAX:
                found[child] = self._entries[child]
                waiting.append(child)


def _ordered(found: dict[str, ModelPublished]) -> list[ModelPublished]:
    """Return versions by age, but each behind the one that it was made from: clocks of machines differ."""
    children: dict[str, list[ModelPublished]] = {}
    ready: list[tuple[float, int, str]] = []
    for entry in found.values():
        if entry.parent in found:
            children.setdefault(entry.parent, []).append(entry)
        else:
            heappush(ready, (entry.at, entry.round, entry.version))
    ordered = []
    while ready:
        _, _, version = heappop(ready)
        ordered.append(found[version])
        for child in children.get(version, ()):
            heappush(ready, (child.at, child.round, child.version))
    return ordered
