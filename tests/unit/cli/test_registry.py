"""What the commands on versions, stages and retention print, and the JSON that programs get; in memory."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import numpy as np
import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.cli import listing, registry
from fedbus.errors import ConfigError, Conflict
from fedbus.federation.service import Federation
from fedbus.store.streams import ensure_streams
from fedbus.tensors import files
from fedbus.workers import Inline

ASKED = {"session": "", "stage": "", "text": "", "kept": ""}


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A workspace with two models that were brought in: first and second; `run` runs coroutine functions there."""
    broker = MemoryBroker()

    @asynccontextmanager
    async def federation_of(_):
        federation = Federation(MemoryBus(broker, "eve"), name="eve", workers=Inline())
        async with federation:
            await ensure_streams(federation.bus, federation.subjects)
            yield federation

    monkeypatch.setattr(registry, "federation_of", federation_of)
    monkeypatch.setattr(listing, "federation_of", federation_of)
    files.write(tmp_path / "m.safetensors", {"w": np.zeros(3, np.float32)})
    return tmp_path


def run(*calls):
    """Run commands one after the other in one loop."""

    async def main():
        for call in calls:
            await call

    asyncio.run(main())  # files are written in threads


def printed(capsys):
    """The JSON of each line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_from_import_to_roll_back_in_json(place, capsys):
    """Each command prints one object, with the fields that REST has."""
    file = place / "m.safetensors"
    run(
        registry.import_model(None, file, "first", "one", json=True),
        registry.import_model(None, file, "second", "", json=True),
        registry.promote(None, "first", "live", "r", json=True),
        registry.promote(None, "second", "live", "", json=True),
        registry.rollback(None, "live", "", json=True),
        registry.show_stage(None, "live", json=True),
        registry.list_stages(None, json=True),
        registry.annotate(None, "@live", "noted", json=True),
        registry.show_model(None, "@live", json=True),
        registry.show_card(None, "@live", place / "card.md", json=True),
        registry.show_lineage(None, "second", json=True),
        registry.list_models(None, ASKED | {"stage": "live"}, every=False, json=True),
        listing.download(None, "@live", place / "out.safetensors", json=True),
    )
    out = printed(capsys)
    assert [one["version"] for one in out[:2]] == ["first", "second"] and out[0]["note"] == "one"
    assert (out[3]["version"], out[3]["before"]) == ("second", ["first"])
    assert out[4] == out[5] == out[6][0] and (out[4]["version"], out[4]["before"]) == ("first", [])
    assert (out[7]["version"], out[7]["note"]) == ("first", "noted")
    assert out[8]["arrays"] == [{"name": "w", "dtype": "<f4", "shape": [3]}] and out[8]["stages"] == ["live"]
    assert out[9]["card"] == (place / "card.md").read_text() and out[9]["card"].startswith("# first\n")
    assert [one["version"] for one in out[10]] == ["second"]
    assert [one["version"] for one in out[11]] == ["first"]
    assert out[12]["version"] == "first" and (place / "out.safetensors").exists()


def test_what_people_read(place, capsys):
    """Tables and sentences: what a stage is, what a collection does, what is kept; a hostile note moves no cursor."""
    file = place / "m.safetensors"
    run(
        registry.import_model(None, file, "first", "\x1b[2Jred\nline", json=False),
        registry.promote(None, "first", "live", "because", json=False),
        registry.list_models(None, ASKED, every=False, json=False),
        registry.show_model(None, "first", json=False),
        registry.list_stages(None, json=False),
        registry.show_retention(None, json=False),
        registry.set_retention(None, 3, keep_all=False, json=False),
        registry.collect(None, 0.0, dry_run=True, json=False),
        registry.clear_stage(None, "live", "", json=False),
        registry.remove_model(None, "first", "old", 0.0, json=False),
        registry.list_models(None, ASKED, every=False, json=False),
        registry.list_models(None, ASKED, every=True, json=False),
    )
    out, err = capsys.readouterr()
    for text in (
        "live is first since", "by eve: because", "a collection keeps all versions",
        "the last 3 versions of each session",
        "0 versions would go, 0 B: -", "live is no stage any more; it had first", "first: its arrays are removed",
        "- (it was imported)", "removed",
    ):  # fmt: skip
        assert text in out, text
    assert "\x1b" not in out and "1 more versions have no arrays any longer: --all" in err


def test_what_is_refused(place):
    """Neither or both of the options of `retention set`; a version that is needed."""
    for keep_last, keep_all in ((None, False), (3, True)):
        with pytest.raises(ConfigError, match="either --keep-last N or --keep-all"):
            run(registry.set_retention(None, keep_last, keep_all=keep_all, json=False))
    file = place / "m.safetensors"
    with pytest.raises(Conflict, match="stage live"):
        run(
            registry.import_model(None, file, "first", "", json=False),
            registry.promote(None, "first", "live", "", json=False),
            registry.remove_model(None, "first", "", 0.0, json=False),
        )
