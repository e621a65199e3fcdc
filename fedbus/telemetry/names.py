"""The names of attributes, of spans and of metrics; what each means: ``docs/reference/telemetry.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes = Mapping[str, AttributeValue]

# Messaging semantic conventions of OpenTelemetry (development status as of 1.38).
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
MESSAGING_CLIENT_ID: Final = "messaging.client.id"
ERROR_TYPE: Final = "error.type"

# HTTP semantic conventions (stable).
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"

# Ours.
WORKSPACE: Final = "fedbus.workspace"
SESSION: Final = "fedbus.session"
ROUND: Final = "fedbus.round"
ATTEMPT: Final = "fedbus.attempt"
CLIENT: Final = "fedbus.client"
COMBINER: Final = "fedbus.combiner"
MODEL_VERSION: Final = "fedbus.model.version"
STRATEGY: Final = "fedbus.strategy"
CODEC: Final = "fedbus.codec"
BYTES: Final = "fedbus.bytes"
CHUNKS: Final = "fedbus.chunks"
RETRANSMITTED: Final = "fedbus.chunks.retransmitted"
WEIGHT: Final = "fedbus.weight"
UPDATES: Final = "fedbus.updates"
UPDATES_TARGET: Final = "fedbus.updates.target"
VERDICT: Final = "fedbus.verdict"
REASON: Final = "fedbus.reason"
WAIT: Final = "fedbus.wait"

# Of metrics alone.
OUTCOME: Final = "fedbus.outcome"
PHASE: Final = "fedbus.phase"
STAGE: Final = "fedbus.stage"
DIRECTION: Final = "fedbus.direction"
QUEUE: Final = "fedbus.queue"
STREAM: Final = "fedbus.stream"
STATUS: Final = "fedbus.status"
ROLE: Final = "fedbus.role"


def messaging(operation: str, kind: str, subject: str, who: str, messages: int) -> dict[str, AttributeValue]:
    """Return what the messaging conventions ask of a span.

    ``operation``: what the role calls it, the beginning of the span's name (the subject does not stand in the name, as
    the convention would have it: it holds names of clients, and names of spans are to be few). ``kind``: ``send``,
    ``receive`` or ``process``. ``who``: the role's own name. ``messages``: how many the span covers.
    """
    return {
        MESSAGING_SYSTEM: "nats",
        MESSAGING_OPERATION: operation,
        MESSAGING_OPERATION_TYPE: kind,
        MESSAGING_DESTINATION: subject,
        MESSAGING_CLIENT_ID: who,
        MESSAGING_BATCH_COUNT: messages,
    }
