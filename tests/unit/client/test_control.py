"""Where a client is told what its owner wants: a line there, a line back; no client ends for lack of a socket."""

from __future__ import annotations

import asyncio

import pytest

from fedbus.client.control import ask, listening
from fedbus.errors import ConfigError


async def test_a_request_is_done_and_answered(tmp_path):
    """What is done comes back, an error of ours too; when the context ends nobody answers, and the socket is gone."""
    wanted = []

    async def do(what, session):
        wanted.append((what, session))
        if what == "explode":
            raise ConfigError("expected something else")
        return {"left": [session]}

    (tmp_path / "control").write_text("of a process that was killed")
    async with listening(tmp_path, do):
        assert await ask(tmp_path, "leave", "s-1") == {"left": ["s-1"]}
        with pytest.raises(ConfigError, match="expected something else"):
            await ask(tmp_path, "explode")
    assert wanted == [("leave", "s-1"), ("explode", "")] and not (tmp_path / "control").exists()
    with pytest.raises(ConfigError, match="no client that runs answers there"):
        await ask(tmp_path, "leave", "s-1")


async def test_without_a_socket_the_client_runs_all_the_same(tmp_path, caplog):
    """The file system may have none: the log says what will not work."""
    async with listening(tmp_path / "none", lambda what, session: asyncio.sleep(0)):
        pass
    assert "cannot reach it" in caplog.text
