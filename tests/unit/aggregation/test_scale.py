"""Scale: the bits are those of the formula, nothing overflows, and the wire is not trusted."""

from __future__ import annotations

import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.aggregation import Scale, scale_for
from fedbus.aggregation.scale import ceil_log2, checked_weight
from fedbus.errors import BadMessage, BadUpdate, ConfigError
from fedbus.tensors import ModelSpec


def spec_of(*dtypes: str) -> ModelSpec:
    """One small array per dtype."""
    return ModelSpec.of({f"{i}": np.ones(2, dtype) for i, dtype in enumerate(dtypes)})


@pytest.mark.parametrize(
    ("dtype", "absmax", "range_bits"),
    [
        ("<f4", 0.0, 6),  # the floor of 64
        ("<f4", 1.0, 6),  # 64 * 1 is 64
        ("<f4", 1.0001, 7),
        ("<f4", 1000.0, 16),  # 64,000 < 65,536
        ("<c8", 1000.0, 16),
        ("<f4", 3.4e38, 128),  # no float32 is larger
        ("<f2", 2000.0, 16),
        ("<f8", 1e308, 1024),  # 64 * 1e308 overflows, and is capped all the same
        ("|b1", 1.0, 0),
        ("|i1", 1.0, 7),
        ("|u1", 1.0, 8),
        ("<i2", 1.0, 15),
        ("<i4", 0.0, 31),
        ("<i8", 0.0, 31),  # a counter that starts at 0
        ("<i8", 2.0**30, 36),
        ("<i8", 2.0**60, 52),
        ("<u8", 2.0**60, 52),
    ],
)
def test_the_range_follows_the_model_and_the_dtype(dtype: str, absmax: float, range_bits: int) -> None:
    """Worked out by hand; k fills what is left of 51 bits."""
    scale = scale_for(spec_of(dtype), [absmax], weight_max=1000.0)
    assert scale.range_bits(0) == range_bits
    assert scale.bits == (51 - 10 - range_bits,)


def test_limits_of_weights() -> None:
    """1,000 rounds up to 2**10: sums may reach 2,048 times that; a weight 2**30 times smaller is the last."""
    scale = scale_for(spec_of("<f4"), [0.0], weight_max=1000.0)
    assert (scale.weight_min, scale.weight_max, scale.weight_sum_max) == (1000 * 2.0**-30, 1000.0, 2.0**21)
    assert scale.check_weight(1000) == 1000.0
    for weight in (1000.1, 2.0**-21):
        with pytest.raises(BadUpdate, match=r"weight: expected .* to 1000\.0, got"):
            scale.check_weight(weight)
    for total in (2.0**21 * 1.001, 0.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="sum of weights"):
            scale.check_weight_sum(total)


@pytest.mark.parametrize("weight", [0, -1.0, math.nan, math.inf, -math.inf, "1", None, 1j])
def test_what_is_no_weight(weight: object) -> None:
    """Only finite numbers above zero."""
    with pytest.raises(BadUpdate, match="weight: expected a finite number > 0"):
        checked_weight(weight)


@pytest.mark.parametrize("weight", [1, 2.5, np.float32(2.5), np.int64(3), 5e-324])
def test_what_is_a_weight(weight: float) -> None:
    """Numbers of Python and of numpy."""
    assert checked_weight(weight) == float(weight)


@given(st.floats(min_value=5e-324, allow_infinity=False))
def test_ceil_log2_is_exact(value: float) -> None:
    """The power of two is not below the value, and half of it is."""
    power = ceil_log2(value)
    assert math.ldexp(value, -power) <= 1.0 or power == 1024
    assert math.ldexp(value, 1 - power) > 1.0


@pytest.mark.parametrize(
    "bad", [{"weight_max": 0.0}, {"weight_max": math.nan}, {"weight_max": 2.0**65}, {"value_floor": 0.0},
            {"value_floor": math.inf}, {"headroom": 0.5}, {"headroom": math.nan}]
)  # fmt: skip
def test_settings_have_limits(bad: dict[str, float]) -> None:
    """A refusal names the setting."""
    with pytest.raises(ConfigError, match=next(iter(bad))):
        scale_for(spec_of("<f4"), [0.0], **{"weight_max": 1.0, **bad})


def test_it_survives_the_wire_and_the_wire_is_not_trusted() -> None:
    """There and back through msgpack; wrong types, counts and ranges are refused."""
    spec = spec_of("<f4", "<f8")
    scale = scale_for(spec, [1.0, 1e300], 2.0**20)
    assert Scale.from_wire(msgpack.unpackb(msgpack.packb(scale.to_wire())), spec) == scale
    good = scale.to_wire()
    changes = (
        {"weight_max": 0.0},
        {"weight_max": 1},
        {"bits": [25]},
        {"bits": [25, 2.0]},
        {"bits": [25, True]},
        {"bits": [25, 96]},
        {"bits": [25, -994]},
    )
    bad = ([], {}, {"bits": [1, 2]}, *(good | change for change in changes))
    for wire in bad:
        with pytest.raises(BadMessage, match="scale: expected"):
            Scale.from_wire(wire, spec)
    assert Scale.from_wire(good | {"bits": [95, -993]}, spec).bits == (95, -993)
