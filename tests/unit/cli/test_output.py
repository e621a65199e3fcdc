from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from fedbus.cli.output import ago, duration, metrics_text, names_text, plain_table, print_json, print_table, size
from fedbus.config.session import SessionConfig


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (4e9, "4 GB"), (5e12, "5 TB")],
)
def test_sizes(nbytes, text):
    """Sizes are decimal, three digits long."""
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.00 s"), (0.314, "0.31 s"), (14.2, "14 s"), (180, "3 min"), (9000, "2.5 h"), (3 * 86400, "3 days")],
)
def test_durations(seconds, text):
    """Time spans have the unit that people would use."""
    assert duration(seconds) == text


def test_moments_that_have_not_been():
    """A moment of 0 never was."""
    assert ago(0) == "-"
    assert ago(10, lambda: 24.0) == "14 s ago"


def test_plain_columns_are_aligned():
    """Every column is as wide as its widest cell, and no line ends with spaces."""
    assert plain_table(("a", "b"), [("long", "x"), ("y", "")]) == ["a     b", "long  x", "y"]


def test_no_rows_are_a_sentence_on_stderr(capsys):
    """Whoever pipes a listing gets nothing; the hint goes to the person."""
    print_table(("a",), [], empty="none yet")
    assert capsys.readouterr() == ("", "none yet\n")


def test_json_of_everything_we_print(capsys):
    """Models, read-only mappings and not-a-number become JSON that others can read."""
    print_json({"config": SessionConfig(rounds=2), "metrics": MappingProxyType({"loss": float("nan")})})
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["rounds"] == 2
    assert told["metrics"] == {"loss": None}


def test_short_texts():
    """Metrics in the order of their names; of many names a few."""
    assert metrics_text({"loss": 0.12345, "accuracy": 1.0}) == "accuracy 1  loss 0.1235"
    assert names_text(list("abcdefg"), 3) == "a, b, c and 4 more"
