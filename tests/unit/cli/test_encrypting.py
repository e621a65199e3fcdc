"""How `fedbus up` is reached from other machines: encrypted, or not at all."""

from __future__ import annotations

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedbus.access.certs import Certs
from fedbus.bus.embedded import BrokerSettings
from fedbus.bus.tls import TlsFiles, split_url
from fedbus.cli.encrypting import encryption
from fedbus.cli.tree import run
from fedbus.errors import ConfigError
from fedbus.gateway.listening import Listening

NOTHING = {
    "tls": False,
    "certificate": None,
    "key": None,
    "ca": None,
    "hosts": (),
    "listen": "127.0.0.1",
    "wss_port": 0,
}


def of(data_dir, **how):
    """Return the encryption of a data directory with these settings."""
    return encryption(data_dir, **(NOTHING | how))


def test_nothing_is_encrypted_that_stays_here(tmp_path):
    """By default there are no certificates, and none are made."""
    assert of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"listen": "0.0.0.0"}, "need --tls"),
        ({"wss_port": 443}, "need --tls"),
        ({"client_certs": True}, "need --tls"),
        ({"certificate": "broker.pem"}, "go together"),
        ({"certificate": "broker.pem", "key": "broker-key.pem"}, "needs --public-host"),
        ({"certificate": "broker.pem", "key": "broker-key.pem", "ca": "none.pem", "hosts": ["x"]}, "cannot be read"),
    ],
)
def test_what_leaves_the_machine_is_encrypted_wholly(tmp_path, how, why):
    """Listening elsewhere, websockets, or half of a certificate without TLS: `ConfigError` says what is missing."""
    how = {name: tmp_path / value if str(value).endswith(".pem") else value for name, value in how.items()}
    with pytest.raises(ConfigError, match=why):
        of(tmp_path, **how)


@pytest.mark.parametrize(
    "arguments", [["--tls", "--nats", "nats://127.0.0.1:1"], ["--tls", "--open", "--listen", "::"]]
)
def test_options_that_contradict_each_other_are_refused(tmp_path, arguments):
    """Another's broker is not ours to encrypt, and an open one is for nobody else: usage errors, nothing is made."""
    assert run(["up", *arguments, "--data-dir", str(tmp_path / "data")]) == 2
    assert not (tmp_path / "data").exists()


def test_an_authority_is_made_once_and_stands_in_what_is_handed_out(tmp_path):
    """The certificate is for this machine and every public host; a second run takes it, another host a new one."""
    made = of(tmp_path, tls=True, hosts=["broker.lab", "10.0.0.7"], listen="0.0.0.0", wss_port=443)
    assert made.ca == (tmp_path / "certs" / "ca.pem").read_text()
    (shown,) = [one for one in Certs(tmp_path / "certs").show() if one.kind == "server and client"]
    assert {"broker.lab", "10.0.0.7", "127.0.0.1"} <= set(shown.names)
    assert made.url([4222, 4223]) == "tls://127.0.0.1:4222,tls://127.0.0.1:4223"
    assert made.told([4222]) == ("wss://broker.lab", "wss://10.0.0.7")
    assert of(tmp_path, tls=True, hosts=["broker.lab"]).told([4222]) == ("tls://broker.lab:4222",)
    assert of(tmp_path, tls=True, wss_port=8443).told([1, 2]) == ("wss://127.0.0.1:8443", "wss://127.0.0.1:8444")
    assert of(tmp_path, tls=True, hosts=["other.lab"]).ca == made.ca
    (anew,) = [one for one in Certs(tmp_path / "certs").show() if one.kind == "server and client"]
    assert anew.fingerprint != shown.fingerprint and "other.lab" in anew.names


def test_a_certificate_that_is_about_to_end_is_made_anew(tmp_path):
    """At the start two months before its end, and by the same authority: nobody who has joined has to do anything."""
    made = of(tmp_path, tls=True)
    certificate, key = made.certificate, made.key
    certificate.unlink(), key.unlink()
    short = Certs(tmp_path / "certs").server("server", days=59)
    before = short.read_bytes()
    assert of(tmp_path, tls=True).ca == made.ca
    assert certificate.read_bytes() != before
    kept = certificate.read_bytes()
    of(tmp_path, tls=True)
    assert certificate.read_bytes() == kept


def test_broker_and_gateway_get_the_same_certificate(tmp_path):
    """The broker's websocket has TLS and a port of its own for each node; the gateway answers to the public hosts."""
    made = of(tmp_path, tls=True, hosts=["fed.lab"], listen="0.0.0.0", wss_port=443)
    settings = made.broker(BrokerSettings(name="n2"), 1)
    assert (settings.name, settings.websocket_listen) == ("n2", "0.0.0.0:444")
    assert settings.tls.certificate == made.certificate and settings.tls.clients_ca is None
    listening = made.gateway(Listening(port=8443, hosts=("a.lab",)))
    assert (listening.host, listening.port, listening.hosts) == ("0.0.0.0", 8443, ("a.lab", "fed.lab"))
    assert (listening.tls_certificate, listening.tls_key) == (made.certificate, made.key)


def test_who_listens_at_one_address_reaches_itself_there(tmp_path):
    """The roles beside a broker that is not at 127.0.0.1 ask it where it is, by a name in its certificate."""
    made = of(tmp_path, tls=True, hosts=["broker.lab"], listen="10.0.0.7")
    assert made.url([4222]) == "tls://10.0.0.7:4222"
    assert made.told([4222]) == ("tls://broker.lab:4222",)
    (shown,) = [one for one in Certs(tmp_path / "certs").show() if one.kind == "server and client"]
    assert "10.0.0.7" in shown.names


def test_clients_certificates_are_of_the_same_authority(tmp_path):
    """What runs here has one of its own, and its address names it; what others are told names none."""
    made = of(tmp_path, tls=True, client_certs=True, wss_port=443)
    certs = Certs(tmp_path / "certs")
    assert made.broker(BrokerSettings()).tls.clients_ca == made.clients_ca == certs.ca
    addresses, files = split_url(made.url([4222]))
    assert (addresses, files) == (["tls://127.0.0.1:4222"], TlsFiles(None, *certs.files("operator")))
    assert made.told([4222]) == ("wss://127.0.0.1",)
    assert [one.kind for one in certs.show() if one.file == "operator.pem"] == ["client"]
    kept = files.certificate.read_bytes()
    assert of(tmp_path, tls=True, client_certs=True).own == made.own
    assert files.certificate.read_bytes() == kept


def test_somebody_elses_certificate_is_shown_if_it_is_good_for_that(tmp_path):
    """With certificates that are given it takes their authority, and one that is for clients, too; else it says so."""
    certs = Certs(tmp_path / "theirs")
    certs.init()
    certs.server("x", ["fed.example"])
    certificate, key = certs.files("x")
    how = {"certificate": certificate, "key": key, "hosts": ["fed.example"], "client_certs": True}
    made = of(tmp_path, **how, ca=certs.ca)
    assert (made.clients_ca, made.own) == (certs.ca, (certificate, key))
    with pytest.raises(ConfigError, match="fedbus --ca FILE up"):
        of(tmp_path, **how)
    certs._issue("s", [], [ExtendedKeyUsageOID.SERVER_AUTH], 9)
    with pytest.raises(ConfigError, match="is not for clients"):
        of(tmp_path, **(how | {"certificate": certs.files("s")[0]}), ca=certs.ca)


def test_somebody_elses_certificate_is_used_is_used_under_its_own_name(tmp_path):
    """A certificate that names no 127.0.0.1 is not asked for under it, not even by the roles beside the broker."""
    certs = Certs(tmp_path / "theirs")
    certs.init()
    certs.server("x", ["fed.example"], local=False)
    certificate, key = certs.files("x")
    made = of(tmp_path, certificate=certificate, key=key, hosts=["fed.example"])
    assert made.url([4222]) == "tls://fed.example:4222"
    assert made.ca == ""
    assert not (tmp_path / "certs").exists()
