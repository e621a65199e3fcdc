"""Moments on the command line: ``2026-05-01T12:30``, or how long ago: ``90s``, ``10m``, ``2h``, ``3d``; and spans."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime

import typer

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_AGO = re.compile(r"([0-9]{1,9})([smhd])")


def moment_of(text: str, now: Callable[[], float] = time.time) -> float:
    """Return seconds since the epoch; local time where the text names no zone. Raises typer's `BadParameter`."""
    match = _AGO.fullmatch(text.strip())
    if match:
        return now() - int(match[1]) * UNITS_S[match[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError as error:
        raise typer.BadParameter(
            f"expected 2026-05-01T12:30, or how long ago as 90s, 10m, 2h, 3d, got {text!r}"
        ) from error


def seconds_of(text: str | float) -> float:
    """Return the seconds that a span of time means: ``90s``, ``10m``, ``2h``, ``3d``; 0 is without an end."""
    match = _AGO.fullmatch(str(text).strip())
    if match:
        return float(int(match[1]) * UNITS_S[match[2]])
    if str(text).strip() in ("0", "0.0"):
        return 0.0
    raise typer.BadParameter(f"expected a span of time such as 90s, 10m, 2h or 3d, or 0, got {text!r}")
