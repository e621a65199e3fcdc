"""`fedbus up`: what it was told reaches the roles that take it, through their own command lines."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from fedbus.cli import roles
from fedbus.cli import up as side_of
from fedbus.cli.processes import Process
from fedbus.cli.roles import Place
from fedbus.cli.tree import app
from fedbus.cli.up import Up
from fedbus.coordinator.rounds import Sampling

OPTIONS = [
    *("--gateways", "2", "--allow-host", "lab.example"),
    *("--cors-origin", "https://a.example", "--cors-origin", "https://b.example"),
    *("--jaeger-url", "http://127.0.0.1:16686", "--store", "file:///srv/models"),
    *("--trace-rounds", "2.5", "--trace-clients", "7"),
]

SAID = {
    "FEDBUS_SIGN_IN_MAX": "10h",
    "FEDBUS_SIGN_IN_IDLE": "30m",
    "FEDBUS_ASK_AGAIN": "5m",
    "FEDBUS_PUBLIC_URL": "https://fed.example",
    "FEDBUS_OIDC_ISSUER": "https://login.example",
    "FEDBUS_OIDC_CLIENT_ID": "fedbus",
    "FEDBUS_OIDC_AMR": "mfa hwk",
    "FEDBUS_SECOND_FACTOR": "admin",
}
"""In the environment: how people sign in."""


@pytest.fixture(name="side")
def fixture_side(monkeypatch, tmp_path):
    """The operator's side as the command makes it; nothing of it runs."""

    async def nothing(self, *, processes):
        made.append(self)

    made: list[Up] = []
    monkeypatch.delenv("FEDBUS_STORE", raising=False)
    for name, value in SAID.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Up, "run", nothing)
    given = ["up", "--nats", "nats://h:1", "--data-dir", str(tmp_path), *OPTIONS]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return made[0]


@pytest.fixture(name="asked")
def fixture_asked(monkeypatch):
    """What roles were asked for, by name: (place, listening or sampling)."""
    found = {}

    async def serve(place, name, listening, ready_file=None, oidc=None):
        found[name] = (place, listening, oidc())

    async def coordinate(place, name, *, sampling, **_):
        found[name] = (place, sampling)

    for module in (roles, side_of):
        monkeypatch.setattr(module, "serve", serve)
        monkeypatch.setattr(module, "coordinate", coordinate)
        monkeypatch.setattr(module, "combine", lambda place, name, *_, **__: asyncio.sleep(0))
    return found


def check(found):
    """Each role has what it takes."""
    assert found["coordinator"][1] == Sampling(2.5, 7)
    for name in ("gateway", "gateway-2"):
        place, listening, provider = found[name]
        assert (place.url, place.store) == ("nats://h:1", "file:///srv/models")
        assert listening.hosts == ("lab.example",)
        assert listening.cors_origins == ("https://a.example", "https://b.example")
        assert listening.jaeger_url == "http://127.0.0.1:16686"
        assert listening.host == "127.0.0.1" and listening.public_url == "https://fed.example"
        assert (listening.sign_in_s, listening.idle_s, listening.ask_again_s) == (36000.0, 1800.0, 300.0)
        assert (provider.issuer, provider.client_id) == ("https://login.example", "fedbus")
        assert (provider.amr, provider.factor_roles) == (("mfa", "hwk"), ("admin",))
    assert [found[name][1].port for name in ("gateway", "gateway-2")] == [8080, 8081]


def test_roles_in_processes_of_their_own_get_what_was_said(side, asked, monkeypatch):
    """By their command lines; the store, whose address may hold a password, by the environment."""
    commands = []

    async def start(arguments, *, env):
        commands.append((arguments, env))

    async def keep(_, started):
        await started()

    monkeypatch.setattr(Process, "start", start)
    monkeypatch.setattr(side.supervisor, "keep", keep)

    async def main():
        await asyncio.gather(*side._processes())

    asyncio.run(main())
    assert len(commands) == 4
    for arguments, env in commands:
        assert not any("srv/models" in one for one in arguments)
        result = CliRunner().invoke(app, arguments, env=env, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    check(asked)


def test_roles_in_this_process_get_what_was_said(side, asked):
    """As with processes."""

    async def main():
        await asyncio.gather(*side._in_process())

    asyncio.run(main())
    check(asked)


def test_what_an_earlier_gateway_has_written_is_not_believed(side, asked, tmp_path):
    """Of a run in one process that was killed an address is left, which is nobody's now."""
    (tmp_path / "gateway.json").write_text('{"http_url": "http://127.0.0.1:1", "pid": 1}')
    for role in side._in_process():
        role.close()
    assert side._gateways.missing() == ["gateway", "gateway-2"]


def test_an_address_with_a_password_is_its_owners(tmp_path, capsys):
    """It is not printed, and the ready file, which has it, is not for everybody; one without a password is."""
    modes = {}
    for url in ("nats://up:secret@h:1", "nats://h:1"):
        side = Up(Place(url), tmp_path, combiners=1, ready_file=tmp_path / "ready.json")
        side._ready = True
        side._write_ready()
        side._announce()
        modes[url] = side._ready_file.stat().st_mode & 0o077
    assert modes["nats://up:secret@h:1"] == 0 != modes["nats://h:1"]
    said = capsys.readouterr().out
    assert "ready at nats://h:1:" in said and "secret" not in said


def test_a_gateway_is_named_like_its_machine(asked, monkeypatch):
    """Without --name, as a client is: gateways on several machines do not collide."""
    monkeypatch.setattr("socket.gethostname", lambda: "ward-7.clinic.example")
    result = CliRunner().invoke(app, ["gateway", "--nats", "nats://h:1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert list(asked) == ["ward-7"]
