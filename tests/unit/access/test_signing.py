"""A signature counts for what was signed, by whom it was signed, and for nothing else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.access.credentials import write_credentials
from fedbus.access.signing import (
    OPEN,
    Members,
    WorkspaceModels,
    model_statement,
    signed_upload,
    signing_by,
    signing_of,
    speaks_for,
    upload_statement,
)
from fedbus.errors import BadMessage, BadUpdate, ConfigError
from fedbus.messages.ids import Peer
from fedbus.messages.uploads import UploadBegin
from fedbus.testing.members import Workspace

OURS = Workspace("default")
OTHER = Workspace("default")
SITE = Peer("client", "site-1")


class Fixed:
    """A clock that stands still."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        """Say when."""
        return self._now


BEGIN = UploadBegin(
    session="s", round=3, attempt=2, spec="ab" * 32, digest="cd" * 32, nbytes=80, chunks=2, weight=1.5,
    metrics={"loss": 0.25, "n": 7.0}, fetched=12, update="u-1", stale=1, spent=(0.5, 0.0, 2.0, 0.0),
)  # fmt: skip

OTHERS = {
    "session": "t", "round": 4, "attempt": 3, "spec": "0" * 64, "digest": "1" * 64, "nbytes": 81, "chunks": 3,
    "weight": 1.5000000000000002, "metrics": {"loss": 0.25, "n": 8.0}, "fetched": 13, "update": "u-2", "stale": 0,
    "spent": None,
}  # fmt: skip

FREE = {"number", "packed", "inline", "signature", "identity"}
"""What is not signed: how often it was said, how it travels, bytes that the digest covers, and the signature itself."""


def check(begin, *, sender=SITE, combiner="k0", workspace=OURS, verifier=None):
    """Check an announcement as a combiner does."""
    verifier = verifier or workspace.signing("combiner", "k0").verifier
    statement = upload_statement(workspace.name, sender, combiner, begin)
    verifier.check(sender, statement, begin.identity, begin.signature)


def signed(begin=BEGIN, *, by=SITE, combiner="k0", workspace=OURS, sender=None):
    """Sign an announcement as its sender does."""
    return signed_upload(workspace.signing(*by).signer, workspace.name, sender or by, combiner, begin)


def test_what_is_signed_is_taken_and_what_travels_with_it_may_change():
    """The announcement counts; said again, with its bytes or packed, it still does."""
    begin = signed()
    check(begin)
    check(begin.model_copy(update={"number": 9, "packed": True, "inline": b"x"}))
    partial = signed(by=Peer("combiner", "k1"))
    check(partial, sender=Peer("combiner", "k1"))


@pytest.mark.parametrize("name", sorted(UploadBegin.model_fields.keys() - FREE))
def test_no_field_can_be_changed(name):
    """Every field but those that are free is in what is signed, and each has another value tried here."""
    changed = signed().model_copy(update={name: OTHERS[name]})
    with pytest.raises(BadUpdate, match="signature is not"):
        check(changed)


@settings(deadline=None, max_examples=200)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "session": st.sampled_from(["s", "t", "s3"]),
            "round": st.integers(0, 5),
            "attempt": st.integers(0, 5),
            "nbytes": st.integers(0, 100),
            "chunks": st.integers(0, 5),
            "weight": st.floats(allow_nan=False),
            "metrics": st.dictionaries(st.sampled_from(["loss", "n", "m"]), st.floats(allow_nan=False), max_size=3),
            "stale": st.integers(0, 3),
            "update": st.sampled_from(["u-1", "", "u-11"]),
        },
    )
)
def test_another_announcement_is_another_statement(changes):
    """Whatever is changed together, only what says the same is taken."""
    other = BEGIN.model_copy(update=changes)
    begin = signed().model_copy(update=changes)
    if other == BEGIN and str(other) == str(BEGIN):
        check(begin)
    else:
        with pytest.raises(BadUpdate):
            check(begin)


def test_nobody_else_can_use_it():
    """Said by another client, to another combiner, in another workspace: refused, each with its reason."""
    with pytest.raises(BadUpdate, match="signed by client site-1, not by client site-2"):
        check(signed(), sender=Peer("client", "site-2"))
    with pytest.raises(BadUpdate, match="signature is not"):
        check(signed(), combiner="k1")
    with pytest.raises(BadUpdate, match=r"no member here.*not signed by this workspace's key"):
        check(signed(workspace=OTHER))
    with pytest.raises(BadUpdate, match="signed by client site-1, not by combiner site-1"):
        check(signed(), sender=Peer("combiner", "site-1"))


def test_who_has_another_identity_cannot_take_this_one():
    """The JWT of one with the signature of another: refused."""
    theirs, ours = signed(by=Peer("client", "site-2"), sender=SITE), signed()
    with pytest.raises(BadUpdate, match="signature is not"):
        check(theirs.model_copy(update={"identity": ours.identity}))
    with pytest.raises(BadUpdate, match="no member here"):
        check(ours.model_copy(update={"identity": f"{ours.identity[:-4]}AAAA"}))
    with pytest.raises(BadUpdate, match="no member here"):
        check(ours.model_copy(update={"identity": "x"}))


def test_old_clients_are_told_what_to_do():
    """Without a signature the reason says how to get one."""
    with pytest.raises(BadUpdate, match=r"not signed.*fedbus join TOKEN.*this release"):
        check(BEGIN)
    with pytest.raises(BadUpdate, match="not signed"):
        check(signed().model_copy(update={"signature": b""}))


def test_an_identity_that_has_ended_is_refused():
    """Some minutes late is taken, for clocks differ; later is not."""
    credentials = OURS.credentials("client", "site-1", expires_at=1000.0)
    begin = signed_upload(signing_by(credentials, Fixed(0.0)).signer, "default", SITE, "k0", BEGIN)
    check(begin, verifier=Members(OURS.trust, Fixed(1299.0)))
    with pytest.raises(BadUpdate, match="has ended"):
        check(begin, verifier=Members(OURS.trust, Fixed(1301.0)))


def test_a_crowd_speaks_for_its_own_clients():
    """A crowd signs for the clients of its series from its first number on, and for nobody else."""
    begin = signed(by=Peer("crowd", "phone"), sender=Peer("client", "phone-7"))
    check(begin, sender=Peer("client", "phone-7"))
    for crowd, client, may in (
        ("phone", "phone-0", True), ("phone", "phones-0", False), ("phone", "phone", False),
        ("phone", "phone-x", False),
        ("phone-100", "phone-100", True), ("phone-100", "phone-250", True), ("phone-100", "phone-99", False),
        ("phone-100", "phone-100-3", True), ("phone-x", "phone-3", False), ("phone", "fax-3", False),
    ):  # fmt: skip
        assert speaks_for(Peer("crowd", crowd), Peer("client", client)) is may, (crowd, client)
    assert not speaks_for(Peer("client", "phone"), Peer("client", "phone-1"))
    assert not speaks_for(Peer("crowd", "k"), Peer("combiner", "k-1"))


def test_a_model_is_what_the_workspace_has_signed():
    """Another version, digest, workspace or key is refused; the same statement has the same signature."""
    signer, models = OURS.signing("coordinator", "c").model_signer, OURS.signing("client", "c").models
    signature = signer.sign("s-1", "ab" * 32)
    assert signature == signer.sign("s-1", "ab" * 32) and len(signature) == 64
    models.check("s-1", "ab" * 32, signature)
    for version, digest, said in (
        ("s-2", "ab" * 32, signature),
        ("s-1", "cd" * 32, signature),
        ("s-1", "ab" * 32, bytes(64)),
        ("s-1", "ab" * 32, signature[:-1]),
        ("s-1", "", signature),
    ):
        with pytest.raises(BadMessage, match="not one by the key"):
            models.check(version, digest, said)
    with pytest.raises(BadMessage, match="is not signed"):
        models.check("s-1", "ab" * 32, b"")
    with pytest.raises(BadMessage):
        WorkspaceModels(OTHER.trust).check("s-1", "ab" * 32, signature)
    assert model_statement("a", "b", "c") != model_statement("ab", "", "c")
    assert OURS.signing("client", "c").model_signer is None


def test_a_renewed_file_is_read_again(tmp_path):
    """Whoever renews credentials under a running client is heard; a file that is damaged meanwhile is not."""
    path = tmp_path / "site.creds"
    first, second = (OURS.credentials("client", "site-1", expires_at=at) for at in (1000.0, 2000.0))
    write_credentials(path, first)
    signer = signing_of(path, Fixed(0.0)).signer
    assert signer.identity == first.jwt
    write_credentials(path, second)
    os.utime(path, ns=(1, 1))
    assert signer.identity == second.jwt
    check(signed_upload(signer, "default", SITE, "k0", BEGIN), verifier=Members(OURS.trust, Fixed(0.0)))
    path.write_text("-----BEGIN FEDBUS WORKSPACE-----")
    os.utime(path, ns=(2, 2))
    assert signer.identity == second.jwt
    path.unlink()
    assert signer.identity == second.jwt


def test_without_credentials_of_a_workspace_nothing_is_signed(tmp_path):
    """No file, or one of NATS alone: open, as ever; one that is damaged is an error, not a silent opening."""
    clock = Fixed(0.0)
    assert signing_of(None, clock) is OPEN is signing_of("", clock)
    (tmp_path / "nats.creds").write_text("-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n")
    assert signing_of(tmp_path / "nats.creds", clock) is OPEN
    (tmp_path / "bad.creds").write_text("-----BEGIN FEDBUS WORKSPACE-----\nx\n------END FEDBUS WORKSPACE------\n")
    for wrong in ("bad.creds", "none.creds"):
        with pytest.raises(ConfigError):
            signing_of(tmp_path / wrong, clock)
