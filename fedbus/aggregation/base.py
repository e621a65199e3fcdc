"""What an aggregator is: a frozen description around pure functions. Nothing to subclass.

A *linear* aggregator is a weighted mean, folded exactly by `fedbus.aggregation.ring`, and a step that the server takes
from it: replace the model, or move it with momentum, Adam and the like. The step is elementwise over float64 parts, so
a server runs it chunk by chunk and never holds the model. Its state is data: vectors as long as the model's parts, and
scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fedbus.aggregation.parts import Floats
from fedbus.errors import ConfigError

StepState = Mapping[str, NDArray[np.float64]]
"""State of one run of parts: per state name a vector as long as the run, per scalar name a zero-dimensional array."""


class Family(Enum):
    """What an aggregator has to see of the updates."""

    LINEAR = "linear"
    """Their weighted sum: updates are folded as they arrive."""
    PER_COORDINATE = "per_coordinate"
    """For each coordinate all updates at once (median, trimmed mean): read again chunk by chunk."""
    INNER_PRODUCTS = "inner_products"
    """All pairwise inner products (Krum, geometric median): one pass for these, one fold of the chosen."""


class Options(BaseModel):
    """Base of an aggregator's options: unknown names are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoOptions(Options):
    """For an aggregator that has none."""


OptionsT = TypeVar("OptionsT", bound=BaseModel)

Step = Callable[[Floats, Floats, StepState, OptionsT, int], tuple[Floats, StepState]]
"""``step(mean, base, state, options, round) -> (new, state)``: pure, elementwise over one run of parts.

``mean``: of the updates; ``base``: the model that they started from; both float64, one dimension, equal length.
``state``: what the last step returned for these parts, zeros at first, with the aggregator's names. ``round``: 1 for
the first step. It must not write into its arguments, and must return new values of the same length, a state of the
same names and shapes, and scalars that do not depend on the run, so that no cut into runs changes the result.
"""


@dataclass(frozen=True)
class Aggregator(Generic[OptionsT]):
    """A way to make the next model out of updates, under the name by which sessions choose it.

    ``options``: pydantic model of its options (unknown ones are to be forbidden, see `Options`). ``state_names`` and
    ``scalar_names``: what its step carries from round to round. ``reads_base``: False where the step does not look at
    ``base``, so that a server need not fetch it (it is then given the mean in its place).
    """

    name: str
    family: Family
    options: type[OptionsT]
    step: Step[OptionsT]
    state_names: tuple[str, ...] = ()
    scalar_names: tuple[str, ...] = ()
    reads_base: bool = True

    def parse(self, options: Mapping[str, Any]) -> OptionsT:
        """Check options; ConfigError names the aggregator, each wrong option, what is allowed, and what came."""
        try:
            return self.options.model_validate(dict(options))
        except ValidationError as error:
            raise ConfigError(f"{self.name}: " + "; ".join(map(self._explain, error.errors()))) from error

    def _explain(self, found: Mapping[str, Any]) -> str:
        name = ".".join(map(str, found["loc"]))
        if found["type"] == "extra_forbidden":
            known = ", ".join(sorted(self.options.model_fields)) or "none"
            return f"unknown option {name!r} (known: {known})"
        return f"option {name!r}: {found['msg']}, got {found['input']!r:.80}"


@dataclass(frozen=True)
class State:
    """What an aggregator carries from round to round, for a whole model.

    ``round``: steps taken. ``arrays``: per state name one float64 vector over the model's parts, in buffer order.
    """

    round: int = 0
    arrays: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def start(aggregator: Aggregator[Any], parts: int) -> State:
        """Zeros, for a model of ``parts`` parts."""
        arrays = {name: np.zeros(parts) for name in aggregator.state_names}
        return State(0, arrays, dict.fromkeys(aggregator.scalar_names, 0.0))
