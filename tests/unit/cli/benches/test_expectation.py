from __future__ import annotations

import numpy as np
import pytest

from fedbus.aggregation import aggregate
from fedbus.cli.benches.expectation import SHIFT, error_bound, error_max, initial, shift_mean


def run(model, clients, rounds):
    """Compute what a federation of echo clients comes to, with the real aggregation."""
    for _ in range(rounds):
        updates = [
            ({name: array + np.float32(SHIFT * index) for name, array in model.items()}, 1 + index) for index in clients
        ]
        model, _ = aggregate("fedavg", model, updates)
    return model


@pytest.mark.parametrize(("clients", "rounds"), [(1, 1), (3, 2), (10, 5), (40, 3)])
def test_a_right_result_is_within_the_bound(clients, rounds):
    """What honest clients come to is never beyond the bound."""
    begin = initial(0.02, 3)
    end = run(begin, range(clients), rounds)
    assert error_max(begin, end, clients, rounds) <= error_bound(begin, clients, rounds, 2.0**20)


@pytest.mark.parametrize("lost", [0, 9, 19])
def test_one_lost_update_is_far_beyond_the_bound(lost):
    """A single update that is missing in a single round is seen, also the one with the smallest weight."""
    begin = initial(0.02, 3)
    end = run(run(begin, [i for i in range(20) if i != lost], 1), range(20), 4)
    assert error_max(begin, end, 20, 5) > 10 * error_bound(begin, 20, 5, 2.0**20)


def test_the_shift_by_hand():
    """Weights 1, 2, 3 and shifts 0, 0.01, 0.02: (0.02 + 0.06) / 6."""
    assert shift_mean(3) == pytest.approx(0.08 / 6)


def test_a_series_may_begin_later():
    """Clients 1 and 2: weights 2 and 3, shifts 0.01 and 0.02; one alone moves the model by its own shift."""
    assert shift_mean(2, first=1) == pytest.approx((2 * 0.01 + 3 * 0.02) / 5)
    assert shift_mean(1, first=1) == pytest.approx(SHIFT)
    begin = initial(0.02, 3)
    end = run(begin, [3, 4, 5], 2)
    assert error_max(begin, end, 3, 2, first=3) <= error_bound(begin, 3, 2, 2.0**20, first=3)
    assert error_max(begin, end, 3, 2) > 10 * error_bound(begin, 3, 2, 2.0**20)


def test_another_shape_is_no_match():
    """Models of another form are infinitely wrong."""
    begin = initial(0.001, 2)
    assert error_max(begin, {}, 1, 1) == float("inf")
    assert error_max(begin, {name: array[:-1] for name, array in begin.items()}, 1, 1) == float("inf")


def test_the_model_has_the_size_and_the_arrays_that_were_asked_for():
    """45 MB in 62 arrays are 45 MB in 62 arrays."""
    model = initial(4.5, 62)
    assert len(model) == 62
    assert sum(array.nbytes for array in model.values()) == 4_500_000
