"""Who counts: nobody, at next to no cost, or OpenTelemetry's instruments, made from the table when first used.

A metric that ``reads`` is asked for its values when somebody collects, in a thread of the collector's: what is handed
to `Meters.watch` only looks at numbers, and may meet them while the loop changes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fedbus.telemetry.metrics import Metric
from fedbus.telemetry.names import Attributes
from fedbus.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

log = logging.getLogger("fedbus.telemetry")

Readings = Iterable[tuple[float, Attributes]]
Read = Callable[[], Readings]

READ_TRIES = 3
"""A dictionary that changes while it is read raises; that it does so three times running is no chance."""


class Meters:
    """Counts nothing: what roles have while nobody asks for numbers."""

    enabled = False

    def add(self, metric: Metric, amount: float = 1, attributes: Attributes | None = None) -> None:
        """Count so much more."""

    def record(self, metric: Metric, value: float, attributes: Attributes | None = None) -> None:
        """Put a value into a histogram."""

    def watch(self, metric: Metric, read: Read) -> None:
        """Ask ``read`` for the metric's values whenever somebody collects; several may be watched for one."""

    def forget(self, *reads: Read) -> None:
        """Ask them no more; one that is not watched is no error."""


OFF: Final = Meters()


class Counting(Meters):
    """Counts with instruments of a provider of OpenTelemetry's."""

    enabled = True

    def __init__(self, role: str, provider: MeterProvider) -> None:
        self._meter: Meter = provider.get_meter(f"fedbus.{role}", __version__)
        self._instruments: dict[str, Any] = {}
        self._watched: dict[str, list[Read]] = {}

    def add(self, metric: Metric, amount: float = 1, attributes: Attributes | None = None) -> None:
        """Count so much more."""
        assert metric.shape == "counter" and not metric.reads, metric.name
        (self._instruments.get(metric.name) or self._made(metric)).add(amount, attributes)

    def record(self, metric: Metric, value: float, attributes: Attributes | None = None) -> None:
        """Put a value into a histogram."""
        assert metric.shape == "histogram", metric.name
        (self._instruments.get(metric.name) or self._made(metric)).record(value, attributes)

    def watch(self, metric: Metric, read: Read) -> None:
        """Ask for values whenever somebody collects."""
        assert metric.reads, metric.name
        known = self._watched.setdefault(metric.name, [])
        known.append(read)
        if metric.name not in self._instruments:
            self._made(metric)

    def forget(self, *reads: Read) -> None:
        """Ask them no more."""
        for known in self._watched.values():
            known[:] = [one for one in known if one not in reads]

    def _made(self, metric: Metric) -> Any:  # noqa: ANN401 - the API has no common class of instruments that count
        about = {"unit": metric.unit, "description": metric.about}
        meter: Meter = self._meter
        made: Any
        if metric.shape == "histogram":
            made = meter.create_histogram(metric.name, **about, explicit_bucket_boundaries_advisory=metric.buckets)
        elif metric.shape == "counter" and not metric.reads:
            made = meter.create_counter(metric.name, **about)
        else:
            make = meter.create_observable_counter if metric.shape == "counter" else meter.create_observable_gauge
            made = make(metric.name, callbacks=[self._callback(metric)], **about)
        self._instruments[metric.name] = made
        return made

    def _callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterator[Observation]:
            from opentelemetry.metrics import Observation

            for value, attributes in _summed(self._watched.get(metric.name, ())):
                yield Observation(value, attributes)

        return read


def _summed(reads: Iterable[Read]) -> list[tuple[float, Attributes]]:
    """Return all values; those of the same attributes, of several who are watched, together."""
    found: dict[tuple[tuple[str, object], ...], tuple[float, Attributes]] = {}
    for read in list(reads):
        for value, attributes in _read(read):
            key = tuple(sorted(attributes.items()))
            found[key] = (found[key][0] + value if key in found else value, attributes)
    return list(found.values())


def _read(read: Read) -> list[tuple[float, Attributes]]:
    for _ in range(READ_TRIES):
        try:
            return list(read())
        except RuntimeError:  # it was changed by the loop while it was read
            continue
    log.debug("a metric could not be read: what it is read from changes all the time")
    return []
