"""What callers hand to a bus, checked before anything is sent, and alike for every bus.

Payloads are frozen here: a sender may reuse its buffer as soon as `publish` returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fedbus.bus.base import Payload, StreamSpec
from fedbus.bus.patterns import check_pattern, matcher
from fedbus.errors import BusFull, ConfigError

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

HEADERS_BYTES_MAX = 4096
"""All headers of a message together: trace context and a few words of ours; they count into max_payload."""

BROKER_HEADERS_BYTES = 1024
"""What the bus adds itself to an append: stream, expected sequence, message id."""

MESSAGE_ID_BYTES_MAX = 256

REPEAT_WINDOW_S = 120.0
"""How long a message id is remembered; JetStream's default, and what `base.Bus.append` promises."""

_HEADER_NAME = re.compile(r"[!-9;-~]+")
_RESERVED = "nats-"
_STATUS_NAMES = ("status", "description")


def frozen_payload(data: Payload, bytes_max: int) -> bytes:
    """Return the payload as bytes of its own (no copy when it is ``bytes`` already); `BusFull` when it is too large."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size > bytes_max:
        raise BusFull(f"payload of {size} bytes, the broker takes at most {bytes_max} (max_payload): send it in chunks")
    return data if isinstance(data, bytes) else bytes(data)


def frozen_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return a copy that cannot be changed; `ConfigError` for what would not arrive as it was sent."""
    if not headers:
        return NO_HEADERS
    size = 0
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower().startswith(_RESERVED):
            raise ConfigError(f"header name {name!r}: visible ASCII without colon, and 'Nats-' is the broker's own")
        if name.lower() in _STATUS_NAMES:
            raise ConfigError(f"header name {name!r}: that is how nats-py shows the broker's own answers")
        if value != value.strip() or any(c in value for c in "\r\n\0"):
            raise ConfigError(f"header {name}: {value!r} has line ends, or blanks around it, which do not travel")
        size += len(name) + len(value.encode()) + 4
    if size > HEADERS_BYTES_MAX:
        raise ConfigError(f"headers of {size} bytes: at most {HEADERS_BYTES_MAX}")
    return MappingProxyType(dict(headers))


def checked_patterns(pattern: str | Sequence[str], count_max: int | None = None) -> tuple[str, ...]:
    """Return one pattern or several as a tuple, each once, in their order; `ConfigError` for none, or for a bad one."""
    patterns = (pattern,) if isinstance(pattern, str) else tuple(dict.fromkeys(pattern))
    if not patterns:
        raise ConfigError("expected a pattern, got none")
    if count_max is not None and len(patterns) > count_max:
        raise ConfigError(f"{len(patterns)} patterns: at most {count_max} at once, ask in several calls")
    for one in patterns:
        check_pattern(one)
    return patterns


def patterns_text(patterns: Sequence[str]) -> str:
    """Name patterns in an error or a log line, however many there are."""
    return repr(patterns[0]) if len(patterns) == 1 else f"{patterns[0]!r} and {len(patterns) - 1} more"


def check_message_id(message_id: str | None) -> None:
    """Raise `ConfigError` unless this may be the id of a message."""
    if message_id is None:
        return
    if not message_id or not message_id.isprintable() or message_id != message_id.strip():
        raise ConfigError(f"message id {message_id!r}: not empty, no control characters, no blanks around it")
    if len(message_id.encode()) > MESSAGE_ID_BYTES_MAX:
        raise ConfigError(f"message id of {len(message_id.encode())} bytes: at most {MESSAGE_ID_BYTES_MAX}")


def check_stream_name(name: str) -> None:
    """Raise `ConfigError` unless a stream may be called that."""
    if not name or any(c in name for c in ".*>/\\ ") or not name.isprintable():
        raise ConfigError(f"stream name {name!r}: one token without dots, blanks, wildcards or slashes")


def check_spec(spec: StreamSpec) -> None:
    """Raise `ConfigError` unless a stream can be made like this."""
    check_stream_name(spec.name)
    if not spec.subjects:
        raise ConfigError(f"stream {spec.name!r} needs a subject")
    for pattern in spec.subjects:
        check_pattern(pattern)
    if spec.per_subject_max < 0 or spec.age_max_s < 0 or not 0 <= spec.replicas <= 5 or spec.bytes_max == 0:
        raise ConfigError(f"stream {spec.name!r}: a limit is out of range: {spec}")
    if spec.drop_oldest and spec.bytes_max < 0:
        raise ConfigError(f"stream {spec.name!r}: drop_oldest needs bytes_max, or nothing would ever be dropped")
    if spec.append_only and (spec.per_subject_max or spec.age_max_s or spec.drop_oldest):
        raise ConfigError(f"stream {spec.name!r}: what is append_only forgets nothing by age, count or size: {spec}")


def check_expected(subject: str, expected_last: int | None, expected_of: str | None) -> None:
    """Raise `ConfigError` unless this may be what an append to a subject expects."""
    if expected_of is None:
        return
    check_pattern(expected_of)
    if expected_last is None:
        raise ConfigError(f"append {subject}: expected_of {expected_of!r} without a sequence that is expected")
    if not matcher(expected_of)(subject):
        raise ConfigError(f"append {subject}: expected_of {expected_of!r} does not match it")


def check_sequence(sequence: int) -> None:
    """Raise `ConfigError` unless a message may have this sequence; the highest is what JSON carries exactly."""
    if not 1 <= sequence < 2**53:
        raise ConfigError(f"sequence {sequence}: expected one from 1 to {2**53 - 1}")
