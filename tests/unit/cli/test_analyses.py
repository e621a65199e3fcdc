"""What `fedbus analyze`, `evaluate` and `strategy` read and print."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedbus.cli import tree
from fedbus.cli.analyses import lines_of, queries_of
from fedbus.cli.loading import model_of
from fedbus.errors import ConfigError
from fedbus.federation.analytics import (
    Answer,
    Categories,
    CategoriesAnswer,
    Count,
    Histogram,
    HistogramAnswer,
    Mean,
    MeanAnswer,
    Quantiles,
    QuantilesAnswer,
    Variance,
    VarianceAnswer,
)
from fedbus.federation.catalogue import REGISTRIES, allowed, options_of
from fedbus.selection.oort import OortOptions

NONE = dict.fromkeys(("count", "mean", "variance", "histogram", "quantile", "bounds", "categories"), ())


def test_options_ask_for_what_they_say():
    """Each option is one query; a column may have a colon in its name."""
    given = {
        "count": ["age"],
        "mean": ["age"],
        "variance": ["a:b"],
        "histogram": ["a:b:0,1.5"],
        "quantile": ["age:0.5,0.9", "x:0.1"],
        "bounds": ["age:0,120"],
        "categories": ["sex:f,m"],
    }
    assert queries_of(**given) == [
        Count("age"),
        Mean("age"),
        Variance("a:b"),
        Histogram("a:b", [0.0, 1.5]),
        Quantiles("age", [0.5, 0.9], bounds=(0.0, 120.0)),
        Quantiles("x", [0.1]),
        Categories("sex", ["f", "m"]),
    ]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "expected something to ask for"),
        ({"histogram": ["age"]}, "--histogram: expected COLUMN:EDGES, got 'age'"),
        ({"histogram": ["age:a,b"]}, "--histogram: expected COLUMN:EDGES with numbers"),
        ({"quantile": [":0.5"]}, "--quantile: expected COLUMN:SHARES"),
        ({"bounds": ["age:1"], "mean": ["age"]}, "--bounds: expected COLUMN:LOW,HIGH"),
        ({"bounds": ["age:0,1"], "mean": ["age"]}, "--bounds: age: they are for --quantile"),
    ],
)
def test_what_cannot_be_read_is_named(given, text):
    """The option, its form, and what came."""
    with pytest.raises(ConfigError, match=text):
        queries_of(**NONE | given)


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (Answer("x", 4, 1), ["x: 4 values, 1 missing"]),
        (MeanAnswer("x", 4, 0, 2.5), ["x: mean 2.5 (4 values)"]),
        (VarianceAnswer("x", 4, 0, 2.5, 4.0), ["x: mean 2.5, variance 4, standard deviation 2 (4 values)"]),
        (
            HistogramAnswer("x", 4, 0, (0, 1, 2), (1, 2), 1, 0),
            ["x (4 values):", "  below 0: 1", "  0 to 1: 1", "  1 to 2: 2"],
        ),
        (QuantilesAnswer("x", 4, 0, {0.5: 37.0}, {0.5: 1e-8}), ["x: quantiles 0.5: 37 (4 values)"]),
        (CategoriesAnswer("x", 4, 0, {"f": 1, "m": 2}, 1), ["x: f: 1, m: 2, others: 1 (4 values)"]),
    ],
)
def test_answers_for_people(answer, lines):
    """A line each; a histogram has a line a bin."""
    assert lines_of(answer) == lines


def test_a_model_is_a_file_or_a_version(tmp_path):
    """By its ending: versions have no dots."""
    np.savez(tmp_path / "m.npz", w=np.ones(2, np.float32))
    assert model_of(str(tmp_path / "m.npz"))["w"].tolist() == [1, 1]
    assert model_of("s-10") == "s-10"


# --- strategies ---


def test_all_that_can_be_chosen_is_listed(capsys):
    """Every name of every registry, with its options."""
    assert tree.run(["strategy", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["kind"], row["name"]) for row in rows} == {
        (kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()
    }
    (oort,) = [row for row in rows if row["name"] == "oort"]
    assert oort["options"].startswith("asked_max, metric, alpha")


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
)
def test_each_is_shown_with_its_options(capsys, kind, name):
    """Each option with what it is; a selection, strategy or codec without words about an option is not finished."""
    assert tree.run(["strategy", "show", name, "--json"]) == 0
    (shown,) = [one for one in json.loads(capsys.readouterr().out) if one["kind"] == kind]
    assert all(option["about"] for option in shown["options"])
    assert tree.run(["strategy", "show", name]) == 0
    out = capsys.readouterr().out
    assert f"{kind:10s} {name}\n" in out and all(option["name"] in out for option in shown["options"])


def test_a_chain_is_shown_member_by_member(capsys):
    """As the names of options say whose they are."""
    assert tree.run(["strategy", "show", "norm_clipping+fedadam"]) == 0
    out = capsys.readouterr().out
    assert "norm_clipping.clip_norm" in out and "fedadam.tau" in out


def test_an_unknown_name_is_a_usage_error(capsys):
    """Exit code 2, and where to look."""
    assert tree.run(["strategy", "show", "fedmagic"]) == 2
    assert "fedbus strategy list" in capsys.readouterr().err


def test_an_option_says_its_default_and_range():
    """From its declaration, so it cannot differ from what is checked."""
    (alpha,) = [option for option in options_of(OortOptions) if option.name == "alpha"]
    assert (alpha.default, alpha.allowed) == (2.0, "number, >= 0, <= 100")
    assert allowed({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}) == "integer, >= 1 or none"
    assert allowed({"enum": ["a", "b"]}) == "a, b"
