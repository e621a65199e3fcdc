"""Bytes and values of somebody else: unpacked at one door, shown without being trusted, bounded in depth.

What travels is msgpack and JSON, which hold values and nothing that runs. Still a few bytes can ask for much: lists in
lists by the thousand are more than `repr`, `json` and msgpack's own packer can go down into, and fail there with an
error that nobody expects. So what comes from a peer is unpacked here or in `fedbus.messages.envelope`, and shown by
`shown`, which looks at no more than it shows.
"""

from __future__ import annotations

import reprlib
from typing import Any

import msgpack

from fedbus.errors import BadMessage

DEPTH_MAX = 64
"""Deepest nesting of a value that is handed on: settings have 32, what stands around them a few more."""

_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 3, 200, 200


def unpacked(data: bytes | bytearray | memoryview, what: str) -> Any:  # noqa: ANN401 - whatever somebody has packed
    """Return what msgpack holds; `BadMessage`, with ``what`` it was to be, for anything else."""
    try:
        return msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise BadMessage(f"{what}: expected msgpack, got {len(data)} bytes that are none") from error


def shown(value: object, chars_max: int = 80) -> str:
    """Return a stranger's value as an error names it: short, however long or deep it is."""
    return _SHOWN.repr(value)[:chars_max]


def shallow(value: Any) -> Any:  # noqa: ANN401 - a validator of whatever a message may hold
    """Return a value that nests at most `DEPTH_MAX` deep; ValueError for a deeper one."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list | tuple)]
        if not level:
            return value
    raise ValueError(f"expected lists and maps at most {DEPTH_MAX} deep")


def _inside(value: Any) -> Any:  # noqa: ANN401 - as above
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
