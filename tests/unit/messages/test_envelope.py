"""Whatever bytes come, decoding gives an envelope or `BadMessage` with a reason, and takes little memory."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from message_samples import SAMPLES

from fedbus.errors import BadMessage
from fedbus.messages.envelope import ENVELOPE_BYTES_MAX, Envelope, Signed, decode, encode, pack_body
from fedbus.messages.presence import Bye, Hello


def head(kind: bytes) -> bytes:
    """An envelope up to its body."""
    return b"\x86\xa1v\x01\xa4kind" + bytes([0xA0 + len(kind)]) + kind + b"\xa2id\xa0\xa2ws\xa0\xa4from\xa0\xa4body"


def refusal(data) -> str:
    """Why bytes are refused."""
    with pytest.raises(BadMessage) as raised:
        decode(data, "fb.w.report.client.c")
    text = str(raised.value)
    assert text.startswith("fb.w.report.client.c: expected") or " is not valid: " in text
    assert len(text) < 500, "a stranger's bytes flood the log"
    return text


@pytest.mark.parametrize("version", [0, 2, None, "1", [1], {"a": 1}, 1e300])
def test_another_version_is_refused_with_what_to_do(version):
    """The reason names both versions and says which side to upgrade."""
    raw = {"v": version, "id": "i", "kind": "Bye", "ws": "w", "from": "f", "body": {"incarnation": "i"}}
    assert "expected protocol version 1, got" in refusal(msgpack.packb(raw))
    del raw["v"]
    assert "upgrade the older side" in refusal(msgpack.packb(raw))


@pytest.mark.parametrize("kind", ["Tomorrow", "Body", "", None, 7, ["Bye"], "bye", "x" * 10_000, b"Bye"])
def test_an_unknown_kind_is_refused(kind):
    """Only names of our classes are kinds, whatever type comes."""
    raw = {"v": 1, "id": "i", "kind": kind, "ws": "w", "from": "f", "body": {"incarnation": "i"}}
    assert "expected a known kind of message" in refusal(msgpack.packb(raw))


@pytest.mark.parametrize("key", ["id", "ws", "from"])
@pytest.mark.parametrize("value", [None, 7, b"x", "x" * 257, ["x"]])
def test_texts_of_the_envelope_are_short_texts(key, value):
    """id, workspace and sender are texts of at most 256 characters."""
    raw = {"v": 1, "id": "i", "kind": "Bye", "ws": "w", "from": "f", "body": {"incarnation": "i"}} | {key: value}
    assert "texts of at most 256" in refusal(msgpack.packb(raw))


@pytest.mark.parametrize("body", [None, 7, "x", [], [["incarnation", "i"]], {"incarnation": {"a": "b"}}, {1: 2}])
def test_a_body_of_another_form_is_refused(body):
    """A body is a map of its fields."""
    raw = {"v": 1, "id": "i", "kind": "Bye", "ws": "w", "from": "f", "body": body}
    refusal(msgpack.packb(raw))


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\x81\xa1v")
@example(b"\xc0\xc0")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\x90\xc0")
@example(b"\xa1\xff")
def test_random_bytes_are_refused(data):
    """No bytes raise anything but BadMessage."""
    refusal(data)


@given(st.sampled_from(SAMPLES), st.data())
def test_truncated_and_damaged_envelopes_are_refused_or_whole(body, data):
    """Cut anywhere: refused. One byte changed: refused, or still a valid envelope; never another exception."""
    packed = bytearray(encode(Envelope("id", "default", "me", body)))
    refusal(packed[: data.draw(st.integers(0, len(packed) - 1))])
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(packed, "x")
    except BadMessage:
        return
    assert isinstance(found, Envelope)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(SAMPLES), st.data())
def test_any_value_in_any_field_is_refused_or_valid(body, data):
    """A field of a body may hold whatever msgpack can: the answer is an envelope or BadMessage."""
    fields = body.model_dump()
    for name in data.draw(st.lists(st.sampled_from(sorted(fields) or ["x"]), max_size=2)):
        fields[name] = data.draw(anything)
    raw = {"v": 1, "id": "i", "kind": body.kind, "ws": "w", "from": "f", "body": fields}
    try:
        found = decode(msgpack.packb(raw), "x")
    except BadMessage:
        return
    assert found.body.kind == body.kind


@pytest.mark.parametrize("depth", [100, 511, 513, 900, 1100, 100_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
@pytest.mark.parametrize("kind", [b"", b"Hello", b"Typed", b"StartSession"])
def test_deep_nesting_is_refused(depth, opening, kind):
    """Lists or maps in one another, as a whole, as a body, and as a field that takes anything: no RecursionError."""
    data = (head(kind) + b"\x82\xa4data" if kind else b"") + opening * depth + b"\xc0"
    refusal(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of 4 billion
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion
        b"\xdb\xff\xff\xff\xff",  # a text of 4 GiB
        b"\xc6\xff\xff\xff\xff",  # bytes of 4 GiB
        b"\xc9\xff\xff\xff\xff\x01",  # an extension of 4 GiB
        (b"\xdd\x00\x7f\xff\x00" * 1000).ljust(ENVELOPE_BYTES_MAX, b"\x00"),  # lists of 8 million in one another
        b"\xdd\x00\x7f\x00\x00" + b"\x80" * 0x7F0000,  # 8 million empty maps
        b"\xdc\x00\xff" + (b"\xdc\xff\xff" + b"\x80" * 0xFFFF) * 127,  # the same, in short lists
        head(b"RoundClosing") + b"\x81\xa7counted\xdd" + (8_000_000).to_bytes(4, "big") + b"\xc0" * 8_000_000,
        head(b"ReportTaken") + b"\x81\xa7reports\xdd" + (199_000).to_bytes(4, "big") + b"\xc0" * 199_000,
        head(b"UpdatesJudged")
        + b"\x81\xa8verdicts\xdc\x1f\x40"
        + (b"\x81\xa7metrics\xdc\x01\x00" + b"\xc0" * 256) * 8000,
    ],
    ids=lambda data: f"{data[:60]!r:.40}-{len(data)}",
)
def test_lengths_are_not_believed(data):
    """A message of 8 MiB that claims, or costs, far more is refused within 64 MB, before it is looked through.

    Each of the last took up to 48 s and 7 GB while errors were collected one by one.
    """
    tracemalloc.start()
    try:
        refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


def test_an_envelope_has_a_size():
    """One byte more than 8 MiB is refused unread; our own are never sent."""
    assert "expected at most 8388608 bytes" in refusal(b"\xc0" * (ENVELOPE_BYTES_MAX + 1))
    with pytest.raises(AssertionError, match="exceeds the protocol"):
        encode(Envelope("x" * (ENVELOPE_BYTES_MAX + 1), "w", "f", Bye(incarnation="i")))


@pytest.mark.parametrize("of", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(of):
    """Payloads come as bytes, bytearray or memoryview."""
    sent = Envelope("i", "w", "f", Hello(incarnation="i", heartbeat_s=1.0))
    assert decode(of(encode(sent)), "x") == sent


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda body: body.kind)
def test_what_is_signed_of_a_body_is_what_was_packed(sample):
    """Read and packed again, every body has the bytes that it had: a signature of them stays right."""
    said = pack_body(sample)
    signed = Signed(said, bytes(64), "a.b.c", b"\1" * 33)
    found = decode(encode(Envelope("i", "w", "f", sample, signed)), "fb.w.report.client.c")
    assert found.signed == signed and found.body == sample
    bare = decode(encode(Envelope("i", "w", "f", sample)), "fb.w.report.client.c")
    assert bare.signed is None and bare.body == sample


@pytest.mark.parametrize(
    "sig",
    [7, "x", [], [b"", "", b"", b""], ["", "", b""], [b"", b"", b""], [bytes(65), "", b""], [b"", "x" * 8193, b""],
     [b"", "", bytes(1321)], {"a": 1}],
)  # fmt: skip
def test_a_signature_of_another_form_is_refused(sig):
    """It is three things of bounded sizes, or it is not there."""
    raw = {"v": 1, "id": "i", "kind": "Bye", "ws": "w", "from": "f", "sig": sig, "body": {"incarnation": "i"}}
    assert "expected a signature, a JWT and a way as sig" in refusal(msgpack.packb(raw))
