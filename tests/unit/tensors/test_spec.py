"""ModelSpec: every dtype, layout without holes, and strictness towards what comes over the wire."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.errors import BadMessage, BadUpdate, ConfigError
from fedbus.tensors import ARRAYS_MAX, DTYPES, MODEL_BYTES_MAX, NAME_CHARS_MAX, ModelSpec


def test_arrays_lie_back_to_back_in_the_order_of_the_mapping() -> None:
    """Offsets are running sums, zero-size and zero-dimensional arrays included; complex counts two parts."""
    spec = ModelSpec.of(
        {"z": np.ones((2, 3), "f4"), "empty": np.ones((0, 5)), "a": np.array(3, "i1"), "c": np.ones(2, "c8")}
    )
    assert [(a.name, a.dtype, a.shape, a.offset, a.nbytes) for a in spec.arrays] == [
        ("z", "<f4", (2, 3), 0, 24),
        ("empty", "<f8", (0, 5), 24, 0),
        ("a", "|i1", (), 24, 1),
        ("c", "<c8", (2,), 25, 16),
    ]
    assert (spec.nbytes, spec.elements, spec.parts) == (41, 9, 11)


def test_an_empty_model_is_a_model() -> None:
    """No arrays: no bytes, no elements, and the wire form comes back."""
    spec = ModelSpec.of({})
    assert (spec.nbytes, spec.elements, spec.parts) == (0, 0, 0)
    assert ModelSpec.from_wire(spec.to_wire()) == spec


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_taken_in_either_byte_order(dtype: str) -> None:
    """Big-endian input has the spec of its little-endian twin, on the wire and through msgpack."""
    little = ModelSpec.of({"a": np.ones(3, dtype)})
    assert ModelSpec.of({"a": np.ones(3, np.dtype(dtype).newbyteorder(">"))}) == little
    assert ModelSpec.from_wire(msgpack.unpackb(msgpack.packb(little.to_wire()))) == little
    little.check({"a": np.ones(3, np.dtype(dtype).newbyteorder(">"))})


@pytest.mark.parametrize(
    "value", [np.ones(2, "g"), np.array([{}]), np.array(["a"]), np.zeros(1, "f4,i4"), np.zeros(1, "M8[s]")]
)
def test_what_is_no_plain_number_is_refused_by_name(value: np.ndarray) -> None:
    """Long double, objects, strings, records and dates have no place in a model."""
    with pytest.raises(ConfigError, match="array 'w': expected a number or bool"):
        ModelSpec.of({"w": value})


def test_lists_are_refused() -> None:
    """A list would be guessed to be float64: say so instead."""
    with pytest.raises(ConfigError, match="array 'w': expected a numpy array, got list"):
        ModelSpec.of({"w": [1.0]})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"w1": np.ones((64, 11), "f4")}, r"array 'w1': expected float32 \(64, 10\), got float32 \(64, 11\)"),
        ({"w1": np.ones((64, 10), "f8")}, r"array 'w1': expected float32 \(64, 10\), got float64 \(64, 10\)"),
        ({"w1": np.ones((64, 10), "O")}, "array 'w1': expected a number or bool"),
        ({"w2": np.ones(1, "f4")}, "array 'w2': unexpected"),
        ({"w1": None}, "array 'w1': expected float32 .* missing"),
    ],
)
def test_check_names_the_array_and_both_sides(change: dict, text: str) -> None:
    """What was expected and what came stand in the refusal."""
    arrays = {"w1": np.ones((64, 10), "f4"), "b": np.ones(3)}
    spec = ModelSpec.of(arrays)
    spec.check(dict(reversed(arrays.items())))  # the order of an update does not matter
    with pytest.raises(BadUpdate, match=text):
        spec.check({name: value for name, value in (arrays | change).items() if value is not None})


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ({}, "expected a list"),
        ([["a", "<f4"]], "name, dtype, shape"),
        ([[b"a", "<f4", []]], "array name"),
        ([["", "<f4", []]], "array name of 1 to"),
        ([["x" * (NAME_CHARS_MAX + 1), "<f4", []]], "got 513 characters"),
        ([["\ud800", "<f4", []]], "Unicode"),
        ([["__metadata__", "<f4", []]], "reserved"),
        ([["a", "<f4", []], ["a", "<f4", []]], "'a' comes twice"),
        ([["a", ">f4", []]], "expected a dtype of"),
        ([["a", "|O", []]], "expected a dtype of"),
        ([["a", 4, []]], "expected a dtype string"),
        ([["a", "<f4", [-1]]], "integers >= 0"),
        ([["a", "<f4", [True]]], "integers >= 0"),
        ([["a", "<f4", [2.0]]], "integers >= 0"),
        ([["a", "<f4", 3]], "integers >= 0"),
        ([["a", "<f4", [1] * 65]], "at most 64 dimensions"),
        ([["a", "<f4", [2**40, 2**40]]], "at most .* bytes"),
        ([["a", "<f4", [0, 2**63]]], "at most .* bytes"),
        ([["a", "|i1", [MODEL_BYTES_MAX]], ["b", "|i1", [1]]], "array 'b' passes"),
        ([[f"{i}", "|i1", [0]] for i in range(ARRAYS_MAX + 1)], "at most 100000 arrays"),
    ],
)
def test_the_wire_is_not_trusted(obj: object, text: str) -> None:
    """Each limit and each type has its refusal, and numpy is never asked to make sense of nonsense."""
    with pytest.raises(BadMessage, match=text):
        ModelSpec.from_wire(obj)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(sorted(DTYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JUNK)
def test_junk_is_a_bad_message_or_a_spec(obj: object) -> None:
    """No other exception leaves from_wire, whatever comes."""
    try:
        spec = ModelSpec.from_wire(obj)
    except BadMessage:
        return
    assert ModelSpec.from_wire(spec.to_wire()) == spec


def test_the_digest_is_pinned_and_sees_every_field() -> None:
    """The canonical encoding may never change: other parties and old journals hold these digests."""
    spec = ModelSpec.from_wire([["w", "<f4", [2, 3]]])
    assert spec.digest == "1123659ae55ce6a2b1a3af8738a16a4275efa9a44831238558f74baee986ee4f"
    others = [["v", "<f4", [2, 3]]], [["w", "<i4", [2, 3]]], [["w", "<f4", [3, 2]]], []
    assert len({spec.digest, *(ModelSpec.from_wire(other).digest for other in others)}) == 5
