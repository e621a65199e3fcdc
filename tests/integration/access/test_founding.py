"""`fedbus keys init`: what it makes before anything runs is what a broker, and those who come to it, can use."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from fedbus.access.authority import Authority
from fedbus.access.credentials import read_credentials
from fedbus.bus.embedded.binary import find_binary
from fedbus.bus.nats import connect
from fedbus.cli.tree import run
from fedbus.errors import BusDenied

SHIPPED = Path(__file__).parents[3] / "examples" / "compose" / "nats.conf"


def init(place, *members):
    """Run the command; the exit code."""
    given = [f"--member={who}={place / file}" for who, file in members]
    paths = ["--keys", str(place / "keys"), "--broker", str(place / "access" / "access.conf"), "--store", str(place)]
    return run(["keys", "init", *paths, "--url", "nats://broker:4222", *given])


async def test_a_broker_that_includes_it_lets_in_its_members_only(tmp_path):
    """The settings that we ship take it in; a member gets in, nobody else does; all files are for their owner alone."""
    assert await asyncio.to_thread(init, tmp_path, ("admin/cli", "own/me.creds")) == 0
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.rglob("*")}
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}
    text = SHIPPED.read_text().replace("0.0.0.0:4222", "127.0.0.1:-1").replace("/var/lib/nats", str(tmp_path / "store"))
    text = text.replace('http: "127.0.0.1:8222"', f'ports_file_dir: "{tmp_path}"')
    (tmp_path / "nats.conf").write_text(text)
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(find_binary(), "--config", tmp_path / "nats.conf", stderr=quiet)
    try:
        async with asyncio.timeout(10):
            while not (files := [*tmp_path.glob("*.ports")]) or not files[0].read_text():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)
        (url,) = json.loads(files[0].read_text())["nats"]
        async with await connect(url, name="cli", credentials=tmp_path / "own" / "me.creds") as bus:
            assert bus.member == ("admin", "cli")
        with pytest.raises(BusDenied):
            await connect(url, name="stranger")
    finally:
        server.terminate()
        await server.wait()


def test_again_it_changes_nothing_but_what_is_not_good(tmp_path, capsys):
    """At every start of a container: keys and good credentials stay; lost ones, and others', are made anew."""
    who = ("combiner/k-1", "k-1.creds")
    assert init(tmp_path, who) == 0
    first = (tmp_path / "k-1.creds").read_bytes()
    assert read_credentials(tmp_path / "k-1.creds").trust.urls == ("nats://broker:4222",)
    assert init(tmp_path, who, ("combiner/k-2", "k-2.creds")) == 0
    assert (tmp_path / "k-1.creds").read_bytes() == first
    assert "new credentials: combiner/k-2" in capsys.readouterr().out
    other = Authority.open(tmp_path / "other")
    other.create_workspace("default")
    (tmp_path / "keys").rename(tmp_path / "before")
    (tmp_path / "other").rename(tmp_path / "keys")
    assert init(tmp_path, who) == 0
    assert (tmp_path / "k-1.creds").read_bytes() != first


@pytest.mark.parametrize(
    "members",
    [[("k-1", "f")], [("king/k-1", "f")], [("combiner/k 1", "f")], [("combiner/a", "f"), ("combiner/b", "f")]],
)
def test_members_that_cannot_be(tmp_path, members, capsys):
    """Who is no member, has no role that there is, or shares a file, is refused before a key is made."""
    assert init(tmp_path, *members) == 2
    assert capsys.readouterr().err
    assert not (tmp_path / "keys").exists()
