"""What is left out for whoever may not see which client gave what (`Action.SESSION_INSPECT`): the clients' names.

A data owner sees how sessions stand, and her own clients (`fedbus.gateway.routes.clients`); who else takes part is
nobody's business but the operator's. Left out are names in what waits, in who made a version, in why a round or a
session ended as it did, and every event that names clients; numbers of clients stay.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from fedbus.access.actions import Action
from fedbus.gateway.caller import Caller
from fedbus.gateway.events import Event
from fedbus.gateway.operations import Reply
from fedbus.gateway.views import ModelDetail, RoundView, SessionView, View, WaitView
from fedbus.messages.records import SessionEnded

NAMELESS = frozenset({"SessionStarted", "ModelPublished", "SessionEnded"})
"""Events that name no client, but in why a session failed (`event_without_clients`)."""

_WAIT: dict[str, Any] = {"on": (), "doing": {}, "away": {}}
_ROUND: dict[str, Any] = {"why": "", "not_counted": {}}


def hides(caller: Caller) -> bool:
    """Whether names of clients are left out of what somebody gets."""
    return not caller.may(Action.SESSION_INSPECT)


def without_clients(reply: Reply) -> Reply:
    """Return a reply without the names of clients; what is no view (a file, a stream) is handed on as it is."""
    if isinstance(reply, tuple):
        view, headers = reply
        return _without(view), headers
    return _without(reply) if isinstance(reply, View) else reply


def frame_without_clients(frame: bytes) -> bytes:
    """Return what is told live beside the journal, the overview, without names: the same as it is asked for."""
    head, mark, data = frame.partition(b"\ndata: ")
    if not mark or head != b"event: overview":
        return frame
    told = json.loads(data)
    told["waits"] = [wait | _WAIT | {"what": _begun(wait["what"])} for wait in told.get("waits", ())]
    return head + mark + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"


def event_without_clients(event: Event) -> Event:
    """Return one of the events that are told all the same; why a session failed names those who were missing."""
    record = event.record
    if not isinstance(record, SessionEnded):
        return event
    bare = record.model_copy(update={"reason": reason_without_clients(record.outcome, record.reason)})
    return Event(event.position, event.session, bare, event.at, event.nbytes)


def reason_without_clients(state: str, reason: str) -> str:
    """Return why a session ended; of one that failed only how: what follows quotes its rounds, and who lacked there."""
    return _begun(reason) if state == "failed" else reason


def _begun(text: str) -> str:
    """Return the first part of what waits, or of why something failed: numbers; names stand in the parts after it."""
    return text.partition("; ")[0]


def _without(value: Any) -> Any:  # noqa: ANN401 - whatever a view may hold
    if isinstance(value, WaitView):
        return value.model_copy(update={**_WAIT, "what": _begun(value.what)})
    if isinstance(value, RoundView):
        return value.model_copy(update=_ROUND)
    if isinstance(value, SessionView):
        value = value.model_copy(update={"reason": reason_without_clients(value.state, value.reason)})
    if isinstance(value, ModelDetail):
        value = value.model_copy(update={"clients": ()})
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: new for name, old in fields.items() if (new := _without(old)) is not old}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, tuple):
        found = tuple(_without(one) for one in value)
        return found if any(new is not old for new, old in zip(found, value, strict=True)) else value
    return value
