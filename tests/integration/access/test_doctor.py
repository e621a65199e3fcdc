"""`fedbus doctor` names the hop that is broken, at brokers that are broken there; what follows is not looked at."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedbus.access import accounts, known
from fedbus.access.authority import Authority
from fedbus.access.certs import Certs
from fedbus.access.credentials import write_credentials
from fedbus.access.permissions import Permissions
from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.bus.embedded.binary import find_binary
from fedbus.bus.nats import Identity, connect
from fedbus.bus.tls import TlsFiles, with_files
from fedbus.cli import doctor as doctors
from fedbus.cli import proving, reaching
from fedbus.cli.doctor import examine
from fedbus.cli.roles import Place
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams

ROLE_HOPS = ["DNS", "TCP", "TLS", "authentication", "permission", "JetStream", "payload", "streams"]


def free_port():
    """A port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


async def broken(place):
    """Look at a place: the hops that are well, and the first that is not."""
    checks = await examine(place)
    failed = [check for check in checks if not check.ok]
    assert failed, [check.hop for check in checks]
    return [check.hop for check in checks if check.ok], failed[0]


@asynccontextmanager
async def listening(answer):
    """Something that is no broker: it does as ``answer`` with whoever connects; its port."""

    async def serve(reader, writer):
        await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


# ---- below the broker's protocol


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", ".."])
async def test_a_name_that_nobody_has(host):
    """DNS: a name without an address, and what is no name, stop everything behind it."""
    well, check = await broken(Place(f"nats://{host}:4222"))
    assert (well, check.hop) == ([], "DNS")
    assert "--nats" in check.advice


@pytest.mark.parametrize("url", ["", "nats://", "nats://h:port", "nats://h:4222?ca=/x"])
async def test_an_address_that_is_none(url):
    """What cannot be an address is said at the first hop."""
    well, check = await broken(Place(url))
    assert (well, check.hop) == ([], "DNS")


async def test_nobody_listens():
    """TCP: a closed port is refused, and it is said how to start a broker."""
    well, check = await broken(Place(f"nats://127.0.0.1:{free_port()}"))
    assert (well, check.hop) == (["DNS"], "TCP")
    assert "nothing listens there" in check.found
    assert "fedbus up" in check.advice


async def test_a_firewall_that_drops(monkeypatch):
    """TCP: who gets no answer at all hears of firewalls; the wait has an end."""

    async def never(*_arguments, **_how):
        await asyncio.Event().wait()

    monkeypatch.setattr(reaching, "STEP_S_MAX", 0.05)
    monkeypatch.setattr(reaching.asyncio, "open_connection", never)
    well, check = await broken(Place("nats://127.0.0.1:4222"))
    assert (well, check.hop) == (["DNS"], "TCP")
    assert "firewall" in check.advice


@pytest.mark.parametrize(
    ("said", "text"),
    [(b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400"), (b"", "it said nothing"), (b"INFO {not json\r\n", "INFO")],
)
async def test_something_else_listens(said, text):
    """TCP: a port at which another protocol is spoken is told from a broker, with what it said."""

    async def answer(_reader, writer):
        writer.write(said)

    async with listening(answer) as port:
        well, check = await broken(Place(f"nats://127.0.0.1:{port}"))
    assert (well, check.hop) == (["DNS"], "TCP")
    assert "no nats-server" in check.found and text in check.found


async def test_one_of_several_addresses_is_enough(tmp_path):
    """A dead node of a cluster is named, and what is behind the others is looked at."""
    async with EmbeddedBroker(tmp_path / "store") as broker:
        dead = f"nats://127.0.0.1:{free_port()}"
        checks = await examine(Place(f"{dead},{broker.url}"))
    by_hop = {check.hop: check for check in checks}
    assert by_hop["TCP"].ok and dead in by_hop["TCP"].found
    assert by_hop["JetStream"].ok
    assert not by_hop["streams"].ok


# ---- TLS, at real brokers


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """An authority, and a server's certificate that is good, expired, and for another name; and another authority."""
    made = Certs(tmp_path_factory.mktemp("certs"))
    made.init()
    made.server("broker")
    Certs(made.directory, now=lambda: datetime.now(UTC) - timedelta(days=9)).server("expired", days=2)
    made.server("elsewhere", ["elsewhere.example"], local=False)
    return made


@pytest.mark.parametrize(
    ("shown", "trusts", "text"),
    [
        ("expired", True, "not valid any more"),
        ("elsewhere", True, "other names"),
        ("broker", False, "nobody who is trusted"),
    ],
)
async def test_a_certificate_that_will_not_do(certs, tmp_path, shown, trusts, text):
    """TLS: expired, for another name, signed by an authority that is not trusted here: each in words of its own."""
    certificate, key = certs.files(shown)
    # one that asks for certificates is not asked itself whether it is ready: it could not be, with these
    async with EmbeddedBroker(tmp_path, settings=BrokerSettings(tls=BrokerTls(certificate, key, certs.ca))) as broker:
        well, check = await broken(Place(with_files(broker.url, TlsFiles(certs.ca) if trusts else TlsFiles())))
    assert (well, check.hop) == (["DNS", "TCP"], "TLS")
    assert text in check.found


async def test_a_certificate_of_ours_is_wanted(certs, tmp_path):
    """TLS: a broker that wants to see a certificate, of whoever has none, is told as that."""
    certificate, key = certs.files("broker")
    settings = BrokerSettings(tls=BrokerTls(certificate, key, certs.ca))
    async with EmbeddedBroker(tmp_path, settings=settings) as broker:
        well, check = await broken(Place(with_files(broker.url, TlsFiles(certs.ca))))
    assert (well, check.hop) == (["DNS", "TCP"], "TLS")
    assert "certificate of ours" in check.found


# ---- who we are, at a secured broker


@pytest.fixture
async def secured(tmp_path):
    """A secured broker without a coordinator: (url, authority, place for files)."""
    authority = Authority.open(tmp_path / "keys")
    authority.create_workspace("default")
    async with EmbeddedBroker(tmp_path / "store", security=authority.security) as broker:
        yield broker.url, authority, tmp_path


def issued(authority, place, role="client", name="site-1", **how):
    """Write credentials; their path."""
    made = authority.issue(how.pop("workspace", "default"), role, name, **how)
    path = place / f"{role}.{name}.creds"
    write_credentials(path, made)
    return made, str(path)


async def test_nobody_in_particular(secured):
    """Authentication: without credentials the broker refuses, and it is said how to get some."""
    url, _, _ = secured
    well, check = await broken(Place(url))
    assert (well, check.hop) == (["DNS", "TCP", "TLS"], "authentication")
    assert "no credentials are known" in check.found
    assert "fedbus join" in check.advice


async def test_credentials_that_have_expired(secured):
    """Authentication: an end that has passed is said with how long ago, before the broker is asked."""
    url, authority, place = secured
    _, path = issued(authority, place, expires_at=time.time() - 3600)
    well, check = await broken(Place(url, credentials=path))
    assert (well, check.hop) == (["DNS", "TCP", "TLS"], "authentication")
    assert "expired 60 min ago" in check.found
    assert "clock" in check.advice


async def test_credentials_that_were_revoked(secured):
    """Authentication: the broker tells a revoked member no more than a stranger; who has the keys hears since when."""
    url, authority, place = secured
    made, path = issued(authority, place)
    authority.revoke("default", {made.claims.key: time.time()})
    await authority.push("default", url)
    well, check = await broken(Place(url, credentials=path))
    assert (well, check.hop) == (["DNS", "TCP", "TLS"], "authentication")
    assert "revoked, or signed by keys that are not those of this broker" in check.found
    _, check = await broken(Place(url, credentials=path, keys=authority.directory))
    assert check.found.startswith("client site-1: revoked ") and check.found.endswith(" ago")


async def test_credentials_of_another_workspace(secured):
    """Authentication: they are good, but elsewhere; it is said where."""
    url, authority, place = secured
    authority.create_workspace("lab")
    _, path = issued(authority, place, workspace="lab")
    _, check = await broken(Place(url, credentials=path))
    assert check.hop == "authentication"
    assert "is of workspace lab, not of default" in check.found
    assert "--workspace lab" in check.advice


async def test_credentials_of_another_authority(secured):
    """Authentication: same names, other keys, as after a broker that was set up anew."""
    url, authority, place = secured
    other = Authority.open(place / "other")
    other.create_workspace("default")
    _, path = issued(other, place)
    _, check = await broken(Place(url, credentials=path, keys=authority.directory))
    assert check.hop == "authentication"
    assert "signed by other keys" in check.found


@pytest.mark.parametrize(("text", "found"), [("nothing", "is it a .creds file?"), (None, "cannot be read")])
async def test_credentials_that_are_none(secured, text, found):
    """Authentication: a file that is not there, or something else, is said as that."""
    url, _, place = secured
    path = place / "file.creds"
    if text is not None:
        path.write_text(text)
    _, check = await broken(Place(url, credentials=str(path)))
    assert check.hop == "authentication"
    assert found in check.found


async def test_a_permission_that_is_missing(secured, monkeypatch):
    """Permission: where the account at the broker says less than the role needs, the subject is named."""
    url, authority, place = secured
    whole = accounts.template

    def less(role, workspace):
        allowed = whole(role, workspace)
        heard = tuple(pattern for pattern in allowed.subscribe if ".task." not in pattern)
        return Permissions(allowed.publish, heard)

    monkeypatch.setattr(accounts, "template", less)
    await authority.push("default", url)
    _, path = issued(authority, place)
    well, check = await broken(Place(url, credentials=path))
    assert (well, check.hop) == (["DNS", "TCP", "TLS", "authentication"], "permission")
    assert "subscription of fb.default.task.site-1" in check.found


async def test_a_workspace_without_its_streams(secured):
    """JetStream: a client hears that its workspace keeps no models yet, and who would see to that."""
    url, authority, place = secured
    _, path = issued(authority, place)
    well, check = await broken(Place(url, credentials=path))
    assert (well, check.hop) == (["DNS", "TCP", "TLS", "authentication", "permission"], "JetStream")
    assert "coordinator" in check.advice


async def test_credentials_are_found_that_are_known(secured):
    """What is remembered for the address is taken where none are given; that others can read it is said."""
    url, authority, place = secured
    _, path = issued(authority, place)
    known.remember(url, "default", Path(path))
    try:
        told = []
        for mode in (0o600, 0o640):
            await asyncio.to_thread(Path(path).chmod, mode)
            told.append({check.hop: check.found for check in await examine(Place(url))}["authentication"])
    finally:
        known.forget(url)
    assert all("client site-1 of workspace default" in each for each in told)
    assert [f"others can read {path}" in each for each in told] == [False, True]


# ---- the rest


async def test_a_broker_without_jetstream(tmp_path, monkeypatch):
    """JetStream: a plain nats-server is well up to there, and it is said how to turn it on."""
    monkeypatch.setattr(doctors, "DEADLINE_S", 0.3)
    (tmp_path / "conf").write_text(f"listen: 127.0.0.1:-1\nports_file_dir: {tmp_path}\n")
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(find_binary(), "--config", tmp_path / "conf", stderr=quiet)
    try:
        async with asyncio.timeout(10):
            while not (files := [*tmp_path.glob("*.ports")]) or not files[0].read_text():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)
        (url,) = json.loads(files[0].read_text())["nats"]
        well, check = await broken(Place(url))
    finally:
        server.terminate()
        await server.wait()
    assert (well, check.hop) == (["DNS", "TCP", "TLS", "authentication", "permission"], "JetStream")
    assert "jetstream {}" in check.advice


@pytest.mark.parametrize("role", ["admin", "client"])
async def test_nobody_coordinates(secured, monkeypatch, role):
    """Coordinator: with streams but nobody who answers, it is that hop, for people and for clients."""
    url, authority, place = secured
    made, _ = issued(authority, place, "coordinator", "c")
    async with await connect(url, name="c", credentials=Identity(made.jwt, made.seed)) as bus:
        await ensure_streams(bus, Subjects("default"))
    monkeypatch.setattr(doctors, "DEADLINE_S", 0.5)
    _, path = issued(authority, place, role)
    well, check = await broken(Place(url, credentials=path))
    assert (well[:8], check.hop) == (ROLE_HOPS, "coordinator")
    assert not check.ok


async def test_a_clock_that_is_behind(secured, monkeypatch):
    """Clocks: credentials that will be signed an hour from now say that this machine's clock is behind."""
    _, authority, place = secured
    made, _ = issued(authority, place)
    monkeypatch.setattr(proving.time, "time", lambda: made.claims.issued_at - 3600)
    with pytest.raises(reaching.BrokenError) as error:
        proving.check_clock(proving.Standing(place, made))
    assert "signed 60 min from now" in error.value.found
    assert "NTP" in error.value.advice
