"""Which points a sink has: by name and step, so that none is written twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Point = tuple[str, int]
"""A metric's name, and its step."""


class Steps:
    """The points that are there."""

    def __init__(self, there: Iterable[Point] = ()) -> None:
        self._there = set(there)

    def missing(self, points: Mapping[str, float], step: int) -> dict[str, float]:
        """Return those of some points that are not there at a step."""
        return {name: value for name, value in points.items() if (name, step) not in self._there}

    def add(self, names: Iterable[str], step: int) -> None:
        """Take note of what was written."""
        self._there.update((name, step) for name in names)
