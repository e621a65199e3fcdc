from __future__ import annotations

import numpy as np
import pytest

from fedbus.aggregation import Accumulator
from fedbus.cli.benches.aggregate import CEILINGS, COLUMNS, DTYPES, Bench, Case, run
from fedbus.cli.benches.report import markdown_table
from fedbus.errors import ConfigError


@pytest.mark.parametrize("dtype", DTYPES)
def test_figures_are_there_and_right(dtype):
    """Every step has a rate and every ratio its ceiling, for every dtype that can be asked for."""
    figures = run(Case(model_mb=0.6, arrays=3, dtype=dtype, runs=2))
    assert figures["correct"]
    steps = {*CEILINGS, *CEILINGS.values()}
    assert all(figures[f"{step}_gb_s"] > 0 for step in steps)
    assert all(figures[f"{step}_to_{ceiling}"] > 0 for step, ceiling in CEILINGS.items())
    assert len(markdown_table([figures], COLUMNS)) == 3


def test_the_size_is_in_bytes_whatever_the_dtype():
    """A model of 0.8 MB has 100,000 numbers of 8 bytes, and each step says how many bytes it went through."""
    bench = Bench(Case(model_mb=0.8, arrays=3, dtype="float64"))
    assert {name: step() for name, step in bench.steps.items()} == {
        "memcpy": 2_400_000,
        "accumulate": 2_400_000,
        "digest": 2_400_000,
        "add": 2_400_000,
        "undo": 2_400_000,
        "merge": 800_000,
        "mean": 800_000,
    }


@pytest.mark.parametrize("lost", ["add", "merge", "partial"])
def test_a_fold_that_loses_something_is_not_correct(monkeypatch, lost):
    """Where a chunk is not added, not merged, or a sum is off by the last bit, the figures say so."""
    bench = Bench(Case(model_mb=1.2, arrays=2))
    honest = getattr(Accumulator, lost)
    calls = []

    def dishonest(self, *arguments):
        calls.append(arguments)
        if len(calls) > 1:
            return honest(self, *arguments)
        return np.zeros(arguments[1] - arguments[0], "<i8") if lost == "partial" else 0.0

    bench.run()
    assert bench.correct()
    monkeypatch.setattr(Accumulator, lost, dishonest)
    bench.run()
    assert not bench.correct()


def test_an_unknown_dtype_is_refused():
    """What cannot be measured is said with what can."""
    with pytest.raises(ConfigError, match="float16, float32"):
        run(Case(dtype="complex64"))
