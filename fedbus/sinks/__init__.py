"""Sinks of points: sessions where people compare experiments (docs/how-to/track-experiments.md)."""

from fedbus.sinks.base import ClosedRound, Ended, Evaluated, Sink, SinkKind, SinkUnavailable, Tracked
from fedbus.sinks.registry import open_sink
from fedbus.sinks.tracking import track

__all__ = [
    "ClosedRound",
    "Ended",
    "Evaluated",
    "Sink",
    "SinkKind",
    "SinkUnavailable",
    "Tracked",
    "open_sink",
    "track",
]
