"""Metrics of many clients as one number each: weighted, exact, the same in any order."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import fsum, inf, isfinite

from fedbus.messages.ids import METRICS_MAX


def weighted_mean(measured: Mapping[str, tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Return each metric's mean, weighted, over those that reported a finite value.

    Summed exactly, so that order does not matter. Of more than `METRICS_MAX` names those that most have reported stay.
    """
    terms: dict[str, list[tuple[float, float]]] = {}
    for client in sorted(measured):
        weight, metrics = measured[client]
        for name, value in metrics.items():
            if isfinite(value):
                terms.setdefault(name, []).append((weight, value))
    kept = sorted(terms, key=lambda name: (-len(terms[name]), name))[:METRICS_MAX]
    return {name: _mean(terms[name]) for name in sorted(kept)}


def _mean(pairs: list[tuple[float, float]]) -> float:
    """Return a weighted mean of finite values with finite weights above 0: finite, as it lies between them."""
    try:
        mean = fsum(w * v for w, v in pairs) / fsum(w for w, _ in pairs)
    except (OverflowError, ValueError):
        mean = inf
    if isfinite(mean):
        return mean
    # Only products or sums beyond the range of a float come here: whole numbers have no such end.
    exact = sum((Fraction(w) * Fraction(v) for w, v in pairs), Fraction(0)) / sum(Fraction(w) for w, _ in pairs)
    return float(exact)
