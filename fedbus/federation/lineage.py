"""Where versions come from: each names the one that it was made from, across sessions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from fedbus.messages.records import ModelPublished
from fedbus.messages.registry import IMPORTED

VERSIONS_MAX = 1000
"""Versions of one lineage: what a graph can show, and a page of REST can hold."""


class Lineage:
    """The catalogue as a forest, which grows as entries are added."""

    def __init__(self, entries: Iterable[ModelPublished] = ()) -> None:
        self.entries: dict[str, ModelPublished] = {}
        self._children: dict[str, dict[str, None]] = {}
        self._sessions: dict[str, dict[str, None]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: ModelPublished) -> None:
        """Add an entry, or put a changed one in its place."""
        before = self.entries.get(entry.version)
        if before is not None and before.parent != entry.parent:
            self._children.get(before.parent, {}).pop(before.version, None)
        self.entries[entry.version] = entry
        self._sessions.setdefault(entry.session, {})[entry.version] = None
        if entry.parent:
            self._children.setdefault(entry.parent, {})[entry.version] = None

    def children(self, version: str) -> tuple[str, ...]:
        """Return the versions that were made from one."""
        return tuple(self._children.get(version, ()))

    def session(self, session: str) -> Iterable[str]:
        """Return the versions of a session."""
        return self._sessions.get(session, ())

    def of(self, entry: ModelPublished) -> list[ModelPublished]:
        """Return a version with those that it goes back to, those made from it, and its session's, oldest first.

        At most `VERSIONS_MAX`, by their distance in the forest.
        """
        found = {entry.version: entry}
        self._ancestors(entry, found, VERSIONS_MAX // 2)
        waiting = deque([entry.version])
        while waiting and len(found) < VERSIONS_MAX:
            self._spread(waiting, found)
        for version in self.session(entry.session) if entry.session != IMPORTED else ():
            if len(found) >= VERSIONS_MAX:
                break
            found.setdefault(version, self.entries[version])
        return _ordered(found)

    def _ancestors(self, entry: ModelPublished, found: dict[str, ModelPublished], count_max: int) -> None:
        while entry.parent in self.entries and entry.parent not in found and len(found) < count_max:
            entry = self.entries[entry.parent]
            found[entry.version] = entry

    def _spread(self, waiting: deque[str], found: dict[str, ModelPublished]) -> None:
        for child in self._children.get(waiting.popleft(), ()):
            if child not in found and len(found) < VERSIONS_MAX:
                found[child] = self.entries[child]
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
