"""The head of a safetensors file, read by itself: so that a file can be taken piece by piece, wherever it comes from.

Eight bytes of length, then JSON (`fedbus.tensors.files.header`). Behind it stands the buffer of the spec that is read
here, provided that the arrays lie back to back without holes, which the format asks for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fedbus.errors import BadMessage
from fedbus.tensors.files import COMPLEX_KEY, HEADER_BYTES_MAX, SAFETENSORS_DTYPES
from fedbus.tensors.spec import DTYPES, ModelSpec

LENGTH_BYTES = 8
"""What says how long the JSON is."""

_NAMES = {name: dtype.str for name, dtype in SAFETENSORS_DTYPES.items()}
_PAIRS = {"<f4": "<c8", "<f8": "<c16"}
"""What two of a real dtype are, where the metadata say that they are complex numbers."""


def length_of(start: bytes) -> int:
    """Return how many bytes stand before the data, of the first eight; `BadMessage` where that cannot be."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < LENGTH_BYTES or not 2 <= length <= HEADER_BYTES_MAX:
        raise BadMessage(f"safetensors: expected a header of 2 to {HEADER_BYTES_MAX} bytes, got one of {length}")
    return LENGTH_BYTES + length


def spec_of(head: bytes) -> ModelSpec:
    """Return what a file holds, of all bytes before its data, trusting nothing; `BadMessage` for what is none."""
    try:
        entries = json.loads(head[LENGTH_BYTES : length_of(head)], object_pairs_hook=_distinct)
        notes = entries.pop("__metadata__", {})
        pairs = set(json.loads(notes.get(COMPLEX_KEY, "[]")))
        order = sorted(entries, key=lambda name: tuple(entries[name]["data_offsets"]))
        spec = ModelSpec.from_wire([_wire(name, entries[name], pair=name in pairs) for name in order])
        places = [[array.offset, array.stop] for array in spec.arrays]
        found = [list(entries[name]["data_offsets"]) for name in order]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadMessage(f"safetensors: expected a header, got {len(head)} bytes: {_said(error)}") from error
    if places != found:
        raise BadMessage("safetensors: expected the arrays back to back, as their dtypes and shapes say")
    return spec


def _said(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"{error!r:.200}"


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _wire(name: str, entry: dict[str, Any], *, pair: bool) -> list[Any]:
    if entry["dtype"] not in _NAMES:
        raise ValueError(f"array {name!r:.80} is {entry['dtype']!r:.20}, which numpy has not: convert it first")
    dtype, shape = _NAMES[entry["dtype"]], list(entry["shape"])
    if not pair:
        return [name, dtype, shape]
    if shape[-1:] != [2] or dtype not in _PAIRS:
        raise ValueError(f"expected pairs of F32 or F64 for complex numbers, got {entry['dtype']} {shape}")
    return [name, _PAIRS[dtype], shape[:-1]]


assert {*_NAMES.values(), *_PAIRS.values()} == set(DTYPES), "each dtype has a name in files"
