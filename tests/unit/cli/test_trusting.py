"""`fedbus --ca FILE --tls-cert FILE --tls-key FILE COMMAND`: what every command is told of TLS."""

from __future__ import annotations

import pytest

from fedbus.cli.tree import run


@pytest.mark.parametrize("by", ["option", "environment"])
def test_files_are_for_addresses_with_tls(by, tmp_path, monkeypatch, capsys):
    """An address in the clear is refused where whom to trust was said; nothing is connected to."""
    if by == "environment":
        monkeypatch.setenv("FEDBUS_CA", str(tmp_path / "ca.pem"))
    options = ["--ca", str(tmp_path / "ca.pem")] if by == "option" else []
    assert run([*options, "session", "list", "--nats", "nats://127.0.0.1:1"]) == 2
    assert "write tls://" in capsys.readouterr().err


def test_files_reach_the_connection(tmp_path, monkeypatch, capsys):
    """A file that is not there is named, though it was said by a relative path."""
    monkeypatch.chdir(tmp_path)
    assert run(["--ca", "none.pem", "session", "list", "--nats", "wss://127.0.0.1:1"]) == 2
    assert f"{tmp_path / 'none.pem'} cannot be read" in capsys.readouterr().err
