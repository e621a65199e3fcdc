from __future__ import annotations

import json

import pytest

from fedbus.cli.benches.report import Column, number, present, roles_text

COLUMNS = (Column("what", lambda run: run["name"]), Column("rate", lambda run: number(run["rate"])))
ONE = [{"name": "a", "rate": 12.345}]
TWO = [*ONE, {"name": "bee", "rate": 12345.6}]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.012345, "0.0123"), (1.234, "1.23"), (99.94, "99.9"), (123.4, "123"), (1e5, "100,000")],
)
def test_numbers_have_three_digits_that_count(value, text):
    """No figure claims more digits than a measurement has."""
    assert number(value) == text


def test_markdown_has_a_line_for_each_run(capsys):
    """A head, a rule and a line a run, which every renderer of Markdown takes for a table."""
    present(TWO, COLUMNS, markdown=True, json=False)
    assert capsys.readouterr().out.splitlines() == [
        "| what | rate |",
        "| --- | ---: |",
        "| a | 12.3 |",
        "| bee | 12,346 |",
    ]


def test_people_see_a_line_for_each_figure(capsys):
    """Figures stand below each other, runs beside each other."""
    present(TWO, COLUMNS, markdown=False, json=False)
    assert capsys.readouterr().out.splitlines() == ["what  a     bee", "rate  12.3  12,346"]


@pytest.mark.parametrize(("runs", "expected"), [(ONE, ONE[0]), (TWO, {"runs": TWO})])
@pytest.mark.parametrize("markdown", [True, False])
def test_the_last_line_is_one_object(capsys, runs, expected, markdown):
    """With --json the last line is one object, whether there was one run or several, with a table above it or not."""
    present(runs, COLUMNS, markdown=markdown, json=True)
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == expected
    assert len(lines) == (1 + 2 + len(runs) if markdown else 1)


def test_figures_by_role():
    """One cell holds a figure for each role."""
    assert roles_text({"broker": 1.0, "combiner": 0.25}) == "broker 1, combiner 0.25"
