"""A message counts for what it says, where it says it, by whom it was signed, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.access.envelopes import WorkspacePosts, check_sender, signed_by, ways_of
from fedbus.errors import BadMessage, BadUpdate
from fedbus.messages.envelope import _KINDS, Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.reports import Evaluated
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Task
from fedbus.testing.members import Workspace

OURS, SUBJECTS = Workspace("default"), Subjects("default")
SITE = Peer("client", "site-1")
AT = SUBJECTS.report(SITE)
SAID = Evaluated(
    session="s", round=3, version="s-3", weight=2.0, metrics={"loss": 0.1, "n": float("nan")}, fetched=7,
    sums={"h": (1.0, -0.0, 2.5)},
)  # fmt: skip
OTHERS = {
    "session": "t", "round": 4, "version": "s-4", "weight": 3.0, "metrics": {"loss": 0.2}, "fetched": 8, "sums": {},
}  # fmt: skip
VERIFIER = OURS.signing("coordinator", "co").verifier
POSTER = OURS.signing("coordinator", "co").post_signer


def signed(body=SAID, *, by=SITE, subject=AT, workspace=OURS):
    """A report as its sender sends it."""
    return signed_by(workspace.signing(*by).signer, subject, Envelope("r1", "default", by.name, body))


def arrived(envelope, subject=AT):
    """An envelope as it is read."""
    return decode(encode(envelope), subject)


def changed(envelope, **fields):
    """An envelope whose body was changed on its way, the signature as it was."""
    body = envelope.body.model_copy(update=fields)
    said = arrived(signed(body) if isinstance(body, Evaluated) else posted([body])[0]).signed.said
    return replace(envelope, body=body, signed=envelope.signed._replace(said=said))


def test_what_a_member_has_signed_counts_where_it_was_said():
    """Sent and read it counts; for another subject, under another id or name it does not."""
    found = arrived(signed())
    check_sender(VERIFIER, SITE, AT, found)
    other = Peer("client", "site-2")
    for sender, subject, envelope in (
        (other, SUBJECTS.report(other), found),
        (SITE, SUBJECTS.report(other), found),
        (SITE, AT.replace("default", "other"), found),
        (SITE, AT, replace(found, id="r2")),
        (SITE, AT, arrived(signed(workspace=Workspace("default")))),
        (SITE, AT, replace(found, signed=found.signed._replace(signature=bytes(64)))),
    ):
        with pytest.raises(BadUpdate):
            check_sender(VERIFIER, sender, subject, envelope)
    with pytest.raises(BadUpdate, match=r"not signed.*fedbus join TOKEN"):
        check_sender(VERIFIER, SITE, AT, arrived(replace(found, signed=None)))
    crowd = Peer("crowd", "phone")
    phone = Peer("client", "phone-7")
    check_sender(VERIFIER, phone, SUBJECTS.report(phone), arrived(signed(by=crowd, subject=SUBJECTS.report(phone))))


@pytest.mark.parametrize("name", sorted(Evaluated.model_fields))
def test_no_field_of_a_report_can_be_changed(name):
    """Each field has another value tried here, and what only a newer release can read is signed, too."""
    with pytest.raises(BadUpdate, match="signature is not one"):
        check_sender(VERIFIER, SITE, AT, changed(arrived(signed()), **{name: OTHERS[name]}))


def test_a_field_that_is_not_known_here_makes_no_signature_wrong():
    """A newer sender's report, with a field more, counts for this release; without the field it does not."""

    class Newer(Evaluated):
        more: str = "x"

    del _KINDS[Newer.kind]
    Newer.kind = Evaluated.kind
    found = arrived(signed(Newer(**SAID.model_dump())))
    assert type(found.body) is Evaluated and b"more" in found.signed.said
    check_sender(VERIFIER, SITE, AT, found)
    with pytest.raises(BadUpdate, match="signature is not one"):
        check_sender(VERIFIER, SITE, AT, changed(found))


def task(number, **fields):
    """One client's task."""
    return Task(**{"session": "s", "revision": number, "state": "rest", **fields})


def at(number):
    """Where one client's task stands."""
    return SUBJECTS.task(f"c-{number}", "s")


def posted(tasks):
    """Tasks, signed at once, the first for client 0."""
    return POSTER.sign_all([(at(n), Envelope(f"i{n}", "default", "co", one)) for n, one in enumerate(tasks)])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 100])
def test_tasks_are_signed_at_once_and_each_is_its_own_clients(count):
    """However many there are each counts for its client, with one signature for all; no other client's does."""
    found = [arrived(one, at(n)) for n, one in enumerate(posted([task(n) for n in range(count)]))]
    posts = OURS.signing("client", "c").posts
    for number, one in enumerate(found):
        posts.check(at(number), one)
        with pytest.raises(BadMessage, match="signature is not one"):
            posts.check(at(number + 1), one)
        with pytest.raises(BadMessage, match="signature is not one"):
            posts.check(at(number), changed(one, revision=1000))
    assert len({one.signed.signature for one in found}) == 1
    assert max(len(one.signed.way) for one in found) <= 33 * count.bit_length()
    with pytest.raises(BadMessage, match="signature is not one"):
        Workspace("default").signing("client", "c").posts.check(at(0), found[0])


@settings(deadline=None, max_examples=50)
@given(way=st.binary(max_size=100), cut=st.integers(0, 66))
def test_no_other_way_leads_to_the_root(way, cut):
    """A way that was cut, lengthened or made up is refused, and no node of the tree is taken for a leaf."""
    one = posted([task(n) for n in range(4)])[0]
    for wrong in (way, one.signed.way[:cut], one.signed.way + way):
        if wrong != one.signed.way:
            with pytest.raises(BadMessage, match="signature is not one"):
                OURS.signing("client", "c").posts.check(at(0), replace(one, signed=one.signed._replace(way=wrong)))


def test_a_tree_is_what_it_was():
    """Roots and ways of four leaves and of three, by hand: old clients verify what new coordinators sign."""
    leaves = [bytes([n]) * 32 for n in range(4)]
    root, ways = ways_of(leaves)
    assert root.hex() == "7df4cd3800f48106f989386081fec6ad3675ccbd3d1e9f3f4d1cf392f9995bfd"
    assert [way[:1] + way[33:34] for way in ways] == [b"\1\1", b"\0\1", b"\1\0", b"\0\0"]
    assert ways_of(leaves[:3])[1][2][:1] == b"\0" and len(ways_of(leaves[:3])[1][2]) == 33
    assert ways_of(leaves[:1]) == (leaves[0], [b""])


def test_what_is_not_signed_is_taken_until_it_is_known_that_it_should_be():
    """A workspace of an earlier release says nothing; from its first signed task on nothing less counts."""
    bare, full = Envelope("i", "default", "co", task(1)), posted([task(1)])[0]
    earlier = WorkspacePosts(replace(OURS.trust, signs_posts=False))
    earlier.check(at(0), bare)
    earlier.check(at(0), full)
    for posts in (earlier, OURS.signing("client", "c").posts, WorkspacePosts(earlier._trust, demands=True)):
        with pytest.raises(BadMessage, match="not signed: is a coordinator of an earlier release running"):
            posts.check(at(0), bare)
    assert POSTER.sign_all([]) == []
