"""The sample package of examples/plugins, found as an installed one is: by its entry points."""

from __future__ import annotations

import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fedbus.sinks import ClosedRound, Ended, Evaluated, Tracked, open_sink
from fedbus.sinks.registry import REGISTRY as SINKS
from fedbus.store.objects import open_store
from fedbus.store.objects.registry import REGISTRY as STORES
from fedbus.testing import check_store

SAMPLE = Path(__file__).parents[3] / "examples" / "plugins"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Have the package on the path, with the metadata that an installer writes of its pyproject.toml."""
    project = tomllib.loads((SAMPLE / "pyproject.toml").read_text())["project"]
    information = tmp_path / "site" / f"fedbus_sample-{project['version']}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n\n".join(groups))
    monkeypatch.syspath_prepend(str(SAMPLE))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


async def test_the_store_keeps_the_contract(installed, tmp_path):
    """A store of another package is found by its scheme, and keeps every promise of a store."""
    assert "sqlite" in STORES.names()

    @asynccontextmanager
    async def make():
        yield lambda: open_store(f"sqlite://{tmp_path}/models.db")

    await check_store(make)


def test_the_sink_writes_its_table(installed, tmp_path):
    """A sink of another package is found by its name, and makes the same of what it is told twice as of once."""
    assert "markdown" in SINKS.names()
    sink = open_sink(f"markdown:{tmp_path}/results.md")
    session = Tracked("w", "digits", 1.0, "me", {}, "digits-0", "00")
    texts = []
    for _ in range(2):
        sink.started(session)
        sink.round(session, ClosedRound(1, 2.0, "digits-1", "00", 3, 0, 1.0, 0, 0, {"loss": 0.5}))
        sink.evaluated(session, Evaluated(1, 3.0, "digits-1", 3, {"accuracy": 0.75}))
        sink.ended(session, Ended(4.0, "completed", "all rounds are closed", "digits-1", "00"))
        sink.flush()
        texts.append((tmp_path / "results.md").read_text())
    assert texts[0] == texts[1]
    assert "| round | accuracy | updates |\n| --- | --- | --- |\n| 1 | 0.75 | 3 |" in texts[0]
