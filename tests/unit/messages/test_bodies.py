"""Every word that travels goes there and back unchanged, is frozen, and bounds all that a stranger may fill."""

from __future__ import annotations

import msgpack
import pytest
from message_samples import DIGEST, SAMPLES
from pydantic import ValidationError

from fedbus.errors import BadMessage
from fedbus.messages import envelope, presence, records, reports, uploads
from fedbus.messages.commands import StartSession
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import METRICS_MAX
from fedbus.messages.registry import Importing, Promoted, RegistryState, Retired, Stage

each = pytest.mark.parametrize("body", SAMPLES, ids=lambda body: body.kind)


def wire(body, **changes):
    """The outer map of a body, with changes."""
    return {"v": 1, "id": "i", "kind": body.kind, "ws": "w", "from": "f", "body": body.model_dump()} | changes


def test_there_is_a_sample_of_every_kind():
    """A kind that is added without a sample here fails this test, and so is never left out of the others."""
    assert {body.kind for body in SAMPLES} == set(envelope._KINDS)


@each
def test_a_body_goes_there_and_back(body: Body):
    """What is decoded equals what was encoded, in every field."""
    sent = Envelope("id-1", "default", "me", body)
    assert decode(encode(sent), "here") == sent


@each
def test_every_field_of_a_sample_is_set(body: Body):
    """The samples leave no field at its default, so that a field that is lost on the way is noticed."""
    for name, field in type(body).model_fields.items():
        assert field.is_required() or getattr(body, name) != field.get_default(call_default_factory=True), name


@each
def test_unknown_fields_are_ignored(body: Body):
    """A newer peer may add fields, in the envelope and in the body; those of the registry, which is written again by
    whoever changes it, are handed on.
    """
    raw = wire(body, later={"x": [1]})
    more = {"a field of tomorrow": {"y": b"2"}}
    raw["body"] |= more
    read = decode(msgpack.packb(raw), "here").body
    handed_on = type(body) in (Importing, Promoted, RegistryState, Retired, Stage)
    assert read.model_dump() == (body.model_dump() | more if handed_on else body.model_dump())


@each
def test_a_body_that_lacks_a_field_is_refused_by_its_name(body: Body):
    """The reason names the kind and the field."""
    for name, field in type(body).model_fields.items():
        if field.is_required():
            raw = wire(body)
            del raw["body"][name]
            with pytest.raises(BadMessage, match=rf"^here: {body.kind} is not valid: {name}"):
                decode(msgpack.packb(raw), "here")


@each
def test_each_field_has_a_bound(body: Body):
    """Nothing of a body takes what no honest peer sends: huge texts, numbers, lists and maps of huge length."""
    loose = {"RefusedUpdate.stage", "Seen.version", "Seen.doing", "SessionStarted.by", "RoundOpened.traceparent"}
    loose |= {"AcceptedUpdate.digest", "ModelPublished.parent", "SessionEnded.version", "SessionEnded.digest"}
    # All of whose fields have defaults: of a map of other names nothing is taken.
    loose |= {"Order.plan", "Plan.encoding", "Plan.downlink", "SessionStarted.plan", "Train.encoding"}
    huge = ["x" * 300_000, -1e400, {f"{i}": None for i in range(200_001)}, [None] * 200_001]
    for name in type(body).model_fields:
        for value in huge:
            try:
                type(body).model_validate(body.model_dump() | {name: value})
            except ValidationError:
                continue
            metric = isinstance(value, float)  # infinite norms and weights travel, and are refused with a reason
            assert metric or f"{body.kind}.{name}" in loose | {"Typed.data"}, (name, type(value))


@each
def test_bodies_are_frozen(body: Body):
    """Nobody changes a message on its way through a role."""
    for name in type(body).model_fields:
        with pytest.raises(ValidationError):
            setattr(body, name, None)


NO_NAMES = ["", ".", "a.b", "a b", "*", ">", "a\0", "a\n", "ä", "x" * 65, "a/b", "..", b"\xff", 7, None]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused(name):
    """Dots, spaces, wildcards, NUL, line ends, accents and 65 characters would bend subjects and paths."""
    raw = wire(presence.Bye(incarnation="i"))
    raw["body"]["incarnation"] = name
    with pytest.raises(BadMessage, match="incarnation"):
        decode(msgpack.packb(raw), "here")


@pytest.mark.parametrize("name", ["x" * 41, "a.b", ""])
def test_a_new_session_has_room_for_the_names_of_its_versions(name):
    """41 characters leave no room for round and attempt in 64: such a session would end the coordinator later."""
    with pytest.raises(ValidationError, match="session"):
        StartSession(session=name, config={}, blob="b", digest=DIGEST, nbytes=1)
    longest = StartSession(session="x" * 40, config={}, blob="b", digest=DIGEST, nbytes=1).session
    records.RoundClosing(
        round=10**6,
        attempt=10**9,
        counted=(),
        root="k",
        publish=f"{longest}-1000000-1000000000",
        reason="",
        deadline_at=0,
    )


@pytest.mark.parametrize("heartbeat_s", [0, -1, 3601, float("inf"), float("nan")])
def test_nobody_is_present_for_ever(heartbeat_s):
    """A pause between heartbeats without a bound would keep a peer that is gone on the roster."""
    with pytest.raises(ValidationError, match="heartbeat_s"):
        presence.Hello(incarnation="i", heartbeat_s=heartbeat_s)


def test_metrics_have_bounds_and_may_be_infinite():
    """At most 256 of 1 to 128 characters; NaN and infinities are numbers that an app may report."""
    fields = {"session": "s", "round": 1, "version": "v", "weight": 1.0}
    for metrics in ({f"{i}": 0.0 for i in range(METRICS_MAX + 1)}, {"": 1.0}, {"x" * 129: 1.0}, {"x": "y"}):
        with pytest.raises(ValidationError, match="metrics"):
            reports.Evaluated(**fields, metrics=metrics)
    found = reports.Evaluated(**fields, metrics={"x": float("nan"), "y": float("inf")}).metrics
    assert str(found) == "{'x': nan, 'y': inf}"


def test_weights_that_cannot_count_travel_to_where_they_are_refused():
    """An announced weight may be NaN: the combiner refuses it with a reason, which a decode error could not tell."""
    fields = {"session": "s", "round": 1, "attempt": 1, "spec": DIGEST, "digest": DIGEST, "nbytes": 1, "chunks": 1}
    begin = uploads.UploadBegin(**fields, weight=float("nan"))
    found = decode(encode(Envelope("i", "w", "f", begin)), "here").body
    assert isinstance(found, uploads.UploadBegin) and found.weight != found.weight


def test_an_entry_gives_back_its_records():
    """Records keep their order and kinds; those of a newer release, and damaged ones, are refused, not guessed."""
    all_records = tuple(body for body in SAMPLES if body.kind in records.RECORDS)
    assert len(all_records) == len(records.RECORDS)
    entry = records.Entry.of(2.5, "e", all_records)
    again = decode(encode(Envelope("i", "w", "f", entry)), "here").body
    assert isinstance(again, records.Entry) and again.unpack() == all_records
    newer = records.Entry(at=1.0, epoch="e", records=(records.Typed(type="Tomorrow", data={}),))
    with pytest.raises(BadMessage, match="'Tomorrow'; upgrade"):
        newer.unpack()
    damaged = records.Entry(at=1.0, epoch="e", records=(records.Typed(type="RoundFailed", data={}),))
    with pytest.raises(BadMessage, match="RoundFailed is not valid"):
        damaged.unpack()


def test_more_times_than_we_know_are_no_error():
    """A newer peer's fifth time is ignored as an unknown field is: an entry that is passed over would lose updates."""
    known = next(body for body in SAMPLES if isinstance(body, uploads.UploadBegin))
    raw = wire(known)
    raw["body"]["spent"] = [*raw["body"]["spent"], 5.0, "new"]
    assert decode(msgpack.packb(raw), "here").body == known


@pytest.mark.parametrize("spent", [[-1.0], [float("nan")], [1e300], ["x"], "abc", [[1]], 3, {"wait_s": -1}])
def test_times_that_cannot_be_are_refused(spent):
    """What a hostile client says of its time is a peer's mistake, and nothing else."""
    raw = wire(next(body for body in SAMPLES if isinstance(body, uploads.UploadBegin)))
    raw["body"]["spent"] = spent
    with pytest.raises(BadMessage, match="spent"):
        decode(msgpack.packb(raw), "here")
