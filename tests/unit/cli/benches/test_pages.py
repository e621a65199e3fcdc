from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from fedbus.cli import tree
from fedbus.cli.benches import aggregate, clients, echo, profile, transfer
from fedbus.cli.benches.report import markdown_table

PAGE = Path(__file__).parents[4] / "docs" / "explanation" / "performance.md"
FAIR = Path(__file__).parents[4] / "docs" / "how-to" / "compare-fairly.md"
BENCHES = {"echo": echo, "aggregate": aggregate, "transfer": transfer, "clients": clients, "profile": profile}
TABLE = re.compile(r"```sh\n(fedbus bench (\w+).*)\n```\n\n((?:\|.*\n)+)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def tables():
    """The page's tables: command, benchmark, lines."""
    return [(command, name, lines.splitlines()) for command, name, lines in TABLE.findall(PAGE.read_text())]


def test_the_page_has_a_table_for_each_benchmark():
    """No benchmark is without figures on the page."""
    assert {name for _, name, _ in tables()} == set(BENCHES)


@pytest.mark.parametrize(
    ("command", "name", "lines"), tables(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_table_is_what_its_command_prints(command, name, lines):
    """The command above a table is one that exists, and prints a table with these columns; all results are right."""
    assert lines[:2] == markdown_table([], BENCHES[name].COLUMNS)
    assert len(lines) > 2
    assert {line.count(" | ") for line in lines} == {len(BENCHES[name].COLUMNS) - 1}
    assert "WRONG" not in "".join(lines)
    words = command.split()[2:]
    assert words[-1] == "--markdown"
    found = typer.main.get_command(tree.app).commands["bench"].commands[name]
    found.make_context(name, words[1:])


def test_the_echo_of_the_page_is_ours():
    """Who copies the page's code into another system runs the same work: same shifts, weights and expectation."""
    names: dict = {}
    exec(PYTHON.findall(FAIR.read_text())[0], names)
    begin = names["initial"](0.4, 5)
    assert (len(begin), sum(array.nbytes for array in begin)) == (5, 400_000)
    updates = [names["echo"](begin, index) for index in range(10)]
    assert [weight for _, weight in updates] == list(range(1, 11))
    weights = sum(weight for _, weight in updates)
    end = [sum(arrays[i] * weight for arrays, weight in updates) / weights for i in range(5)]
    assert names["off_by"](begin, end, 10, 1) < 1e-6
    assert names["moved"](10, 3) == pytest.approx(3 * echo.expectation.shift_mean(10))
    lost = [sum(arrays[i] * weight for arrays, weight in updates[1:]) / (weights - 1) for i in range(5)]
    assert names["off_by"](begin, lost, 10, 1) > 1e-3


def test_the_readings_of_the_page_are_right():
    """The page's way of reading processes reads ours."""
    import os

    names: dict = {}
    exec(PYTHON.findall(FAIR.read_text())[1], names)
    assert os.getpid() in set(names["tree"](os.getpid()))
    assert names["peak_mb"](os.getpid()) > 10
    assert names["cpu_s"](os.getpid()) > 0
