"""`fedbus bench aggregate`: the fold alone, in one thread of one process, without a bus.

What a combiner does with the bytes of a chunk: digests, add with all checks; and with what is folded: take out, merge,
mean. Beside it, on the same bytes in the same run, what the machine can do at best: copying them (``memcpy``), and
numpy adding them to an accumulator of float64 (``accumulate``). Ratios are the median over runs of the ratio in a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbus.aggregation import Accumulator, scale_for
from fedbus.cli.benches import expectation
from fedbus.cli.benches.meter import GB
from fedbus.cli.benches.report import Column, Figures, number
from fedbus.errors import ConfigError
from fedbus.tensors import Hasher, Layout, ModelSpec, Source, chunk_digest, magnitude

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
"""Of numpy, that a benchmark can be asked for."""

UPDATES = 3
"""Different ones, so that none is in the processor's cache when its turn comes again."""

CEILINGS = {"digest": "memcpy", "add": "accumulate", "undo": "accumulate", "merge": "memcpy", "mean": "memcpy"}
"""Each step, and what it is held against."""


@dataclass(frozen=True, slots=True)
class Case:
    """One model; ``runs`` measurements of everything after one that is left out."""

    model_mb: float = 45.0
    arrays: int = 62
    dtype: str = "float32"
    runs: int = 5


class Bench:
    """The data of a case, and its steps; each returns how many bytes it went through."""

    def __init__(self, case: Case) -> None:
        model = _model(case)
        self._layout = Layout(ModelSpec.of(model))
        absmax = [magnitude(array) for array in model.values()]
        scale = scale_for(self._layout.spec, absmax, weight_max=2.0**20, value_floor=64.0)
        self._chunks = [_chunks(self._layout, model, turn) for turn in range(UPDATES)]
        self._weights = [1.0 + turn for turn in range(UPDATES)]
        self._sums, self._others = Accumulator(self._layout, scale), Accumulator(self._layout, scale)
        self._copy = np.zeros(self._layout.spec.nbytes, np.uint8)
        self._wide = np.zeros(self._layout.spec.parts)
        self.steps: dict[str, Callable[[], int]] = {
            "memcpy": self._memcpy,
            "accumulate": self._accumulate,
            "digest": self._digest,
            "add": self._add,
            "undo": self._undo,
            "merge": self._merge,
            "mean": self._mean,
        }

    @property
    def _nbytes(self) -> int:
        return self._layout.spec.nbytes

    def _memcpy(self) -> int:
        for update in self._chunks:
            for index, data in enumerate(update):
                np.copyto(self._copy[slice(*self._layout.bounds(index))], np.frombuffer(data, np.uint8))
        return UPDATES * self._nbytes

    def _accumulate(self) -> int:
        """Sum in float64, one call of numpy a run of equal arrays: no weight, no check."""
        parts = self._sums.parts
        for update in self._chunks:
            for index, data in enumerate(update):
                for run in parts.runs(index):
                    sums = self._wide[run.start : run.stop]
                    np.add(sums, run.read(data), out=sums)
        return UPDATES * self._nbytes

    def _digest(self) -> int:
        """XXH3 of each chunk and BLAKE3 of the whole, as on arrival."""
        for update in self._chunks:
            hasher = Hasher()
            for data in update:
                chunk_digest(data)
                hasher.update(data)
        return UPDATES * self._nbytes

    def _fold(self, sums: Accumulator, turns: Sequence[int], sign: int = 1) -> int:
        for turn in turns:
            for index, data in enumerate(self._chunks[turn]):
                sums.add(index, data, self._weights[turn], sign)
        return len(turns) * self._nbytes

    def _add(self) -> int:
        return self._fold(self._sums, range(UPDATES))

    def _undo(self) -> int:
        return self._fold(self._sums, range(UPDATES), sign=-1)

    def _merge(self) -> int:
        """Make a partial and add it, as between a combiner and the root; bytes of the partial, 8 a number."""
        for start, stop in pairwise(self._sums.parts.edges):
            self._sums.merge(start, self._others.partial(start, stop))
        return 8 * len(self._wide)

    def _mean(self) -> int:
        """The mean as bytes of the model; one without rounding to its dtype would be no model."""
        for index in range(self._layout.count):
            self._others.parts.narrow(index, self._others.mean(index, sum(self._weights)))
        return self._nbytes

    def run(self) -> dict[str, float]:
        """Take every step once; returns bytes a second of each."""
        self._sums.clear()
        self._others.clear()
        self._fold(self._others, range(UPDATES))
        return {name: _rate(step) for name, step in self.steps.items()}

    def correct(self) -> bool:
        """Whether sums and means are right.

        What was added and taken out again has left no trace: only what was merged is there, bit by bit. And its mean is
        that of numpy in float64, to the 2**-25 that is left for weights up to 2**20 and values up to 64.
        """
        return all(self._same(index) and self._is_mean(index) for index in range(self._layout.count))

    def _same(self, index: int) -> bool:
        first, stop = self._sums.parts.edges[index : index + 2]
        return np.array_equal(self._sums.partial(first, stop), self._others.partial(first, stop))

    def _is_mean(self, index: int) -> bool:
        wide = [self._others.parts.widen(index, update[index]) for update in self._chunks]
        expected = np.average(wide, axis=0, weights=self._weights)
        return np.allclose(self._others.mean(index, sum(self._weights)), expected, rtol=0, atol=2.0**-24)


def _rate(step: Callable[[], int]) -> float:
    began = time.perf_counter()
    nbytes = step()
    return nbytes / max(time.perf_counter() - began, 1e-9)


def _model(case: Case) -> dict[str, NDArray[Any]]:
    if case.dtype not in DTYPES:
        raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}, got {case.dtype!r}")
    dtype = np.dtype(case.dtype)
    # so many numbers that their bytes are those that were asked for
    floats = expectation.initial(case.model_mb * 4 / dtype.itemsize, case.arrays)
    scale = 100.0 if dtype.kind in "iu" else 1.0
    return {name: np.abs(array * np.float32(scale)).astype(dtype) for name, array in floats.items()}


def _chunks(layout: Layout, model: dict[str, NDArray[Any]], turn: int) -> list[bytes]:
    source = Source(layout, {name: array + array.dtype.type(turn) for name, array in model.items()})
    return [bytes(source.chunk(index)) for index in range(layout.count)]


def run(case: Case) -> dict[str, Any]:
    """Run one case; returns its figures."""
    bench = Bench(case)
    bench.run()  # touches all memory for the first time
    runs = [bench.run() for _ in range(case.runs)]
    return {
        "correct": bench.correct(),
        **asdict(case),
        **{f"{name}_gb_s": statistics.median(rates[name] for rates in runs) / GB for name in bench.steps},
        **{
            f"{name}_to_{ceiling}": statistics.median(rates[name] / rates[ceiling] for rates in runs)
            for name, ceiling in CEILINGS.items()
        },
    }


def _step(name: str) -> Column:
    ceiling = CEILINGS[name]
    return Column(
        f"{name} GB/s (of {ceiling})",
        lambda run: f"{number(run[f'{name}_gb_s'])} ({run[f'{name}_to_{ceiling}']:.2f})",
    )


def _work(run: Figures) -> str:
    return f"{number(run['model_mb'])} MB {run['dtype']} / {run['arrays']}"


COLUMNS = (
    Column("model / arrays", _work),
    Column("result", lambda run: "correct" if run["correct"] else "WRONG"),
    Column("memcpy GB/s", lambda run: number(run["memcpy_gb_s"])),
    Column("accumulate GB/s", lambda run: number(run["accumulate_gb_s"])),
    *(_step(name) for name in CEILINGS),
)
