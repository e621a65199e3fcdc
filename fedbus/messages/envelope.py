"""What every message is wrapped in: version, id, kind, workspace, sender; then one body of a known kind.

On the bus an envelope is one msgpack map ``{"v", "id", "kind", "ws", "from", "body"}``. Unknown fields are ignored, so
that a newer peer may add some; an unknown version or kind is refused with a reason. `decode` never trusts a length: it
bounds the whole, the length of each list and map and how many there are, and every field has a bound of its own in its
pydantic class. ``from`` is for people who read captures: who sent a message is read from its subject.

Where a workspace is secured some are signed (`fedbus.access.envelopes`): then ``"sig"`` stands before the body, as
``[signature, JWT, way]``. What is signed is the body as it was packed, so that a field that one side does not know yet
makes no signature wrong.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

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

IDENTITY_CHARS_MAX = 8192
"""Longest JWT of who has signed: as `fedbus.messages.access.Jwt`."""

WAY_BYTES_MAX = 40 * 33
"""Longest way to what was signed: more posts than 2**40 are not signed at once."""

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


class Signed(NamedTuple):
    """How an envelope is signed; ``said``: its body, packed.

    ``identity``: the JWT of the member who has signed it; '' where that is the workspace. ``way``: from it to what was
    signed, where many were signed at once.
    """

    said: bytes
    signature: bytes
    identity: str = ""
    way: bytes = b""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A body with what it travels in; ``signed``: where it is."""

    id: str
    workspace: str
    sender: str
    body: Body
    signed: Signed | None = None


def encode(envelope: Envelope) -> bytes:
    """Pack an envelope for the bus."""
    head = {
        "v": PROTOCOL,
        "id": envelope.id,
        "kind": envelope.body.kind,
        "ws": envelope.workspace,
        "from": envelope.sender,
    }
    signed = envelope.signed
    if signed is None:
        packed: bytes = msgpack.packb(head | {"body": envelope.body.model_dump(mode="python")}, use_bin_type=True)
    else:
        packed = _with_packed(head | {"sig": [signed.signature, signed.identity, signed.way]}, "body", signed.said)
    assert len(packed) <= ENVELOPE_BYTES_MAX, f"{envelope.body.kind} of {len(packed)} bytes exceeds the protocol"
    return packed


def pack_body(body: Body) -> bytes:
    """Return a body as it travels: what is signed of it."""
    packed: bytes = msgpack.packb(body.model_dump(mode="python"), use_bin_type=True)
    return packed


def _with_packed(head: dict[str, Any], key: str, value: bytes) -> bytes:
    """Pack a map whose last value is packed already."""
    packer = msgpack.Packer(use_bin_type=True)
    parts = [packer.pack(part) for pair in head.items() for part in pair]
    return b"".join([packer.pack_map_header(len(head) + 1), *parts, packer.pack(key), value])


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
    return Envelope(str(texts[0]), str(texts[1]), str(texts[2]), body, _signed(raw, origin))


def _signed(raw: dict[str, Any], origin: str) -> Signed | None:
    """Return how it is signed. Packed again, a body of ours has the bytes that it came as."""
    found = raw.get("sig")
    if found is None:
        return None
    match found:
        case [bytes() as signature, str() as identity, bytes() as way]:
            is_short = len(signature) <= 64 and len(identity) <= IDENTITY_CHARS_MAX and len(way) <= WAY_BYTES_MAX
            with suppress(ValueError):  # deeper than some releases of msgpack pack: not by us
                if is_short:
                    return Signed(msgpack.packb(raw["body"], use_bin_type=True), signature, identity, way)
    raise BadMessage(f"{origin}: expected a signature, a JWT and a way as sig, got {_short(found)}")


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
