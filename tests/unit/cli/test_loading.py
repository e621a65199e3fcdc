from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from fedbus.cli.loading import load_app, load_config, load_model, model_of, pairs, values
from fedbus.errors import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory of its own, whose modules are forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_an_app_is_found(here):
    """MODULE:APP is imported from the current directory, APP may be an attribute of an attribute."""
    (here / "sites.py").write_text("import fedbus\nclass north: app = fedbus.ClientApp()\n")
    assert type(load_app("sites:north.app")).__name__ == "ClientApp"


@pytest.mark.parametrize(
    ("target", "source", "words"),
    [
        ("sites", "", "expected MODULE:APP"),
        (":app", "", "expected MODULE:APP"),
        ("nowhere:app", "", "no module 'nowhere'"),
        ("sites.north:app", "", "no module 'sites.north'"),
        ("sites:app", "import torchlike", "imports torchlike, which is not installed"),
        ("sites:app", "1 / 0", "ZeroDivisionError"),
        ("sites:app", "import fedbus; mine = fedbus.ClientApp()", "no 'app'; it has sites:mine"),
        ("sites:app", "app = 3", "expected a fedbus.ClientApp, got int"),
    ],
)
def test_what_is_wrong_with_an_app_is_said(here, target, source, words):
    """Each way to name no app has its own sentence."""
    (here / "sites.py").write_text(source)
    with pytest.raises(ConfigError) as caught:
        load_app(target)
    assert words in str(caught.value)


def test_pairs():
    """The first = divides; what has none is refused with the option's name."""
    assert pairs("--attribute", ["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for wrong in ("a", "=b"):
        with pytest.raises(ConfigError, match="--attribute"):
            pairs("--attribute", [wrong])


def test_values_are_json_or_text():
    """Numbers, lists and truth are what JSON says; everything else is a text."""
    given = ["n=3", "x=0.5", "on=true", "l=[1, 2]", "name=adam", 'q="3"']
    assert values("--train-config", given) == {"n": 3, "x": 0.5, "on": True, "l": [1, 2], "name": "adam", "q": "3"}


def test_options_win_over_the_file(tmp_path):
    """A setting comes from the option, else from the file, else from the default; dictionaries are merged."""
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"rounds": 3, "quorum": 2, "train_config": {"a": 1, "b": 2}}))
    given = {"rounds": 5, "seed": None, "train_config": ["b=7"], "codec": "int8", "codec_option": ["block=64"]}
    config = load_config(file, {**given, "nats": "no setting"})
    assert (config.rounds, config.quorum, config.seed) == (5, 2, 0)
    assert config.train_config == {"a": 1, "b": 7}
    assert (config.codec, config.codec_options) == ("int8", {"block": 64})


def test_filters_are_texts_or_lists_of_texts():
    """A client's attributes are texts, so a filter is never a number; commas make a list of what is allowed."""
    config = load_config(None, {"client_filter": ["site=7", "region=eu,us"]})
    assert config.client_filter == {"site": "7", "region": ("eu", "us")}
    with pytest.raises(ConfigError, match="--client-filter: expected KEY=VALUE"):
        load_config(None, {"client_filter": ["site"]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rounds": -1}, "rounds: "),
        ({"round": 1}, "round: there is no such setting"),
        ({"target_metric": "soon"}, "target_metric: expected NAME>=VALUE"),
        ({"quorum": 3, "clients_per_round": 2}, "quorum (3) must not exceed"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path, settings, words):
    """The refusal names the setting and what was expected."""
    file = tmp_path / "c.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_settings_file_is_one_object(tmp_path, text):
    """What is not a JSON object is refused with the file's name."""
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.json"):
        load_config(tmp_path / "c.json", {})


def test_models(tmp_path):
    """An .npz is read; an empty one, and other kinds of files, are refused."""
    np.savez(tmp_path / "m.npz", a=np.ones(2))
    assert load_model(tmp_path / "m.npz")["a"].tolist() == [1, 1]
    np.savez(tmp_path / "e.npz")
    with pytest.raises(ConfigError, match="got none"):
        load_model(tmp_path / "e.npz")
    with pytest.raises(ConfigError, match=r"expected a \.safetensors"):
        load_model(tmp_path / "m.pt")


def test_a_word_is_a_file_or_a_version(tmp_path):
    """What could be neither a version nor a file of a model is refused with what it may be."""
    assert model_of("digits-10") == "digits-10"
    assert model_of("@production") == "@production"
    for wrong in ("model.txt", "models/digits-10", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"a \.safetensors or \.npz file, a published version, or @STAGE"):
            model_of(wrong)
