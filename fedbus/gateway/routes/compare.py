"""Sessions side by side."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedbus.access.actions import Action
from fedbus.federation.comparing import SESSIONS_MAX, compared
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.shapes import curve_view, session_view
from fedbus.gateway.views import ComparisonView, DifferenceView
from fedbus.messages.ids import Name


class ComparisonAsked(BaseModel):
    """Which sessions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    session: Annotated[
        tuple[Name, ...], Field(min_length=2, max_length=SESSIONS_MAX, json_schema_extra={"uniqueItems": True})
    ]
    """Each of them: `?session=a&session=b`."""


async def compare(call: Call) -> Reply:
    """Settings in which sessions differ, and their metrics as curves."""
    await call.gateway.sessions.wait()
    infos = [await call.gateway.sessions.info(name) for name in call.asked(ComparisonAsked).session]
    found, now = compared(infos), call.gateway.federation.now()
    return ComparisonView(
        sessions=tuple(session_view(info, (), now) for info in found.sessions),
        settings=tuple(DifferenceView(setting=one.setting, values=one.values) for one in found.settings),
        curves=tuple(curve_view(curve) for curve in found.curves),
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "compareSessions", "GET", f"{API}/compare", "Sessions side by side", compare,
        "fedbus session compare SESSION SESSION", "Federation.compare", query=ComparisonAsked, answer=ComparisonView,
        problems=(404,), needs=Action.SESSION_READ,
    ),
)  # fmt: skip
