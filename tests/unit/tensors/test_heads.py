"""The head of a safetensors file is read for what it is, and nothing else is taken for one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedbus.errors import BadMessage
from fedbus.tensors import ModelSpec, files
from fedbus.tensors.heads import LENGTH_BYTES, length_of, spec_of
from fedbus.tensors.spec import DTYPES


def packed(entries):
    """Return a head of these entries, as any writer would."""
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return len(text).to_bytes(8, "little") + text


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    """Return the entry of an array."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_we_write_is_read_as_it_was():
    """Every dtype, scalars, empty arrays, in their order, with metadata: the spec of the head is the model's."""
    arrays = {f"z-{number}": np.zeros((2, 3), dtype) for number, dtype in enumerate(DTYPES.values())}
    arrays |= {"a-scalar": np.float32(1).reshape(()), "b-empty": np.zeros((0, 4)), "c": np.zeros(1, np.int8)}
    spec = ModelSpec.of(arrays)
    head = files.header(spec, {"fedbus.version": "v-1"})
    assert spec_of(head) == spec
    assert length_of(head[:LENGTH_BYTES]) == len(head)


def test_what_others_write_is_read_by_place():
    """A foreign head lists arrays in any order; they come in that of their data."""
    spec = spec_of(packed({"b": entry(offsets=(8, 16)), "__metadata__": {"format": "pt"}, "a": entry()}))
    assert [array.name for array in spec.arrays] == ["a", "b"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x02\0\0\0",
        b"\xff" * 8,
        (1).to_bytes(8, "little") + b"{",
        packed("{"),
        packed("[]"),
        packed("null"),
        packed('{"a": 1}'),
        packed("[" * 100_000),
        packed({"a": {}}),
        packed({"a": entry(dtype="BF16")}),
        packed({"a": entry(dtype=["F32"])}),
        packed({"a": entry(shape=("2",))}),
        packed({"a": entry(shape=(-2,))}),
        packed({"a": entry(shape=(2**40, 2**40))}),
        packed({"a": entry(offsets=(0, 9))}),
        packed({"a": entry(offsets=(1, 9))}),
        packed({"a": entry(offsets=("0", "8"))}),
        packed({"a": entry(offsets=())}),
        packed({"a": entry(), "b": entry()}),
        packed({"a": entry(), "b": entry(offsets=(9, 17))}),
        packed({"a": entry(), "b": entry(offsets=(4, 12))}),
        packed({"a": entry(), "__metadata__": {"fedbus.complex": "{"}}),
        packed({"a": entry("I32"), "__metadata__": {"fedbus.complex": '["a"]'}}),
        packed({"a": entry(), "__metadata__": []}),
        packed({"": entry()}),
    ],
)
def test_what_is_none_is_refused(head):
    """Garbage, holes, overlaps, foreign dtypes, sizes that cannot be: `BadMessage`, and no other error."""
    with pytest.raises(BadMessage):
        spec_of(head)
