"""What every role tells of its connection, to who counts."""

from __future__ import annotations

from fedbus import telemetry
from fedbus.bus.base import Bus
from fedbus.exchange.outbox import Outbox
from fedbus.telemetry import Meters, metrics
from fedbus.telemetry.meters import Read, Readings


def watch_bus(meters: Meters, bus: Bus) -> tuple[Read, ...]:
    """Tell how the connection is; returns what is watched, to be forgotten with it."""
    reads: tuple[Read, ...] = (lambda: [(bus.reconnects, {})]), (lambda: [(int(bus.connected), {})])
    for metric, read in zip((metrics.RECONNECTS, metrics.CONNECTED), reads, strict=True):
        meters.watch(metric, read)
    return reads


def watch_outbox(meters: Meters, outbox: Outbox) -> tuple[Read, ...]:
    """Tell how many reports nobody has acknowledged yet; returns as `watch_bus`."""

    def read() -> Readings:
        return [(len(outbox), {telemetry.QUEUE: "outbox"})]

    meters.watch(metrics.QUEUE_LENGTH, read)
    return (read,)
