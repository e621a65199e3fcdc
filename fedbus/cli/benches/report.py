"""How figures are shown: a table for people, a table for a page in Markdown, one object for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fedbus.cli.output import print_json, print_table

Figures = Mapping[str, Any]


class Column(NamedTuple):
    """One figure: what it is called, and its text."""

    title: str
    text: Callable[[Figures], str]


def present(
    runs: Sequence[Figures], columns: Sequence[Column], *, markdown: bool, json: bool, by_line: bool = False
) -> None:
    """Print what was asked for; with ``json`` the last line is the object of the run, or ``{"runs": [...]}``.

    For people a line is a figure, or with ``by_line`` a run.
    """
    if markdown:
        print("\n".join(markdown_table(runs, columns)))
    if json:
        print_json(runs[0] if len(runs) == 1 else {"runs": runs})
    elif by_line and not markdown:
        print_table(
            [column.title for column in columns], [[column.text(run) for column in columns] for run in runs], empty=""
        )
    elif not markdown:
        print("\n".join(people_table(runs, columns)))


def markdown_table(runs: Sequence[Figures], columns: Sequence[Column]) -> list[str]:
    """Return a table with a line for each run."""
    lines = [[column.title for column in columns], ["---", *("---:" for _ in columns[1:])]]
    lines += [[column.text(run) for column in columns] for run in runs]
    return [f"| {' | '.join(line)} |" for line in lines]


def people_table(runs: Sequence[Figures], columns: Sequence[Column]) -> list[str]:
    """Return a table with a line for each figure, which fits a terminal however many figures there are."""
    lines = [[column.title, *(column.text(run) for run in runs)] for column in columns]
    widths = [max(len(line[place]) for line in lines) for place in range(len(runs) + 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def number(value: float) -> str:
    """Return a number with three digits that count: ``0.0123``, ``1.23``, ``123``, ``12,345``."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Return seconds with three digits that count."""
    return f"{number(value)} s"


def roles_text(values: Mapping[str, float]) -> str:
    """Return figures by role in one cell: ``broker 1.23, combiner 0.456``."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())
