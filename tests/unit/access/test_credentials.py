"""Credentials files: written for one pair of eyes, whole or not at all; damage is said with what to do."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.access.authority import Authority
from fedbus.access.credentials import (
    CREDENTIALS_BYTES_MAX,
    Trust,
    format_credentials,
    parse_credentials,
    read_credentials,
    write_credentials,
)
from fedbus.bus.nats.identity import identify_by
from fedbus.errors import BadMessage, ConfigError


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """Credentials of a coordinator, which has secrets."""
    authority = Authority.open(tmp_path_factory.mktemp("operator") / "keys")
    authority.create_workspace("w")
    return authority.issue("w", "coordinator", "co", ("nats://10.0.0.1:4222",), "-----BEGIN CERTIFICATE-----\nx\n")


def test_a_file_is_for_its_owner_alone_and_comes_back(issued, tmp_path):
    """Mode 0600 from its first moment on, in a directory of its own; what was written is read."""
    path = tmp_path / "new" / "co.creds"
    write_credentials(path, issued)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    found = read_credentials(path)
    assert found == issued
    assert (found.role, found.name, found.key.public) == ("coordinator", "co", issued.claims.key)
    assert [one.name for one in path.parent.iterdir()] == ["co.creds"]


def test_the_bus_reads_the_same_file(issued, tmp_path):
    """The same member, with its own inbox."""
    path = tmp_path / "co.creds"
    write_credentials(path, issued)
    identity = identify_by(path)()
    assert identity.member == ("coordinator", "co")
    assert identity.inbox == "_INBOX.coordinator.co"
    assert identity.sign("nonce") == identity.sign("nonce") != b""


def test_nothing_secret_is_shown(issued, tmp_path):
    """Neither seed nor secrets are in what a log line would show."""
    path = tmp_path / "co.creds"
    write_credentials(path, issued)
    shown = repr(issued) + repr(identify_by(path)())
    assert issued.seed not in shown
    assert not any(secret in shown for secret in issued.secrets.values())
    assert set(issued.secrets) == {"seal", "model"}


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ("BEGIN NATS USER JWT", "user JWT and its seed"),
        ("BEGIN USER NKEY SEED", "user JWT and its seed"),
        ("BEGIN FEDBUS WORKSPACE", "of NATS, but not of fedbus"),
    ],
)
def test_a_missing_block_is_named(issued, cut, said):
    """Each with what to do."""
    with pytest.raises(ConfigError, match=said):
        parse_credentials(format_credentials(issued).replace(cut, "BEGIN OTHER"), "file")


def test_blocks_of_different_members_are_refused(issued, tmp_path_factory):
    """A JWT with another's seed, and one of another workspace, are damage."""
    authority = Authority.open(tmp_path_factory.mktemp("other") / "keys")
    authority.create_workspace("v")
    other = authority.issue("v", "client", "c")
    text = format_credentials(issued)
    with pytest.raises(ConfigError, match="not that of the key"):
        parse_credentials(text.replace(issued.seed, other.seed), "file")
    with pytest.raises(ConfigError, match="workspace v"):
        parse_credentials(text.replace(issued.jwt, other.jwt).replace(issued.seed, other.seed), "file")


@given(st.data())
def test_a_damaged_file_is_a_mistake_in_a_setting(issued, data):
    """Cut or changed anywhere: it still reads as the same member, or says that it does not."""
    text = format_credentials(issued)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = data.draw(st.sampled_from([text[:at], text[:at] + "\x00" + text[at + 1 :], text[:at] + text[at + 1 :]]))
    try:
        parse_credentials(changed, "file")
    except ConfigError:
        return


@given(st.text(max_size=200))
def test_what_is_no_trust_is_a_bad_message(text):
    """Whatever came in an answer."""
    with pytest.raises(BadMessage):
        Trust.from_json(text)


def test_a_file_that_is_not_there(tmp_path):
    """Its path is named."""
    with pytest.raises(ConfigError, match=r"none\.creds"):
        read_credentials(tmp_path / "none.creds")


@pytest.mark.parametrize("filling", [" ", "\n", "-", "-----BEGIN NATS USER JWT-----", "-END"])
def test_a_file_of_nothing_is_read_in_no_time(filling, tmp_path):
    """As long as a file may be, made so that whoever looks for the end of a block by a pattern looks for hours."""
    path = tmp_path / "x.creds"
    path.write_text("-----BEGIN NATS USER JWT-----" + filling * (CREDENTIALS_BYTES_MAX // len(filling) - 30))
    with pytest.raises(ConfigError):
        read_credentials(path)
    with pytest.raises(ConfigError):
        identify_by(path)()
