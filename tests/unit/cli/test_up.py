"""`fedbus up`: what it was told reaches the roles that take it, through their own command lines."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from fedbus.cli import roles
from fedbus.cli import up as side_of
from fedbus.cli.processes import Process
from fedbus.cli.tree import app
from fedbus.cli.up import Up
from fedbus.coordinator.rounds import Sampling

OPTIONS = [
    *("--gateways", "2", "--allow-host", "lab.example"),
    *("--cors-origin", "https://a.example", "--cors-origin", "https://b.example"),
    *("--jaeger-url", "http://127.0.0.1:16686", "--store", "file:///srv/models"),
    *("--trace-rounds", "2.5", "--trace-clients", "7"),
]


@pytest.fixture(name="side")
def fixture_side(monkeypatch, tmp_path):
    """The operator's side as the command makes it; nothing of it runs."""

    async def nothing(self, *, processes):
        made.append(self)

    made: list[Up] = []
    monkeypatch.delenv("FEDBUS_STORE", raising=False)
    monkeypatch.setattr(Up, "run", nothing)
    given = ["up", "--nats", "nats://h:1", "--data-dir", str(tmp_path), *OPTIONS]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return made[0]


@pytest.fixture(name="asked")
def fixture_asked(monkeypatch):
    """What roles were asked for, by name: (place, listening or sampling)."""
    found = {}

    async def serve(place, name, listening, ready_file=None):
        found[name] = (place, listening)

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
        place, listening = found[name]
        assert (place.url, place.store) == ("nats://h:1", "file:///srv/models")
        assert listening.hosts == ("lab.example",)
        assert listening.cors_origins == ("https://a.example", "https://b.example")
        assert listening.jaeger_url == "http://127.0.0.1:16686"
        assert listening.host == "127.0.0.1"
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
