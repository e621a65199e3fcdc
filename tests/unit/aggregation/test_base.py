"""Aggregator descriptions: options are checked and explained, by the name that the user gave."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import Field

from fedbus.aggregation import Aggregator, Family, Options, State, find
from fedbus.errors import ConfigError


class Momentum(Options):
    """Options of a stand-in."""

    momentum: float = Field(0.9, ge=0, lt=1)


STAND_IN = Aggregator(
    "stand-in", Family.LINEAR, Momentum, lambda mean, _base, state, _options, _round: (mean, state), ("v",), ("t",)
)


def test_options_are_parsed() -> None:
    """Values and defaults."""
    assert STAND_IN.parse({}).momentum == 0.9
    assert STAND_IN.parse({"momentum": 0}).momentum == 0.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"momentum": 1.0}, "stand-in: option 'momentum': Input should be less than 1, got 1.0"),
        ({"momentum": "x"}, "stand-in: option 'momentum': .* number"),
        ({"beta": 1}, r"stand-in: unknown option 'beta' \(known: momentum\)"),
    ],
)
def test_wrong_options_are_explained(options: dict, text: str) -> None:
    """Name, allowed range, and what came."""
    with pytest.raises(ConfigError, match=text):
        STAND_IN.parse(options)


def test_fedavg_has_no_options() -> None:
    """It says so."""
    with pytest.raises(ConfigError, match=r"fedavg: unknown option 'server_lr' \(known: none\)"):
        find("fedavg").parse({"server_lr": 1.0})


def test_a_first_state_is_zeros() -> None:
    """One vector per state name, over the parts; one number per scalar name."""
    state = State.start(STAND_IN, 3)
    assert state.round == 0 and state.scalars == {"t": 0.0} and np.array_equal(state.arrays["v"], np.zeros(3))
