"""What sessions can be made of, over REST: the same as the command line tells."""

from __future__ import annotations

import pytest
from asker import ask, make_gateway
from whole_house import House

from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError, NotFound
from fedbus.federation import catalogue
from fedbus.testing.loop import run_virtual

API = "/api/v1"


def asked(target):
    """Ask a gateway that needs no bus for this."""
    return run_virtual(ask(make_gateway(House()), "GET", target))


def test_everything_that_is_installed_is_listed():
    """Every name of every registry, by pages and by kind."""
    there = {(kind, name) for kind, registry in catalogue.REGISTRIES.items() for name in registry.names()}
    listed = asked(f"{API}/strategies?limit=500").json["items"]
    assert {(one["kind"], one["name"]) for one in listed} == there
    codecs = asked(f"{API}/strategies?kind=codec").json["items"]
    assert {one["name"] for one in codecs} == {name for kind, name in there if kind == "codec"}
    assert asked(f"{API}/strategies?kind=fish").status == 422


def test_one_is_told_with_its_options():
    """Defaults, bounds as JSON Schema, what it needs; a form is made of it."""
    told = asked(f"{API}/strategies/fedadam").json
    assert (told["kind"], told["family"]) == ("strategy", "linear")
    tau = next(option for option in told["options"] if option["name"] == "tau")
    assert tau["default"] > 0 and tau["json_schema"]["type"] == "number" and tau["description"]
    needs = asked(f"{API}/strategies/qfedavg").json["needs"]
    assert needs == ["each update carries the metrics loss", "the weights that clients give do not count"]
    clipping = asked(f"{API}/strategies/norm_clipping").json
    assert [(option["name"], option["required"]) for option in clipping["options"]] == [("clip_norm", True)]


def test_a_chain_is_told_member_by_member():
    """Options are called by whose they are; a member that is none makes 404, a chain that cannot be 422."""
    names = [option["name"] for option in asked(f"{API}/strategies/norm_clipping+fedadam").json["options"]]
    assert "norm_clipping.clip_norm" in names and "fedadam.tau" in names
    assert asked(f"{API}/strategies/norm_clipping+fedmagic").status == 404
    assert asked(f"{API}/strategies/fedadam+norm_clipping").status == 422


def test_an_unknown_name_is_not_found():
    """Also one of another kind than was asked for."""
    assert asked(f"{API}/strategies/fedmagic").status == 404
    assert asked(f"{API}/strategies/int8?kind=selection").status == 404
    assert asked(f"{API}/strategies/int8?kind=codec").status == 200


def test_one_that_is_broken_is_listed_with_the_reason(monkeypatch):
    """A plug-in that cannot be loaded hides none of the others."""

    class Broken:
        names = staticmethod(lambda: ("good", "ours"))

        @staticmethod
        def find(name):
            if name == "ours":
                raise ConfigError("no module named ours")
            return catalogue.codecs.find("int8")

    monkeypatch.setattr(catalogue, "REGISTRIES", catalogue.REGISTRIES | {"codec": Broken})
    broken = {entry.name: entry.broken for entry in catalogue.entries("codec")}
    assert broken["ours"] == "cannot be loaded: no module named ours" and len(broken) == 2
    with pytest.raises(NotFound, match="fedbus strategy list"):
        catalogue.find("int8")


def test_the_settings_are_the_schema_of_a_session():
    """JSON Schema with every field, its bound and what it is; it does not change, so it has one ETag."""
    first, again = asked(f"{API}/settings"), asked(f"{API}/settings")
    assert first.json == SessionConfig.model_json_schema()
    assert first.headers["ETag"] == again.headers["ETag"]
