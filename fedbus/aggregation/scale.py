"""The fixed point of a round: how many bits behind the point each array has, and what fits.

A contribution is the integer ``rint(weight * x * 2**k)``. ``k`` is fixed per array before the round, from the values of
the model that is sent out, so that every party computes with the same one and none depends on what others send:

    R = smallest power of two >= max(value_floor, headroom * absmax), never more than the dtype can hold
    k = 51 - ceil(log2(weight_max)) - log2(R)

Then ``|weight * x * 2**k| <= 2**51`` for all ``|x| <= R`` and ``weight <= weight_max``, which the addition of
``1.5 * 2**52`` (see `fedbus.aggregation.ring`) rounds correctly, and 2,048 updates of the largest weight sum to at most
2**62. Larger values or weights are refused. ``k`` may be negative: such an array is resolved in steps above 1.

Error of a weighted mean of n updates whose weights sum to W, per part, before the cast to the array's dtype:

    |mean - exact| <= 0.625 * n * 2**-k / W + 2**-51 * |mean|

0.5 for the rounding to an integer, 0.125 for the product, which is rounded to 53 bits first (so 0.5 is enough where it
is exact: float32 values and smaller with integer weights below 2**29); the second term is the division.

Integers are mostly counters (``num_batches_tracked``) that start at 0 and outgrow any multiple of that in one round, so
their floor is 2**31; beyond 2**52 they are refused, because float64 could not tell neighbours apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from fedbus.errors import BadMessage, BadUpdate, ConfigError
from fedbus.tensors import ArraySpec, ModelSpec

PRODUCT_BITS = 51
"""Largest magnitude of one contribution, as a power of two: what 1.5 * 2**52 can take and still count in ones."""

SUM_BITS = 62
"""Largest magnitude of a sum: one bit of int64 is the sign, one stays free for what rounding adds."""

VALUE_FLOOR = 64.0
"""Default of the smallest range: network weights lie within a few units, and 2**-25 of a float32 at 1.0 stays resolved
with weights of a thousandth of ``weight_max``."""

HEADROOM = 64.0
"""Default of how far an array may grow in a round, as a multiple of its largest magnitude: diverged beyond doubt."""

WEIGHT_BITS_MAX = 64
"""``weight_max`` lies between 2**-64 and 2**64: keeps every product of weight and scale within float64."""

WEIGHT_SPREAD_BITS = 30
"""The smallest weight is this many bits below the largest: a mean of such updates alone still resolves R * 2**-20."""

_INTEGER_FLOOR_BITS = 31
_INTEGER_CAP_BITS = 52
_RANGE_BITS_MIN, _RANGE_BITS_MAX = -64, 1024
_EXPONENTS_MAX = {2: 16, 4: 128, 8: 1024}  # of floats, by their bytes


@dataclass(frozen=True)
class Scale:
    """Per array of a model the bits ``k`` behind the point, and the largest weight that an update may have."""

    bits: tuple[int, ...]
    weight_max: float

    @cached_property
    def weight_bits(self) -> int:
        """``ceil(log2(weight_max))``."""
        return ceil_log2(self.weight_max)

    @property
    def weight_min(self) -> float:
        """The smallest weight worth sending, and the smallest sum that may be divided by: ``weight_max * 2**-30``."""
        return math.ldexp(self.weight_max, -WEIGHT_SPREAD_BITS)

    @property
    def weight_sum_max(self) -> float:
        """The largest sum of weights of a round: 2,048 times ``weight_max`` rounded up to a power of two."""
        return math.ldexp(1.0, self.weight_bits + SUM_BITS - PRODUCT_BITS)

    def range_bits(self, index: int) -> int:
        """``log2(R)``: parts of array ``index`` may have magnitudes up to ``2**range_bits``."""
        return PRODUCT_BITS - self.weight_bits - self.bits[index]

    def check_weight(self, weight: object) -> float:
        """Return the weight of an update as a float; BadUpdate unless it lies in ``weight_min..weight_max``."""
        value = checked_weight(weight)
        if not self.weight_min <= value <= self.weight_max:
            raise BadUpdate(f"weight: expected {self.weight_min} to {self.weight_max}, got {value}")
        return value

    def check_weight_sum(self, weight_sum: float) -> None:
        """Raise ConfigError unless sums of this weight cannot overflow and are resolved (NaN is neither)."""
        if not self.weight_min <= weight_sum <= self.weight_sum_max:
            raise ConfigError(f"sum of weights: expected {self.weight_min} to {self.weight_sum_max}, got {weight_sum}")

    def error_max(self, index: int, updates: int, weight_sum: float) -> float:
        """Bound of the absolute error of a mean over ``updates`` for array ``index``, but for 2**-51 of the mean."""
        return math.ldexp(0.625 * updates / weight_sum, -self.bits[index])

    def to_wire(self) -> dict[str, Any]:
        """Plain msgpack-able values."""
        return {"bits": list(self.bits), "weight_max": self.weight_max}

    @staticmethod
    def from_wire(obj: object, spec: ModelSpec) -> Scale:
        """Read what `to_wire` made for a model of ``spec``; BadMessage says what was expected and what came."""
        if not isinstance(obj, dict) or not obj.keys() >= {"bits", "weight_max"}:
            raise BadMessage(f"scale: expected a map with bits and weight_max, got {obj!r:.80}")
        bits, weight_max = obj["bits"], obj["weight_max"]
        if type(weight_max) is not float or not _is_weight_max(weight_max):
            raise BadMessage(f"scale: expected a weight_max of 2**-64 to 2**64, got {weight_max!r:.80}")
        if not isinstance(bits, list | tuple) or len(bits) != len(spec.arrays):
            raise BadMessage(f"scale: expected bits of {len(spec.arrays)} arrays, got {bits!r:.80}")
        one = PRODUCT_BITS - ceil_log2(weight_max)
        for value in bits:
            if type(value) is not int or not _RANGE_BITS_MIN <= one - value <= _RANGE_BITS_MAX:
                raise BadMessage(
                    f"scale: expected bits of {one - _RANGE_BITS_MAX} to {one - _RANGE_BITS_MIN}, got {value!r:.80}"
                )
        return Scale(tuple(bits), weight_max)


def scale_for(
    spec: ModelSpec,
    absmax: Sequence[float],
    weight_max: float,
    value_floor: float = VALUE_FLOOR,
    headroom: float = HEADROOM,
) -> Scale:
    """Fix the scale of a round.

    ``absmax``: per array the largest finite magnitude in the model that is sent out (`Manifest.absmax`).
    ``weight_max``: largest weight of an update. ``value_floor``: smallest range of an array of floats, in the array's
    unit; ``headroom``: how many times its largest magnitude an array may reach. ConfigError where one of these is out
    of its range.
    """
    if not _is_weight_max(weight_max):
        raise ConfigError(f"weight_max: expected 2**-64 to 2**64, got {weight_max}")
    if not 2.0**_RANGE_BITS_MIN <= value_floor < math.inf:
        raise ConfigError(f"value_floor: expected a number >= 2**-64, got {value_floor}")
    if not 1.0 <= headroom < math.inf:
        raise ConfigError(f"headroom: expected a number >= 1, got {headroom}")
    one = PRODUCT_BITS - ceil_log2(weight_max)
    pairs = zip(spec.arrays, absmax, strict=True)
    return Scale(tuple(one - _range_bits(a, value_floor, headroom * top) for a, top in pairs), float(weight_max))


def checked_weight(weight: object) -> float:
    """Return the weight as a float; BadUpdate unless it is a finite number > 0."""
    if isinstance(weight, Real) and 0.0 < (value := float(weight)) < math.inf:
        return value
    raise BadUpdate(f"weight: expected a finite number > 0, got {weight!r:.80}")


def cap_bits(dtype: np.dtype[Any]) -> int:
    """Smallest ``b`` such that the parts of an array of this dtype that are taken lie within ``2**b``."""
    if dtype.kind == "f":
        return _EXPONENTS_MAX[dtype.itemsize]
    if dtype.kind == "b":
        return 0
    return min(8 * dtype.itemsize - (dtype.kind == "i"), _INTEGER_CAP_BITS)


def _range_bits(array: ArraySpec, value_floor: float, top: float) -> int:
    floor = ceil_log2(value_floor) if array.real.kind == "f" else _INTEGER_FLOOR_BITS
    cap = cap_bits(array.real)
    return cap if top == math.inf else min(cap, max(floor, ceil_log2(top) if top else floor))


def _is_weight_max(value: float) -> bool:
    return 2.0**-WEIGHT_BITS_MAX <= value <= 2.0**WEIGHT_BITS_MAX


def ceil_log2(value: float) -> int:
    """The exponent of the smallest power of two that is >= ``value`` > 0, exactly, which `math.log2` is not."""
    mantissa, exponent = math.frexp(value)  # value == mantissa * 2**exponent, 0.5 <= mantissa < 1
    return exponent - 1 if mantissa == 0.5 else exponent
