"""Subjects: what is built is parsed back, what another workspace or a stranger says is refused."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.bus.checks import check_stream_name
from fedbus.bus.patterns import check_pattern, check_subject, overlap
from fedbus.errors import BadMessage, ConfigError
from fedbus.messages.ids import Peer, check_name
from fedbus.messages.subjects import ROLES, ChunkAddress, Subjects
from fedbus.store.streams import streams_of

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
peers = st.builds(Peer, st.sampled_from(ROLES), names)
counts = st.integers(0, 2**53 - 1)
OURS = Subjects("default")


@given(names, peers, names, counts, counts, counts, st.integers(0, 2**64 - 1))
def test_a_chunks_address_goes_there_and_back(combiner, sender, session, round_, attempt, chunk, digest):
    """All that a chunk is stands in its subject, which the combiner's pattern matches."""
    address = ChunkAddress(sender, session, round_, attempt, chunk, digest)
    subject = OURS.chunk(combiner, address)
    check_subject(subject)
    assert OURS.address(subject) == address
    assert overlap([OURS.chunks(combiner)], [subject])


@given(names, peers)
def test_senders_are_parsed_back(combiner, peer):
    """Who published is read from the subject, wherever it stands."""
    assert OURS.sender(OURS.up(combiner, peer), "up", 3, 1) == peer
    assert OURS.sender(OURS.report(peer), "report", 2, 0) == peer
    assert OURS.sender(OURS.presence(peer), "presence", 2, 0) == peer
    assert OURS.sender(OURS.command(peer), "command", 2, 0) == peer
    assert OURS.tokens(OURS.down(peer, combiner), "down", 3) == [*peer, combiner]


@pytest.mark.parametrize(
    "subject",
    [
        "fb.other.report.client.c",
        "fb.default.reports.client.c",
        "fb.default.report.client",
        "fb.default.report.client.c.d",
        "xx.default.report.client.c",
        "",
        "fb",
        "fb.default.report.client.",
        "fb.default.report..c",
        "fb.default.report.client.ä",
        "fb.default.report.client." + "x" * 65,
        "fb.default.report.client.a$b",
        "fb.default.report.client.*",
        "fb.default.report.client.a\0",
    ],
)
def test_other_subjects_are_refused(subject):
    """Another workspace, family or length, and tokens that are no names (a broker lets them through)."""
    with pytest.raises(BadMessage, match="expected"):
        OURS.sender(subject, "report", 2, 0)


@pytest.mark.parametrize("at", [3, 4, 5, 6])
@pytest.mark.parametrize("token", ["-1", "+1", "1_0", "٣", "1.5", "", "x", " 1", "1" * 17, "0x1"])
def test_a_chunks_numbers_are_digits(at, token):
    """What `int` would take as well - signs, underscores, other scripts - is refused: one chunk has one subject."""
    tokens = OURS.chunk("k", ChunkAddress(Peer("client", "c"), "s", 1, 2, 3, 4)).split(".")
    tokens[at + 4] = token
    if at == 6 and token == "1" * 17:
        tokens[at + 4] = "f" * 17
    with pytest.raises(BadMessage, match="expected"):
        OURS.address(".".join(tokens))


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "a\0b", "a\n", "\u202e", "x" * 65, None, 7, b"a"])
def test_a_workspace_is_a_name(name):
    """A workspace that could reach into another's subjects is refused where it is given; so is any other name."""
    with pytest.raises(ConfigError, match="workspace: expected 1 to 64"):
        Subjects(name)
    with pytest.raises(ConfigError, match="client name: expected 1 to 64"):
        check_name("client name", name)


FAMILIES = "journal command task order blob model presence whois up chunk down report ack query registry span".split()  # noqa: SIM905
ARGUMENTS = {"up": ["k"], "chunks": ["k"], "down": [Peer("*", "*")], "ack": [Peer("*", "*")]}


def test_families_do_not_meet():
    """No subject of one family is heard by the pattern of another, nor by another workspace."""
    names = [name.replace("chunk", "chunks") for name in FAMILIES]
    build = {name: getattr(OURS, name)(*ARGUMENTS.get(name, [])) for name in names}
    for name, pattern in build.items():
        check_pattern(pattern)
        assert pattern.startswith("fb.default.")
        assert [other for other, known in build.items() if overlap([pattern], [known])] == [name]


def test_streams_hold_what_survives_and_nothing_twice():
    """Each stream's name is legal, and no subject falls into two streams."""
    specs = streams_of(OURS)
    patterns = [pattern for spec in specs for pattern in spec.subjects]
    for spec in specs:
        check_stream_name(spec.name)
    for i, one in enumerate(patterns):
        assert not overlap([one], patterns[i + 1 :])


def test_the_table_names_every_subject():
    """The table on top of the module lists each family that can be built."""
    table = inspect.getdoc(inspect.getmodule(Subjects)) or ""
    assert [name for name in FAMILIES if f"\n``{name}" not in table] == []


@pytest.mark.parametrize("reply", ["_INBOX.abc.1", "_INBOX.client.c-1.abc.1"])
def test_an_inbox_is_answered(reply):
    """That of somebody at an open broker, and a member's own."""
    OURS.check_inbox(reply, Peer("client", "c-1"))


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX",
        "fb.w.report.client.c-1",
        "fb.w.access.member.client.c-1",
        "$JS.API.CONSUMER.DELETE.fb-w-journal.x",
        "_INBOXES.abc.1",
        "_INBOX.client.c-2.abc.1",
        "_INBOX.combiner.c-1.abc.1",
        "_INBOX.client.*.abc.1",
        "_INBOX.>",
    ],
)
def test_nothing_else_is_answered_at(reply):
    """Whoever asks names where the answer goes, and it goes there with our permissions, not with his."""
    with pytest.raises(BadMessage, match="expected an inbox"):
        OURS.check_inbox(reply, Peer("client", "c-1"))
