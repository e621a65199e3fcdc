"""docs/reference/bus.md names every setting with its true default, and every method of the interface."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fedbus.bus.base import Bus
from fedbus.bus.embedded import BrokerSettings
from fedbus.bus.embedded.conf import settings_text
from fedbus.bus.memory import Faults
from fedbus.errors import ConfigError

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "bus.md").read_text()


@pytest.mark.parametrize("kind", [BrokerSettings, Faults])
def test_settings_are_documented(kind):
    """Each setting stands in a table with its default."""
    missing = [f.name for f in fields(kind) if f"| `{f.name}` | {getattr(kind(), f.name)} |" not in PAGE]
    assert missing == []


def test_the_interface_is_documented():
    """Each method and property of a bus is mentioned."""
    methods = [name for name in vars(Bus) if not name.startswith("_")]
    missing = [name for name in methods if name not in PAGE]
    assert missing == []


def test_the_settings_file_is_what_was_chosen(tmp_path):
    """Paths are quoted, sizes are plain numbers, port 0 is nats-server's -1, an IPv6 host is bracketed."""
    store = tmp_path / 'with "quotes"'
    store.mkdir()
    text = settings_text(BrokerSettings(file_bytes_max=7), store, "::1", 0)
    assert 'listen: "[::1]:-1"' in text
    assert r'store_dir: "' in text
    assert r"with \"quotes\"" in text
    assert "max_file_store: 7\n" in text
    assert "sync_interval: always" in text
    assert "http" not in text.replace("# No http port", "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload_bytes_max": 1},
        {"payload_bytes_max": 2**30},
        {"outgoing_bytes_max": 2**20},
        {"file_bytes_max": -1},
        {"write_deadline_s": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    """A setting that would make a broker that cannot work is a ConfigError."""
    with pytest.raises(ConfigError):
        BrokerSettings(**wrong)
