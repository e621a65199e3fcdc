"""The settings of a broker: each with its unit, its default and the reason for it. `conf` writes them down.

A broker is one of three kinds, told apart by what is set:

    single   keeps streams, alone                                      (the default)
    node     of a cluster: ``cluster_name``, ``cluster_listen``, ``routes``; streams may have replicas
    leaf     of a region: ``hubs``; keeps nothing, passes what its clients ask of streams on to its hub
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedbus.errors import ConfigError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class BrokerSecurity:
    """Who is let in (`fedbus.access.authority`): a nats-server in operator mode, which knows accounts by their JWTs.

    ``accounts``: JWT by public key, the system account's among them; the server keeps newer ones that it was sent.
    ``probes``: JWT and seed of who asks in each workspace whether JetStream is ready. ``route_password``: between the
    nodes of a cluster.
    """

    operator: str
    system_account: str
    accounts: Mapping[str, str]
    probes: tuple[tuple[str, str], ...] = field(repr=False)
    route_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """What a broker shows to whoever connects: files in PEM, read at its start.

    ``certificate``: its chain, its own first. ``clients_ca``: who signed the certificates that clients have to show;
    None: they need none. JWTs say who somebody is in either case.
    """

    certificate: Path
    key: Path
    clients_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What may be chosen of a broker."""

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

    go_memory_bytes: int = 224 * MIB
    """GOMEMLIMIT: below it Go's collector may be lazy (``go_gc_percent``), from here on it works as much as it must, up
    to half the processor. Rounds of 64 x 45 MB: 246 MB at the most and 0.83 CPU-seconds per GB; without a limit that is
    reached, and GOGC 50, 342 MB and 1.01. Each connection takes some 50 KB: for thousands of them choose more."""

    go_gc_percent: int = 200
    """GOGC: how much the heap may grow between collections as long as it is small. Twice Go's default takes a quarter
    off the broker's processor time; what that costs in memory, ``go_memory_bytes`` bounds."""

    log_bytes_max: int = 16 * MIB
    """Then a new log file is begun; three old ones are kept."""

    name: str = "fedbus-embedded"
    """Who it is among servers; no two of a cluster, and no two leaves of a hub, share a name."""

    tags: tuple[str, ...] = ()
    """What placement may ask for, such as ``zone:a``."""

    domain: str = ""
    """Of JetStream: where there are leaves, their hub has one, and they ask it by that name."""

    cluster_name: str = ""
    """The same on every node; empty: no cluster."""

    cluster_listen: str = ""
    """``host:port`` for the other nodes; replicas and messages for their clients travel there, without a password."""

    routes: tuple[str, ...] = ()
    """``host:port`` of every node of the cluster, this one among them; nodes wait for each other."""

    leaf_listen: str = ""
    """``host:port`` for leaves; empty: none may come."""

    hubs: tuple[str, ...] = ()
    """``host:port`` where a hub listens for leaves, of each of its nodes; makes this a leaf."""

    tls: BrokerTls | None = None
    """For clients; None: in the clear, which belongs onto one machine or into a private network."""

    websocket_listen: str = ""
    """``host:port`` for clients that may speak to nothing but the web's port, 443; empty: none. Port 0: a free one.
    With ``tls`` it has that as well."""

    websocket_plain: bool = False
    """Websockets without TLS, for a proxy before the broker that ends TLS itself."""

    neighbours_tls: BrokerTls | None = None
    """Between the nodes of a cluster, and from leaves to their hub. ``clients_ca`` is who signed the others'."""

    @property
    def keeps_streams(self) -> bool:
        """Whether it has a JetStream of its own: a leaf passes everything on to its hub."""
        return not self.hubs

    def __post_init__(self) -> None:
        if not 2**16 <= self.payload_bytes_max <= 64 * MIB:
            raise ConfigError(f"payload_bytes_max is 64 KiB to 64 MiB, not {self.payload_bytes_max}")
        if self.outgoing_bytes_max < 2 * self.payload_bytes_max:
            raise ConfigError("outgoing_bytes_max must hold two of the largest payloads, or no client can take one")
        positive = ("memory_bytes_max", "write_deadline_s", "go_memory_bytes", "go_gc_percent", "log_bytes_max")
        if self.file_bytes_max < 0 or any(getattr(self, name) <= 0 for name in positive):
            raise ConfigError(f"a setting of the broker is out of its range: {self}")
        for word, value in (("name", self.name), ("domain", self.domain), ("cluster_name", self.cluster_name)):
            _check_word(word, value, empty=word != "name")
        for tag in self.tags:
            _check_word("tag", tag, empty=False)
        self._check_neighbours()
        self._check_tls()

    def _check_tls(self) -> None:
        if self.websocket_listen:
            split_address(self.websocket_listen, free=True)
            if self.tls is None and not self.websocket_plain:
                raise ConfigError(
                    "a websocket needs tls; without (websocket_plain) it belongs behind a proxy that has it"
                )
        if self.neighbours_tls is not None and self.neighbours_tls.clients_ca is None:
            raise ConfigError("neighbours know each other by certificates: neighbours_tls needs clients_ca")

    def _check_neighbours(self) -> None:
        for address in filter(None, (self.cluster_listen, *self.routes, self.leaf_listen, *self.hubs)):
            split_address(address)
        if bool(self.cluster_name) != bool(self.cluster_listen) or bool(self.cluster_name) != bool(self.routes):
            raise ConfigError("a node of a cluster needs all of cluster_name, cluster_listen and routes, others none")
        if (self.leaf_listen or self.hubs) and not self.domain:
            raise ConfigError("where there are leaves, hub and leaves name the same domain")


def split_address(address: str, *, free: bool = False) -> tuple[str, int]:
    """Return host and port of ``host:port``, the host of an IPv6 address without its brackets; raises `ConfigError`.

    ``free``: the port may be 0.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isdecimal() or not (not free) <= int(port) < 2**16 or _unfit(bare):
        raise ConfigError(f"expected an address like 10.0.0.1:7422, got {address!r}")
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_word(what: str, value: str, *, empty: bool) -> None:
    # the domain becomes a token of subjects, a name stands in lists that people read
    if (not value and not empty) or (what == "domain" and any(c in value for c in ".*>")) or _unfit(value):
        raise ConfigError(f"{what} of a broker: one word without blanks or quotes, got {value!r}")


def _unfit(text: Iterable[str]) -> bool:
    return any(not c.isprintable() or c.isspace() or c in "\"'{}," for c in text)
