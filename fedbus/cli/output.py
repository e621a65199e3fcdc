"""What commands print: JSON for programs, tables on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel

from fedbus.messages.ids import sayable

KILO = 1000.0


def print_json(value: object) -> None:
    """Print one value as one line of JSON; not-a-number and infinities become null."""
    sys.stdout.write(orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def _plain(value: object) -> Any:  # noqa: ANN401 - what JSON can say
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not JSON: {type(value).__name__}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows below their columns; ``empty`` where there are none."""
    texts = [[line_of(cell) for cell in row] for row in rows]
    if not texts:
        print(empty, file=sys.stderr)
    elif sys.stdout.isatty():
        _print_rich(columns, texts)
    else:
        for line in plain_table(columns, texts):
            print(line)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines, the columns' names first."""
    lines = [list(columns), *([line_of(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a name in [brackets] is a name, not a style
    Console().print(table)


def line_of(value: object) -> str:
    """Return something as a piece of one line: nothing in it moves the cursor, colours, or begins another line."""
    return str(sayable(str(value)))


def size(nbytes: float) -> str:
    """Return a size in decimal units: ``12.3 MB``."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < KILO:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= KILO
    return f"{value:.3g} TB"


def duration(seconds: float) -> str:
    """Return a time span as people say it: ``0.31 s``, ``14 s``, ``3 min``, ``2.5 h``."""
    seconds = max(0.0, seconds)
    for bound, unit_s, text in ((10, 1, "{:.2f} s"), (120, 1, "{:.0f} s"), (7200, 60, "{:.0f} min")):
        if seconds < bound:
            return text.format(seconds / unit_s)
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} days"


def ago(at: float, now: Callable[[], float] = time.time) -> str:
    """Return how long ago a moment was."""
    return f"{duration(now() - at)} ago" if at else "-"


def moment(at: float) -> str:
    """Return local date and time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return metrics in one line: ``accuracy 0.941  loss 0.21``."""
    return "  ".join(f"{line_of(name)} {value:.4g}" for name, value in sorted(metrics.items()))


def names_text(names: Sequence[str], names_max: int = 5) -> str:
    """Return a few names, and how many more there are."""
    shown = ", ".join(names[:names_max])
    return f"{shown} and {len(names) - names_max} more" if len(names) > names_max else shown
