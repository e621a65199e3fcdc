"""Hypothesis strategies shared by the tests of tensors and aggregation."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedbus.tensors import DTYPES

Model = dict[str, np.ndarray[Any, Any]]


@st.composite
def models(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(DTYPES), arrays_max: int = 6) -> Model:
    """Small models of any dtypes, with zero-size, zero-dimensional, transposed and big-endian arrays among them."""
    model = {}
    for index in range(draw(st.integers(0, arrays_max))):
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
        dtype = np.dtype(draw(st.sampled_from(dtypes)))
        seed = draw(st.integers(0, 2**32 - 1))
        raw = np.random.default_rng(seed).integers(-60, 60, shape)
        value = np.asarray(raw / 7 if dtype.kind in "fc" else np.abs(raw)).astype(dtype)
        if draw(st.booleans()):
            value = value.astype(dtype.newbyteorder(">"))
        if draw(st.booleans()):
            value = np.asarray(value.T.copy().T)
        model[f"a{index}"] = value
    return model
