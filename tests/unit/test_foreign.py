from __future__ import annotations

import msgpack
import pytest

from fedbus.errors import BadMessage
from fedbus.foreign import DEPTH_MAX, shallow, shown, unpacked
from fedbus.messages import envelope
from fedbus.messages.ids import sayable, sayable_lines
from fedbus.messages.tasks import Train
from fedbus.tensors import CHUNK_BYTES_MAX, Manifest, ModelSpec

DEEP = b"\x91" * 1000 + b"\xc0"
"""A list in a list, a thousand times: a thousand bytes that `repr` cannot go down into."""


def nested(depth):
    """Return lists in lists."""
    value = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x81\xc0\xc0", b"\x91" * 5000])
def test_what_is_no_msgpack_is_a_bad_message(data):
    """Nothing, a byte that is none, a list of four thousand million, a key that is none, lists in lists for ever."""
    with pytest.raises(BadMessage, match="expected msgpack"):
        unpacked(data, "a thing")


def test_a_value_is_shown_however_deep_or_long_it_is():
    """An error about it does not fail on it, and does not copy all of it."""
    assert len(shown(unpacked(DEEP, "deep"))) <= 80
    assert len(shown({"a": "x" * 10_000_000, "b": [1] * 1000})) <= 80
    assert shown("text") == "'text'"


@pytest.mark.parametrize("read", [ModelSpec.from_wire, Manifest.from_wire])
def test_a_deep_value_in_place_of_a_model_is_a_bad_message(read):
    """Not a `RecursionError` of whoever wishes to say what came."""
    for value in (unpacked(DEEP, "deep"), [unpacked(DEEP, "deep")], [["a", "<f4", unpacked(DEEP, "deep")]]):
        with pytest.raises(BadMessage):
            read(value)


def test_options_nest_only_as_deep_as_they_can_be_packed_again():
    """What a message takes it can be sent in again: msgpack packs 511 levels, and unpacks a thousand."""
    assert shallow(nested(DEPTH_MAX)) == nested(DEPTH_MAX)
    with pytest.raises(ValueError, match="at most 64 deep"):
        shallow(nested(DEPTH_MAX + 1))
    fields = {"round": 1, "attempt": 0, "version": "v", "blob": "b", "combiner": "c", "seed": 0, "deadline_at": 1.0}
    task = {"session": "s", "revision": 1, "state": "train", "train": {**fields, "weight_max": 1.0, "config": 0}}
    head = {"v": 1, "id": "a", "ws": "ws", "from": "x", "kind": "Task", "body": task}
    packed = msgpack.packb(head).replace(b"\xa6config\x00", b"\xa6config\x81\xa1a" + DEEP)
    with pytest.raises(BadMessage, match="deep"):
        envelope.decode(packed, "fuzz")
    Train.model_validate({**fields, "weight_max": 1.0, "config": {"a": nested(30)}})


def test_a_manifest_that_lies_about_its_size_costs_nothing():
    """A model of a terabyte is not cut into chunks before there are digests for them; the honest number is."""
    wire = {
        "spec": [["w", "|u1", [2**40]]],
        "chunk_bytes": CHUNK_BYTES_MAX,
        "chunks": b"",
        "digest": "0" * 64,
        "absmax": [0.0],
    }
    with pytest.raises(BadMessage, match="expected digests"):
        Manifest.from_wire(wire)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain ü", "plain ü"),
        ("a\nb\r\tc\u2028d\xa0e", "a b  c d e"),
        ("\x1b[2J\x07\x9b\x00", "\ufffd[2J\ufffd\ufffd\ufffd"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("half \udc80", "half ?"),
    ],
)
def test_a_strangers_text_is_one_line_that_moves_nothing(text, line):
    """Line ends are blanks; escapes, bells, what turns the writing around and halves of characters are signs."""
    assert sayable(text) == line
    assert len(line) == len(text)
    assert sayable_lines("a\nb\x1b") == "a\nb\ufffd"
