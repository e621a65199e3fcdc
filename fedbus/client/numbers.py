"""What the clients of a process count: what the owner's functions were called for, and where the time went."""

from __future__ import annotations

from collections.abc import Callable

from fedbus import telemetry
from fedbus.bus.base import Bus
from fedbus.client.events import Foreign, Measured, Settled, WorkFailed
from fedbus.client.job import Made
from fedbus.client.sending import Sending
from fedbus.exchange.numbers import watch_bus, watch_outbox
from fedbus.exchange.outbox import Outbox
from fedbus.telemetry import Meters, metrics
from fedbus.telemetry.meters import Read, Readings


class Numbers:
    """The numbers of one run of a client, or of a crowd: all its clients together."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._reads: tuple[Read, ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether anybody asks."""
        return self._meters.enabled

    def watch(self, bus: Bus, outbox: Outbox, inbox: Callable[[], int]) -> None:
        """Begin to answer who asks."""
        if not self.wanted:
            return

        def read() -> Readings:
            return [(inbox(), {telemetry.QUEUE: "inbox"})]

        self._meters.watch(metrics.QUEUE_LENGTH, read)
        self._reads = (read, *watch_bus(self._meters, bus), *watch_outbox(self._meters, outbox))

    def forget(self) -> None:
        """The run is over: what was read is gone."""
        self._meters.forget(*self._reads)

    def made(self, made: Made) -> None:
        """Count what a job has come to."""
        failed = isinstance(made.event, WorkFailed)
        about = {telemetry.STAGE: made.job.function, telemetry.OUTCOME: "failed" if failed else "done"}
        self._meters.add(metrics.WORK, 1, about)
        held, fetched = made.held, 0
        if isinstance(made.event, Measured):
            fetched = made.event.fetched
        elif held is not None:
            fetched = held.fetched
            if held.spent is not None:
                for phase in ("wait", "fetch", "train"):
                    seconds = getattr(held.spent, f"{phase}_s")
                    self._meters.record(metrics.WORK_DURATION, seconds, {telemetry.PHASE: phase})
        if fetched:
            self._meters.add(metrics.CLIENT_BYTES, fetched, {telemetry.DIRECTION: "down"})

    def settled(self, sending: Sending, event: Settled | Foreign, now: float) -> None:
        """Count an update that a combiner has judged."""
        if not isinstance(event, Settled):
            return
        self._meters.record(metrics.WORK_DURATION, now - sending.since, {telemetry.PHASE: "upload"})
        if event.accepted:
            self._meters.add(metrics.CLIENT_BYTES, sending.held.cut.nbytes, {telemetry.DIRECTION: "up"})
