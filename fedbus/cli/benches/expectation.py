"""What a federation of echoes must come to, to the last rounding.

Client ``i`` adds ``0.01 * i`` to every number and has the weight ``1 + i``. So a round moves every number by the
weighted mean of these shifts, whatever the model: an update that is lost or counted twice is seen at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedbus.aggregation import scale_for
from fedbus.tensors import ModelSpec

Arrays = Mapping[str, np.ndarray[Any, Any]]

SHIFT = 0.01
EPSILON = 2.0**-24
"""Half a unit in the last place of a float32, relative to its value: what one rounding may add."""


def initial(model_mb: float, arrays: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return a float32 model of ``model_mb`` million bytes in so many arrays of about one size."""
    numbers = max(arrays, round(model_mb * 1e6 / 4))
    values = np.random.default_rng(0).standard_normal(numbers, dtype=np.float32) * np.float32(0.05)
    return {f"array-{index:04d}": part for index, part in enumerate(np.array_split(values, arrays))}


def shift_mean(clients: int, first: int = 0) -> float:
    """Return by how much a round of clients ``first`` and following moves every number, in float64."""
    numbers = np.arange(first, first + clients, dtype=np.float64)
    return float(np.dot(1 + numbers, SHIFT * numbers) / (1 + numbers).sum())


def value_max(model: Arrays, clients: int, rounds: int, first: int = 0) -> float:
    """Return a bound on every number of every update in ``rounds`` rounds."""
    largest = max((float(np.abs(array).max(initial=0.0)) for array in model.values()), default=0.0)
    return largest + rounds * shift_mean(clients, first) + SHIFT * (first + clients)


def error_bound(model: Arrays, clients: int, rounds: int, weight_max: float, first: int = 0) -> float:
    """Return how far a number may be from the float64 expectation after ``rounds`` rounds.

    A round rounds three times to float32 (the shift, a client's sum, the new model), each by at most 2^-24 of the
    value, and adds what `docs/explanation/exactness.md` allows the ring: 0.625 * n * 2^-k / W + 2^-51 of the value.
    """
    top = value_max(model, clients, rounds, first)
    spec = ModelSpec.of(model)
    bits = min(scale_for(spec, [top] * len(spec.arrays), weight_max).bits)
    ring = 0.625 * clients * 2.0**-bits / (clients * (clients + 1) / 2) + 2.0**-51 * top
    return rounds * (3 * EPSILON * top + ring)


def error_max(begin: Arrays, end: Arrays, clients: int, rounds: int, first: int = 0) -> float:
    """Return the largest distance of any number from its expectation; infinite where the models do not match."""
    if list(begin) != list(end) or any(begin[name].shape != end[name].shape for name in begin):
        return float("inf")
    moved = rounds * shift_mean(clients, first)
    errors = [np.abs(end[n] - (array.astype(np.float64) + moved)).max(initial=0.0) for n, array in begin.items()]
    return float(max(errors, default=0.0))
