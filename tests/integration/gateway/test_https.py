"""A gateway over HTTPS: it serves nothing else, tells browsers to stay, and takes renewed certificates as it runs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import ssl

import aiohttp
import pytest

from fedbus.access.certs import Certs
from fedbus.errors import ConfigError
from fedbus.gateway.listening import Listening
from fedbus.gateway.tls import Certificate, certificate_of


@pytest.fixture
def certs(tmp_path):
    """An authority, and two certificates for this machine and a name of a domain."""
    made = Certs(tmp_path / "certs")
    made.init()
    for name in ("old", "new"):
        made.server(name, ["fed.example"])
    return made


@pytest.fixture
def files(tmp_path, certs):
    """The files that a gateway is given: those of the old certificate."""
    place = tmp_path / "given.pem", tmp_path / "given-key.pem"
    for source, target in zip(certs.files("old"), place, strict=True):
        shutil.copy(source, target)
    return place


async def shown(url, certs):
    """Return the fingerprint of the certificate that a server shows, verified."""
    context = ssl.create_default_context(cafile=certs.ca)
    port = int(url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="fed.example")
    seen = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return hashlib.sha256(seen).hexdigest()


async def test_a_gateway_serves_https_and_nothing_else(house, certs, files):
    """Its address is https; names of a domain get HSTS, those of the machine do not; plain HTTP gets no answer."""
    url = await house.gateway("g1", tls_certificate=files[0], tls_key=files[1], hosts=("fed.example",))
    assert url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=certs.ca)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=context)) as http:
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        for host, wanted in (("fed.example", "max-age=31536000"), ("localhost", None)):
            async with http.get("/", headers={"Host": host}) as answer:
                assert answer.status == 200
                assert answer.headers.get("Strict-Transport-Security") == wanted
    with pytest.raises(aiohttp.ClientConnectionError):
        async with aiohttp.ClientSession() as http, http.get(url.replace("https:", "http:") + "/healthz"):
            pass


async def test_plain_http_says_nothing_of_https(house):
    """Without a certificate there is no HSTS, which would shut browsers out of everything else at that name."""
    url = await house.gateway("g1", hosts=("fed.example",))
    async with aiohttp.ClientSession(url) as http, http.get("/", headers={"Host": "fed.example"}) as answer:
        assert answer.status == 200
        assert "Strict-Transport-Security" not in answer.headers


async def test_a_renewed_certificate_is_shown_without_a_restart(house, certs, files, monkeypatch):
    """New connections get the new certificate once both of its files are there; those that are open go on."""
    monkeypatch.setattr("fedbus.gateway.tls.LOOK_S", 0.05)
    url = await house.gateway("g1", tls_certificate=files[0], tls_key=files[1])
    context = ssl.create_default_context(cafile=certs.ca)
    old = await shown(url, certs)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=context)) as http:
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        for source, target in zip(certs.files("new"), files, strict=True):
            shutil.copy(source, target)
        async with asyncio.timeout(10):
            while (new := await shown(url, certs)) == old:  # noqa: ASYNC110 - it takes it when it looks
                await asyncio.sleep(0.05)
        async with http.get("/healthz") as answer:
            assert answer.status == 200
    assert new == next(one.fingerprint for one in certs.show() if one.file == "new.pem")


def test_files_that_do_not_fit_together_are_not_taken(certs, files, caplog):
    """Half of a new pair, or none, changes nothing and is said; the whole pair is taken."""
    certificate = Certificate(*files)
    assert not certificate.renew()
    shutil.copy(certs.files("new")[0], files[0])
    with caplog.at_level(logging.WARNING):
        assert not certificate.renew()
    assert "the old one stays" in caplog.text
    caplog.clear()
    assert not certificate.renew()  # said once
    files[1].unlink()
    assert not certificate.renew()
    assert caplog.text == ""
    shutil.copy(certs.files("new")[1], files[1])
    os.utime(files[1])
    assert certificate.renew()


def test_what_cannot_be_shown_is_a_usage_error(certs, tmp_path):
    """Half of the settings, no file, no PEM, a key of another certificate: `ConfigError` says which."""
    with pytest.raises(ConfigError, match="both --tls-cert and --tls-key"):
        certificate_of(certs.files("old")[0], None)
    with pytest.raises(ConfigError, match="there is no such file"):
        certificate_of(tmp_path / "none.pem", certs.files("old")[1])
    with pytest.raises(ConfigError, match="cannot be used together"):
        certificate_of(certs.files("old")[0], certs.files("new")[1])
    assert certificate_of(Listening().tls_certificate, Listening().tls_key) is None
