"""What sessions can be made of: strategies, codecs, selections with their options, and all settings of a session."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from fedbus.access.actions import Action
from fedbus.config.session import SessionConfig
from fedbus.errors import NotFound
from fedbus.federation.catalogue import Entry, Kind, entries, find
from fedbus.gateway.answers import json_answer
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, page_of
from fedbus.gateway.views import OptionView, Page, StrategyView


class Strategies(Paged):
    """What to list."""

    kind: Kind | None = None
    """Only strategies, codecs, or selections."""


class OfKind(BaseModel):
    """Which one, where several of different kinds have the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind | None = None
    """Whether a strategy, a codec or a selection is meant."""


async def list_strategies(call: Call) -> Reply:
    """What is installed on the gateway's machine; one that cannot be loaded is listed with the reason."""
    query = call.asked(Strategies)
    return page_of([view for view in _all() if query.kind in (None, view.kind)], query, key=_key)


@cache
def _all() -> tuple[StrategyView, ...]:
    """Everything: what is installed does not change while a process runs."""
    return tuple(sorted((view_of(entry) for entry in entries()), key=_key))


def _key(view: StrategyView) -> str:
    return f"{view.kind} {view.name}"


async def get_strategy(call: Call) -> Reply:
    """One strategy, codec or selection, or a chain of strategies (`norm_clipping+fedadam`), with its options."""
    name, kind = call.path["name"], call.asked(OfKind).kind
    for entry in find(name):
        if kind in (None, entry.kind):
            return view_of(entry)
    raise NotFound(f"{name}: there is no {kind} of this name")


def view_of(entry: Entry) -> StrategyView:
    """Return an entry of the catalogue; options of a chain are called ``member.option``."""
    return StrategyView(
        kind=entry.kind,
        name=entry.name,
        about=entry.broken or entry.about,
        family=entry.family,
        needs=entry.needs,
        paper=entry.paper,
        options=tuple(
            OptionView(
                name=f"{option.member}.{option.name}" if option.member else option.name,
                default=option.default,
                required=option.required,
                description=option.about,
                json_schema=dict(option.schema),
            )
            for option in entry.options
        ),
    )


async def settings(call: Call) -> Reply:
    """JSON Schema of a session's settings, each with its default, bounds and what it is: forms are made of it."""
    return json_answer(call.request, _settings())


@cache
def _settings() -> bytes:
    return json.dumps(SessionConfig.model_json_schema()).encode()


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listStrategies", "GET", f"{API}/strategies", "Strategies, codecs and selections", list_strategies,
        "fedbus strategy list", "fedbus.federation.catalogue.entries", query=Strategies, answer=Page[StrategyView],
        needs=Action.STRATEGY_READ,
    ),
    Operation(
        "getStrategy", "GET", f"{API}/strategies/{{name}}", "One strategy, codec or selection", get_strategy,
        "fedbus strategy show", "fedbus.federation.catalogue.find", query=OfKind, answer=StrategyView, problems=(404,),
        needs=Action.STRATEGY_READ,
    ),
    Operation(
        "getSettings", "GET", f"{API}/settings", "Settings of a session, as JSON Schema", settings,
        "fedbus session settings", "fedbus.SessionConfig.model_json_schema", answer=dict[str, Any],
        needs=Action.STRATEGY_READ,
    ),
)  # fmt: skip
