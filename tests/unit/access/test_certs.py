"""`fedbus certs`: an authority whose certificates TLS takes, and that writes nothing over."""

from __future__ import annotations

import re
import ssl
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from fedbus.access.certs import Certs, shown
from fedbus.errors import ConfigError

THEN = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def certs(tmp_path):
    """An authority that was made at a time of our choosing."""
    made = Certs(tmp_path / "certs", now=lambda: THEN)
    made.init()
    return made


def shake(server, client, name):
    """Shake hands in memory; returns what the client sees of the server's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return ours.getpeercert()


@pytest.mark.parametrize("name", ["broker.lab", "127.0.0.1", "localhost", "10.0.0.7", "::1"])
def test_what_it_signs_is_taken_by_tls_on_both_sides(tmp_path, name):
    """A server under each of its names, and a client's certificate that the server demands, are verified by OpenSSL."""
    certs = Certs(tmp_path)
    certs.init()
    certs.server("broker", ["broker.lab", "10.0.0.7"])
    certs.client("site-1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certs.ca)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(*certs.files("broker"))
    client = ssl.create_default_context(cafile=certs.ca)
    client.load_cert_chain(*certs.files("site-1"))
    assert shake(server, client, name)["subject"] == ((("commonName", "broker"),),)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client, "other.lab")


def test_a_clients_certificate_is_no_servers(tmp_path):
    """Whoever has the certificate of a client cannot pass for the broker."""
    certs = Certs(tmp_path)
    certs.init()
    certs.client("localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*certs.files("localhost"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, ssl.create_default_context(cafile=certs.ca), "localhost")


def test_nobody_else_may_read_a_key(certs):
    """Keys have mode 0600 and their directory 0700 from the moment that they are there."""
    certs.server("broker")
    for path in certs.directory.glob("*-key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(certs.directory.stat().st_mode) == 0o700


def test_nothing_is_written_over(certs):
    """A second authority, or a second certificate of a name, is refused; so is one whose key alone is left."""
    certs.server("broker")
    before = {path.name: path.read_bytes() for path in certs.directory.iterdir()}
    for again in (certs.init, lambda: certs.server("broker"), lambda: certs.client("broker")):
        with pytest.raises(ConfigError, match="never written over"):
            again()
    assert {path.name: path.read_bytes() for path in certs.directory.iterdir()} == before
    certs.files("broker")[0].unlink()
    with pytest.raises(ConfigError, match=re.escape("broker-key.pem: there already")):
        certs.server("broker")


def test_lifetimes_end_with_the_authority(certs):
    """A certificate never outlives who signed it, and an authority that is over signs nothing."""
    late = Certs(certs.directory, now=lambda: THEN + timedelta(days=3649))
    ends = shown(late.server("late")).ends
    assert ends == shown(certs.ca).ends == THEN + timedelta(days=3650)
    with pytest.raises(ConfigError, match="not valid any more"):
        Certs(certs.directory, now=lambda: THEN + timedelta(days=3651)).server("later")


def test_what_is_there_is_told(certs):
    """The authority comes first; kinds, names and ends are told, keys and other files are not."""
    certs.server("broker", ["*.lab", "10.0.0.7"], local=False)
    certs.client("a-site")
    found = certs.show()
    assert [(one.file, one.kind, one.names) for one in found] == [
        ("ca.pem", "ca", ()),
        ("a-site.pem", "client", ()),
        ("broker.pem", "server and client", ("*.lab", "10.0.0.7")),
    ]
    assert found[2].ends - found[2].begins == timedelta(days=365, minutes=10)


@pytest.mark.parametrize("name", ["", "ca", "a/b", "..", "x y", "x-key", "a" * 65])
def test_names_of_files_are_words(certs, name):
    """A name leads out of no directory, and to no key."""
    with pytest.raises(ConfigError, match="name of a certificate"):
        certs.client(name)


@pytest.mark.parametrize("host", ["", "a b", "http://x", "x:443", "-x.lab", "a..b", "x" * 64, "*", "1.2.3.4/8"])
def test_hosts_are_names_or_addresses(certs, host):
    """What could be no host's name is refused before anything is made."""
    with pytest.raises(ConfigError, match="a host's name or address"):
        certs.server("broker", [host])
    assert not certs.files("broker")[1].exists()


def test_a_directory_without_an_authority_says_what_to_do(tmp_path, certs):
    """No authority, a key of another one, and a damaged file are named."""
    with pytest.raises(ConfigError, match="fedbus certs init"):
        Certs(tmp_path).server("broker")
    other = Certs(tmp_path / "other")
    other.init()
    certs.ca_key.write_bytes(other.ca_key.read_bytes())
    with pytest.raises(ConfigError, match="is not the key of"):
        certs.server("broker")
    certs.ca.write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be read"):
        certs.server("broker")


def test_curves_are_as_promised(certs):
    """P-256 throughout, and an authority below which there is no other."""
    certs.server("broker")
    for name in ("ca.pem", "broker.pem"):
        one = x509.load_pem_x509_certificate((certs.directory / name).read_bytes())
        assert one.public_key().curve.name == "secp256r1"
    ca = x509.load_pem_x509_certificate(certs.ca.read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
