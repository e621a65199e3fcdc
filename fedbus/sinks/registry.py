"""Sinks by name: our own, and those that installed packages offer under the entry point ``fedbus.sinks``."""

from __future__ import annotations

from fedbus.errors import ConfigError
from fedbus.plugins import Registry
from fedbus.sinks.base import Sink, SinkKind

REGISTRY: Registry[SinkKind] = Registry(
    "fedbus.sinks",
    "sink",
    SinkKind,
    {
        "csv": "fedbus.sinks.lines:CSV",
        "jsonl": "fedbus.sinks.lines:JSONL",
        "mlflow": "fedbus.sinks.mlflow:MLFLOW",
        "tensorboard": "fedbus.sinks.tensorboard:TENSORBOARD",
    },
)

names, find = REGISTRY.names, REGISTRY.find


def open_sink(text: str) -> Sink:
    """Open the sink that a text names: ``tensorboard:runs``, ``mlflow:http://127.0.0.1:5000``; `ConfigError`."""
    name, colon, target = text.partition(":")
    if not colon or not target:
        raise ConfigError(f"sink: expected NAME:TARGET, such as tensorboard:runs, got {text!r:.200}")
    return find(name).open(target)
