"""What every message is wrapped in: version, id, kind, workspace, sender; then one body of a known kind.

On the bus an envelope is one msgpack map ``{"v", "id", "kind", "ws", "from", "body"}``. Unknown fields are ignored, so
that a newer peer may add some; an unknown version or kind is refused with a reason. `decode` never trusts a length: it
bounds the whole, the length of each list and map and how many there are, and every field has a bound of its own in its
pydantic class. ``from`` is for people who read captures: who sent a message is read from its subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import msgpack
from pydantic import BaseModel, ConfigDict, ValidationError

from fedbus.errors import BadMessage

T = TypeVar("T")

PROTOCOL = 1
"""The version that we speak."""

ENVELOPE_BYTES_MAX = 8 * 2**20
"""Most bytes of one envelope; above it brokers warn (8 MB), and no body of ours needs so much."""

ITEMS_MAX = 200_000
"""Most items of one list or map: one for each client of the largest session."""

CONTAINERS_MAX = 200_000
"""Most lists and maps in one envelope: an empty one is a byte on the wire and 64 in memory."""

_KINDS: dict[str, type[Body]] = {}


class Body(BaseModel):
    """Base of all bodies: frozen, unknown fields ignored, the kind is the name of the class."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=False)
    kind: ClassVar[str] = "Body"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Make the class known to `decode` under its name."""
        cls.kind = cls.__name__
        _KINDS[cls.__name__] = cls


@dataclass(frozen=True, slots=True)
class Envelope:
    """A body with what it travels in."""

    id: str
    workspace: str
    sender: str
    body: Body


def encode(envelope: Envelope) -> bytes:
    """Pack an envelope for the bus."""
    packed: bytes = msgpack.packb(
        {
            "v": PROTOCOL,
            "id": envelope.id,
            "kind": envelope.body.kind,
            "ws": envelope.workspace,
            "from": envelope.sender,
            "body": envelope.body.model_dump(mode="python"),
        },
        use_bin_type=True,
    )
    assert len(packed) <= ENVELOPE_BYTES_MAX, f"{envelope.body.kind} of {len(packed)} bytes exceeds the protocol"
    return packed


def decode(data: bytes | bytearray | memoryview, origin: str) -> Envelope:
    """Unpack an envelope; ``origin`` (a subject) is named in the error.

    Raises `BadMessage` for anything that is not an envelope of a version and kind that we know.
    """
    raw = _unpack(data, origin)
    if raw.get("v") != PROTOCOL:
        raise BadMessage(
            f"{origin}: expected protocol version {PROTOCOL}, got {_short(raw.get('v'))}; upgrade the older side"
        )
    cls = _KINDS.get(raw["kind"]) if isinstance(raw.get("kind"), str) else None
    if cls is None:
        raise BadMessage(f"{origin}: expected a known kind of message, got {_short(raw.get('kind'))}")
    texts = [raw.get(key) for key in ("id", "ws", "from")]
    if not all(isinstance(text, str) and len(text) <= 256 for text in texts):
        raise BadMessage(f"{origin}: expected texts of at most 256 characters as id, ws and from of {cls.kind}")
    try:
        body = cls.model_validate(raw.get("body"))
    except ValidationError as error:
        raise BadMessage(f"{origin}: {cls.kind} is not valid: {_first(error)}") from error
    return Envelope(str(texts[0]), str(texts[1]), str(texts[2]), body)


def is_envelope(data: bytes | bytearray | memoryview) -> bool:
    """Whether something is an envelope, perhaps of a version, a kind or a body that only a newer release knows."""
    try:
        return {"v", "kind", "body"} <= _unpack(data, "").keys()
    except BadMessage:
        return False


def _unpack(data: bytes | bytearray | memoryview, origin: str) -> dict[str, Any]:
    """Return the outer map of raw bytes."""
    if len(data) > ENVELOPE_BYTES_MAX:
        raise BadMessage(f"{origin}: expected at most {ENVELOPE_BYTES_MAX} bytes, got {len(data)}")
    count = _Count()
    try:
        raw = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_ext_len=0,
            max_array_len=ITEMS_MAX,
            max_map_len=ITEMS_MAX,
            object_hook=count,
            list_hook=count,
        )
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise BadMessage(f"{origin}: expected a msgpack map, got {len(data)} bytes that are not one") from error
    if not isinstance(raw, dict):
        raise BadMessage(f"{origin}: expected a msgpack map, got {type(raw).__name__}")
    return raw


class _Count:
    """Counts the lists and maps of an envelope as they are unpacked, and refuses one too many."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, container: T) -> T:
        self.seen += 1
        if self.seen > CONTAINERS_MAX:
            raise ValueError(f"expected at most {CONTAINERS_MAX} lists and maps")
        return container


def _short(value: object) -> str:
    """Show a stranger's value without letting it flood a log, or nest deeper than `repr` can go."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value[:80] if isinstance(value, str | bytes) else value)[:80]


def _first(error: ValidationError) -> str:
    """Say the first thing that is wrong: where, and what."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}, got {_short(first['input'])}"
