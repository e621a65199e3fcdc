"""Addresses that name files for TLS, and contexts that are made of them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from fedbus.access.certs import Certs
from fedbus.bus.tls import TlsFiles, check_context, client_context, split_url, tls_problem, told_to_others, with_files
from fedbus.errors import ConfigError


def test_files_stand_in_addresses_and_leave_them():
    """What is put into an address comes out of it, whatever the path; NATS' own part is left as it was."""
    files = TlsFiles(Path("/a b/ca,1.pem"), Path("/c&d.pem"), Path("/k=é.pem"))
    url = with_files("tls://u:p@one:4222, wss://two/path", files)
    assert split_url(url) == (["tls://u:p@one:4222", "wss://two/path"], files)
    assert split_url("one,nats://two:1") == (["one", "nats://two:1"], TlsFiles())
    assert with_files("tls://one", TlsFiles()) == "tls://one"
    assert with_files("tls://one?ca=/x,tls://two", TlsFiles(Path("/y"))) == "tls://one?ca=/x,tls://two?ca=/y"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("tls://one?ca=/a,tls://two?ca=/b", "one file each"),
        ("tls://one?verify=no", "one file each of ca, cert, key"),
        ("tls://one?ca=", "one file each"),
        ("nats://one?ca=/a", "nats:// has no TLS"),
        ("ws://one?ca=/a", "ws:// has no TLS"),
    ],
)
def test_what_an_address_cannot_say_is_refused(url, why):
    """Unknown options, empty ones, two that differ, and files without TLS: `ConfigError`, and nothing is turned off."""
    with pytest.raises(ConfigError, match=why):
        split_url(url)


def test_contexts_verify_whatever_is_given(tmp_path):
    """By files, by text, or by nothing: certificate and name are checked, TLS is 1.2 at least, and one CA is one CA."""
    certs = Certs(tmp_path)
    certs.init()
    certs.client("c")
    text = certs.ca.read_text()
    for context in (client_context(), client_context(ca=text), client_context(TlsFiles(certs.ca, *certs.files("c")))):
        check_context(context)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert len(client_context(ca=text).get_ca_certs()) == 1  # and not the system's as well


def test_files_that_will_not_do_are_named(tmp_path):
    """Missing, no PEM, half a pair, an encrypted key that would ask on the terminal: `ConfigError` says which."""
    certs = Certs(tmp_path)
    certs.init()
    certs.client("c")
    certificate, key = certs.files("c")
    (tmp_path / "text").write_text("nonsense")
    locked = tmp_path / "locked.pem"
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(plain.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password))
    for files, why in (
        (TlsFiles(tmp_path / "none"), "cannot be read"),
        (TlsFiles(tmp_path / "text"), "no certificate in PEM"),
        (TlsFiles(None, certificate), "give both"),
        (TlsFiles(None, certificate, tmp_path / "none"), "no such file"),
        (TlsFiles(None, certificate, locked), "cannot be used together"),
    ):
        with pytest.raises(ConfigError, match=why):
            client_context(files)
    with pytest.raises(ConfigError, match="cannot be read as PEM"):
        client_context(ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_what_is_no_matter_of_tls_is_none():
    """Other errors keep their own words."""
    assert tls_problem(ConnectionRefusedError("refused"), ["x"]) == ""
    assert tls_problem(None, []) == ""
    assert tls_problem(ssl.SSLError(1, "[SSL] something"), ["x"]).startswith("TLS failed: ")


def test_what_others_are_told_names_no_file_of_ours(tmp_path):
    """An address that is handed out goes without its options; whom it said to trust goes along as text."""
    certs = Certs(tmp_path)
    certs.init()
    url = with_files("tls://one:4222,wss://two", TlsFiles(certs.ca))
    assert told_to_others(url) == (("tls://one:4222", "wss://two"), certs.ca.read_text())
    assert told_to_others("nats://one") == (("nats://one",), "")
