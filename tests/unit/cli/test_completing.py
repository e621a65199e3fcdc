from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from fedbus.cli import completing
from fedbus.errors import BusUnavailable


@pytest.fixture(name="asked")
def fixture_asked(monkeypatch):
    """A federation of three clients; returns the places that it was looked for at."""
    places = []

    @asynccontextmanager
    async def federation_of(place):
        places.append((place.url, place.workspace, place.credentials))

        async def clients():
            if place.workspace == "silent":
                await asyncio.sleep(3600)
            if place.workspace == "away":
                raise BusUnavailable("no broker")
            return [SimpleNamespace(name=name) for name in ("site-1", "site-2", "ward")]

        yield SimpleNamespace(clients=clients)

    monkeypatch.setattr("fedbus.cli.listing.federation_of", federation_of)
    monkeypatch.setattr(completing, "ANSWER_S_MAX", 0.05)
    yield places
    logging.disable(logging.NOTSET)


def typed(**params):
    """What of the line is known already."""
    return SimpleNamespace(params=params)


def test_names_that_begin_so_are_offered(asked, monkeypatch):
    """The federation is the one that the line names, else the environment, else the default."""
    monkeypatch.setattr(completing, "environ", lambda: {"FEDBUS_URL": "nats://env:1", "FEDBUS_WORKSPACE": "w"})
    assert completing.clients(typed(), "site") == ["site-1", "site-2"]
    assert completing.clients(typed(nats="nats://line:2", workspace=None), "") == ["site-1", "site-2", "ward"]
    assert asked == [("nats://env:1", "w", None), ("nats://line:2", "w", None)]


@pytest.mark.parametrize("workspace", ["silent", "away"])
def test_who_does_not_answer_has_no_names(asked, capsys, workspace):
    """Neither a broker that is away nor one that is silent makes a word, or keeps the line for long."""
    assert completing.clients(typed(workspace=workspace), "") == []
    assert capsys.readouterr() == ("", "")


def test_a_chain_is_gone_on_with():
    """Behind a + every strategy may stand, and what is before it stays."""
    assert completing.strategies("zeroing+norm") == ["zeroing+norm_clipping"]
    assert "krum" in completing.strategies("kr")
    assert completing.codecs("int") == ["int4", "int8"]
    assert completing.selections("ra") == ["random"]
