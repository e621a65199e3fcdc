"""What can be chosen by name: our own, and what installed packages offer under an entry point.

    [project.entry-points."fedbus.codecs"]
    mine = "my_package.mine:MINE"

A plug-in is imported when it is asked for, not before. Our own names are looked up first, so none can be replaced by
installing something, and they resolve in a plain checkout too, where there are no metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from fedbus.errors import ConfigError, Wrong

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=BaseModel)


class Registry(Generic[T]):
    """Things of one kind by name; ``what`` names the kind in errors, ``own``: name to ``module:attribute``."""

    def __init__(self, group: str, what: str, kind: type[T], own: Mapping[str, str]) -> None:
        self.group = group
        self._what = what
        self._kind = kind
        self._own = {name: EntryPoint(name, value, group) for name, value in own.items()}

    def names(self) -> tuple[str, ...]:
        """All names that `find` knows, sorted; nothing is imported."""
        return tuple(sorted({*self._own, *(entry.name for entry in entry_points(group=self.group))}))

    def find(self, name: str) -> T:
        """Look one up; ConfigError where it is unknown (lists the known), ambiguous or broken (names it)."""
        if name in self._own:
            return self._load(self._own[name])
        values = {entry.value: entry for entry in entry_points(group=self.group, name=name)}
        if not values:
            raise ConfigError(f"{self._what} {name!r:.80} is unknown; known: {', '.join(self.names())}")
        if len(values) > 1:
            offered = ", ".join(values)
            raise ConfigError(
                f"{self._what} {name!r} is offered by several packages ({offered}): uninstall all but one"
            )
        return self._load(next(iter(values.values())))

    def _load(self, entry: EntryPoint) -> T:
        where = f"{self._what} {entry.name!r} ({entry.value})"
        try:
            found = entry.load()
        except Exception as error:  # somebody else's module is run, it may raise anything
            raise ConfigError(f"{where} cannot be loaded: {error!r}") from error
        if not isinstance(found, self._kind):
            raise ConfigError(f"{where}: expected {_a(self._kind.__name__)}, got {found!r:.80}")
        return found


def parse(what: str, kind: type[OptionsT], options: Mapping[str, Any], paper: str = "") -> OptionsT:
    """Check options; ConfigError names each wrong one, what is allowed, what came, and the paper."""
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        explained = [(found, _explain(kind, found)) for found in error.errors()]
        text = "; ".join(why for _, why in explained) + (f" ({paper})" if paper else "")
        wrong = (Wrong(".".join(map(str, found["loc"])), *_problem(found, why)) for found, why in explained)
        raise ConfigError(f"{what}: {text}", wrong=wrong) from error


def _problem(found: Mapping[str, Any], why: str) -> tuple[str, str]:
    """Return what is wrong with a value, and the value; of an option without one, why that is wrong."""
    if found["type"] in ("extra_forbidden", "missing"):
        return why, ""
    return str(found["msg"]), f"{found['input']!r:.80}"


def _explain(kind: type[BaseModel], found: Mapping[str, Any]) -> str:
    name = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        known = ", ".join(sorted(kind.model_fields)) or "none"
        return f"unknown option {name!r} (known: {known})"
    if found["type"] == "missing":
        return f"option {name!r} is required: it has no default"
    return f"option {name!r}: {found['msg']}, got {found['input']!r:.80}"


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "AEIOU" else f"a {word}"
