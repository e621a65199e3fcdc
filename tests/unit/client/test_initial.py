"""The function of an app that makes a model's first version."""

from __future__ import annotations

import numpy as np
import pytest

import fedbus
from fedbus.errors import ConfigError


def test_it_makes_the_first_model_from_the_seed():
    """Names and arrays come out as the function gave them, in its order; the decorator gives the function back."""
    app = fedbus.ClientApp()

    @app.initial
    def initial(seed):
        return {"w": np.full(3, seed, np.float32), "b": [1.0, 2.0]}

    assert initial(4)["b"] == [1.0, 2.0]
    model = app.first_model(7)
    assert list(model) == ["w", "b"]
    assert model["w"].dtype == np.float32 and model["w"].tolist() == [7, 7, 7]
    assert model["b"].tolist() == [1.0, 2.0]


def test_without_one_there_is_no_first_model():
    """None tells that the app has none; an app with nothing else is no client's app either."""
    app = fedbus.ClientApp()
    assert app.first_model(0) is None
    app.initial(lambda seed: {"w": np.zeros(1)})
    assert not app.functions


@pytest.mark.parametrize(("given", "said"), [({}, "an empty mapping"), (np.zeros(3), "ndarray"), (None, "NoneType")])
def test_what_is_no_model_is_named(given, said):
    """The reason says what came, and what was expected."""
    app = fedbus.ClientApp()
    app.initial(lambda seed: given)
    with pytest.raises(ConfigError, match=f"returned {said}; expected names and arrays"):
        app.first_model(0)


def test_one_plain_function_and_no_more():
    """A second one, an async one and something that cannot be called are refused when they are registered."""
    app = fedbus.ClientApp()

    async def later(seed):
        return {}

    with pytest.raises(ConfigError, match="async"):
        app.initial(later)
    with pytest.raises(ConfigError, match="a function of a seed, got int"):
        app.initial(3)
    app.initial(lambda seed: {"w": np.zeros(1)})
    with pytest.raises(ConfigError, match="already"):
        app.initial(lambda seed: {"w": np.zeros(1)})
