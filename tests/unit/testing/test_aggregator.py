"""The contract checker of aggregators accepts what keeps the contract and names what breaks it."""

from __future__ import annotations

import numpy as np
import pytest

from fedbus.aggregation import Aggregator, Family, NoOptions, find
from fedbus.testing.aggregator import check_aggregator

KEPT = []


def made(step, **fields):
    """An aggregator around a step."""
    return Aggregator(name="mine", family=Family.LINEAR, options=NoOptions, step=step, **fields)


def momentum(mean, base, state, options, round_):
    """Server momentum: a step that keeps the contract, with a vector and a scalar of state."""
    velocity = 0.9 * state["velocity"] + (mean - base)
    return base + velocity, {"velocity": velocity, "steps": state["steps"] + 1}


def writes(mean, base, state, options, round_):
    """Write into an argument."""
    mean += 1
    return mean, {}


def centres(mean, base, state, options, round_):
    """Look at the neighbours."""
    return mean - mean.mean(), {}


def remembers(mean, base, state, options, round_):
    """Keep something outside of the state."""
    KEPT.append(1)
    return mean + len(KEPT), {}


def forgets(mean, base, state, options, round_):
    """Return no state."""
    return mean, {}


def peeks(mean, base, state, options, round_):
    """Read base without saying so."""
    return mean + base, {}


def test_ours_and_a_momentum_keep_the_contract():
    """fedavg, and a step with state that is written as it should be, pass."""
    check_aggregator(find("fedavg"))
    check_aggregator(made(momentum, state_names=("velocity",), scalar_names=("steps",)))


@pytest.mark.parametrize(
    ("aggregator", "complaint"),
    [
        (made(writes), "read-only"),
        (made(centres), "a cut after"),
        (made(remembers), "two runs on the same arguments differ"),
        (made(forgets, state_names=("velocity",)), "expected a state"),
        (made(peeks, reads_base=False), "reads_base is False"),
        (made(lambda mean, *_: (mean.astype(np.float32), {})), "float64"),
        (made(lambda mean, *_: (mean / 0.0, {})), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_each_breach_is_named(aggregator, complaint):
    """A step that writes, looks around, remembers, forgets, peeks, narrows or explodes is refused with that word."""
    with pytest.raises(AssertionError, match=complaint):
        check_aggregator(aggregator)
