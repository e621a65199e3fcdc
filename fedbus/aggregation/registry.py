"""Aggregators by name: our own, and those that installed packages offer under the entry point ``fedbus.aggregators``.

    [project.entry-points."fedbus.aggregators"]
    mine = "my_package.mine:MINE"

A plug-in is imported when it is asked for, not before. Our own names are looked up first, so none can be replaced by
installing something, and they resolve in a plain checkout too, where there are no metadata.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedbus.aggregation.base import Aggregator
from fedbus.errors import ConfigError

GROUP = "fedbus.aggregators"
"""The entry point group."""

_BUILT_IN = {"fedavg": EntryPoint("fedavg", "fedbus.aggregation.fedavg:FEDAVG", GROUP)}


def names() -> tuple[str, ...]:
    """All names that `find` knows, sorted; nothing is imported."""
    return tuple(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))


def find(name: str) -> Aggregator[Any]:
    """Look up an aggregator; ConfigError where it is unknown (lists the known), ambiguous or broken (names it)."""
    if name in _BUILT_IN:
        return _load(_BUILT_IN[name])
    values = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if not values:
        raise ConfigError(f"aggregator {name!r:.80} is unknown; known: {', '.join(names())}")
    if len(values) > 1:
        raise ConfigError(
            f"aggregator {name!r} is offered by several packages ({', '.join(values)}): uninstall all but one"
        )
    return _load(next(iter(values.values())))


def _load(entry: EntryPoint) -> Aggregator[Any]:
    try:
        found = entry.load()
    except Exception as error:  # somebody else's module is run, it may raise anything
        raise ConfigError(f"aggregator {entry.name!r} ({entry.value}) cannot be loaded: {error!r}") from error
    if not isinstance(found, Aggregator):
        raise ConfigError(f"aggregator {entry.name!r} ({entry.value}): expected an Aggregator, got {found!r:.80}")
    return found
