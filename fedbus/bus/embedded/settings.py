"""The settings of the embedded broker: each with its unit, its default and the reason for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fedbus.errors import ConfigError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What may be chosen of an embedded broker."""

    payload_bytes_max: int = 8 * MIB
    """nats-server's default of 1 MiB, headers included, cuts a chunk of 1 MiB in two; above 8 MiB it warns."""

    memory_bytes_max: int = 512 * MIB
    """For all MEMORY streams: they hold tasks, which are small; the default would be three quarters of the machine."""

    file_bytes_max: int = 0
    """For all FILE streams; 0 means 80 % of what is free on the disk at the start: `BusFull` is a better word than a
    full disk, under which everything else on the machine suffers too."""

    outgoing_bytes_max: int = 64 * MIB
    """For each client: what waits for one that does not read; the slowest must not take the memory of all."""

    write_deadline_s: float = 30.0
    """A client that takes nothing for so long is cut off. nats-server's 10 s cut off clients with a busy loop."""

    go_memory_bytes: int = 1024 * MIB
    """GOMEMLIMIT: from here on Go's collector works harder; without it the process was seen to grow to 2 GB."""

    go_gc_percent: int = 50
    """GOGC: half the growth between collections of Go's default 100, for some more work of the collector."""

    log_bytes_max: int = 16 * MIB
    """Then a new log file is begun; three old ones are kept."""

    def __post_init__(self) -> None:
        if not 2**16 <= self.payload_bytes_max <= 64 * MIB:
            raise ConfigError(f"payload_bytes_max is 64 KiB to 64 MiB, not {self.payload_bytes_max}")
        if self.outgoing_bytes_max < 2 * self.payload_bytes_max:
            raise ConfigError("outgoing_bytes_max must hold two of the largest payloads, or no client can take one")
        positive = ("memory_bytes_max", "write_deadline_s", "go_memory_bytes", "go_gc_percent", "log_bytes_max")
        if self.file_bytes_max < 0 or any(getattr(self, name) <= 0 for name in positive):
            raise ConfigError(f"a setting of the broker is out of its range: {self}")


def settings_text(settings: BrokerSettings, store: Path, host: str, port: int) -> str:
    """Return the settings file of nats-server; port 0 lets it choose one."""
    file_bytes = settings.file_bytes_max or int(shutil.disk_usage(store).free * 0.8)
    return f"""\
# Written by fedbus at every start of its embedded broker. To change something, change fedbus's settings.
listen: {_text(f"{_bracketed(host)}:{port or -1}")}
server_name: "fedbus-embedded"
ports_file_dir: {_text(store)}  # where it writes the port that it chose
pid_file: {_text(store / "broker.pid")}
log_file: {_text(store / "broker.log")}
log_size_limit: {settings.log_bytes_max}
log_max_num: 3
max_payload: {settings.payload_bytes_max}
max_pending: {settings.outgoing_bytes_max}
write_deadline: "{round(settings.write_deadline_s * 1000)}ms"
jetstream {{
  store_dir: {_text(store)}
  # By default what is acknowledged is synced to the disk only every two minutes: a power failure takes it back.
  sync_interval: always
  max_memory_store: {settings.memory_bytes_max}
  max_file_store: {file_bytes}
}}
# No http port: monitoring tells everybody who asks who is connected.
"""


def _text(value: object) -> str:
    # a JSON string is a string of nats-server's settings, and escapes what would end it
    return json.dumps(str(value), ensure_ascii=False)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
