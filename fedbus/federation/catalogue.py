"""What sessions can be made of: strategies, codecs and selections by name, with their options, from the registries.

What is installed is shown, also from other packages; what is broken is shown with the reason, so that the rest is seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

from fedbus import aggregation, codecs, selection
from fedbus.errors import ConfigError, NotFound

Kind = Literal["strategy", "codec", "selection"]

REGISTRIES: Mapping[Kind, Any] = {"strategy": aggregation, "codec": codecs, "selection": selection}

SETTINGS: Mapping[Kind, str] = {
    "strategy": "strategy_options",
    "codec": "codec_options",
    "selection": "selection_options",
}
"""Which setting of a session holds the options of each kind."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``default`` None where it has none, or is ``required``; ``schema``: JSON Schema of its values.

    ``member``: of a chain, which of its strategies has it.
    """

    name: str
    default: Any
    required: bool
    about: str
    schema: Mapping[str, Any]
    member: str = ""

    @property
    def allowed(self) -> str:
        """Say what its schema allows: ``number, > 0, <= 1000``."""
        return allowed(self.schema)


@dataclass(frozen=True, slots=True)
class Entry:
    """A strategy, codec or selection. ``broken``: why it cannot be loaded; nothing else is known of it then."""

    kind: Kind
    name: str
    about: str = ""
    family: str = ""
    needs: tuple[str, ...] = ()
    paper: str = ""
    options: tuple[Option, ...] = ()
    broken: str = ""


def entries(kind: Kind | None = None) -> list[Entry]:
    """Return everything that is installed, or all of a kind, in the order of kinds and names."""
    return [_entry(one, name) for one in get_args(Kind) if kind in (None, one) for name in REGISTRIES[one].names()]


def find(name: str) -> list[Entry]:
    """Return everything of a name, or a chain of strategies: ``norm_clipping+fedadam``; `NotFound` where none is.

    `ConfigError` for a chain that cannot be.
    """
    if "+" in name and set(name.split("+")) <= set(aggregation.names()):
        return [_described("strategy", aggregation.find(name))]
    found = [_entry(kind, name) for kind in get_args(Kind) if name in REGISTRIES[kind].names()]
    if not found:
        raise NotFound(f"{name!r:.80}: no strategy, codec or selection has this name; see: fedbus strategy list")
    return found


def _entry(kind: Kind, name: str) -> Entry:
    try:
        return _described(kind, REGISTRIES[kind].find(name))
    except ConfigError as error:  # a plug-in that is broken: the others are to be seen
        return Entry(kind, name, broken=f"cannot be loaded: {error}")


def _described(kind: Kind, found: Any) -> Entry:  # noqa: ANN401 - of three kinds, with some fields alike
    members = getattr(found, "members", ())
    options = (
        tuple(option for member in members for option in options_of(member.options, member.name))
        if members
        else options_of(found.options)
    )
    return Entry(
        kind=kind,
        name=found.name,
        about=_about(found),
        family=_family(found),
        needs=tuple(_needs(found)),
        paper=found.paper,
        options=options,
    )


def options_of(model: type[BaseModel], member: str = "") -> tuple[Option, ...]:
    """Return the fields of a model of options, or of settings."""
    schema = model.model_json_schema()
    properties = schema.get("properties", {})
    return tuple(
        Option(
            name=name,
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            required=field.is_required(),
            about=" ".join((field.description or "").split()),
            schema={key: value for key, value in properties.get(name, {}).items() if key != "description"},
            member=member,
        )
        for name, field in model.model_fields.items()
    )


def allowed(schema: Mapping[str, Any]) -> str:
    """Say what a JSON schema allows: ``number, > 0, <= 1000``."""
    if "anyOf" in schema:
        return " or ".join(filter(None, (allowed(one) for one in schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    words = [{"null": "none"}.get(schema.get("type", ""), schema.get("type", ""))]
    for key, sign in (("exclusiveMinimum", ">"), ("minimum", ">="), ("exclusiveMaximum", "<"), ("maximum", "<=")):
        if key in schema:
            words.append(f"{sign} {schema[key]:g}")
    return ", ".join(filter(None, words))


def _family(found: object) -> str:
    family = getattr(found, "family", None)
    return family.value.replace("_", " ") if family is not None else ""


def _about(found: Any) -> str:  # noqa: ANN401 - as above
    """Return the first paragraph of the module that it is from."""
    function: Callable[..., object] | None = getattr(found, "choose", None) or getattr(found, "encode", None)
    if getattr(found, "members", ()):
        return ""  # a chain's members are shown by themselves
    module = inspect.getmodule(found.options)
    if not hasattr(found, "family") and function is not None:
        module = inspect.getmodule(function) or module
    text = (inspect.getdoc(module) or "") if module is not None else ""
    name = getattr(module, "__name__", "")
    return "" if name.endswith(".base") or name == "pydantic" else text.split("\n\n")[0].replace("\n", " ")


def _needs(found: Any) -> list[str]:  # noqa: ANN401 - as above
    """Say what a strategy asks of clients and rounds beyond what all do."""
    needs = []
    if getattr(found, "metrics", ()):
        needs.append(f"each update carries the metrics {', '.join(found.metrics)}")
    if getattr(found, "uniform", False):
        needs.append("the weights that clients give do not count")
    if getattr(found, "companions", ()):
        needs.append(f"arrays that travel with the model: {', '.join(found.companions)}")
    if getattr(found, "buffer", None) is not None:
        needs.append("asynchronous: nobody waits for a round")
    if getattr(found, "feedback", False):
        needs.append("clients add what was lost to their next update")
    if getattr(found, "everyone", False):
        needs.append("asks all that are there")
    return needs
