"""How `fedbus up` encrypts, and is reached from other machines: certificates, listening addresses, websockets.

Without certificates of somebody else's it makes an authority of its own, ``<data-dir>/certs``, whose certificate
travels in all credentials and tokens: who has joined needs to name nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.bus.embedded.settings import join_address
from fedbus.bus.tls import read_pem
from fedbus.errors import ConfigError
from fedbus.gateway.listening import Listening

log = logging.getLogger("fedbus.cli")

LOOPBACK = "127.0.0.1"
NAME = "server"

LOOK_S = 5.0
"""How often it is looked whether certificates were renewed."""

RENEW_BEFORE = timedelta(days=60)
"""A certificate of our own that has less left is made anew at the next start: who runs for months is not cut off."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """Certificates in PEM files, and where all listens with them.

    ``ca``: who signed them, as PEM; '' for an authority that every system knows. ``here``: a name in the certificate
    under which this machine reaches itself; ``hosts``: those under which others do. ``wss_port`` 0: no websockets.
    """

    certificate: Path
    key: Path
    ca: str
    here: str = LOOPBACK
    hosts: tuple[str, ...] = ()
    listen: str = LOOPBACK
    wss_port: int = 0

    def broker(self, settings: BrokerSettings, index: int = 0) -> BrokerSettings:
        """Return the settings of the broker of this number, with TLS."""
        web = join_address(self.listen, self.wss_port + index) if self.wss_port else ""
        return replace(settings, tls=BrokerTls(self.certificate, self.key), websocket_listen=web)

    def gateway(self, listening: Listening) -> Listening:
        """Return how a gateway listens, with HTTPS."""
        hosts = (*listening.hosts, *self.hosts)
        return replace(listening, host=self.listen, hosts=hosts, tls_certificate=self.certificate, tls_key=self.key)

    def url(self, ports: Iterable[int]) -> str:
        """Return where this machine reaches brokers at these ports."""
        return ",".join(f"tls://{join_address(self.here, port)}" for port in ports)

    def told(self, ports: Sequence[int]) -> tuple[str, ...]:
        """Return where others reach them, websockets first: they pass most firewalls."""
        hosts = self.hosts or (self.here,)
        if self.wss_port:
            return tuple(_web(host, self.wss_port + index) for host in hosts for index in range(len(ports)))
        return tuple(f"tls://{join_address(host, port)}" for host in hosts for port in ports)


async def renewing(encryption: Encryption, brokers: Iterable[EmbeddedBroker]) -> None:
    """Have brokers take certificates that were renewed, as gateways do by themselves; runs until cancelled."""
    from fedbus.gateway.tls import Certificate

    shown = await asyncio.to_thread(Certificate, encryption.certificate, encryption.key)
    brokers = list(brokers)
    while True:
        await asyncio.sleep(LOOK_S)
        if await asyncio.to_thread(shown.renew):
            for broker in brokers:
                broker.reload()


def encryption(
    data_dir: Path,
    *,
    tls: bool,
    certificate: Path | None,
    key: Path | None,
    ca: Path | None,
    hosts: Sequence[str],
    listen: str,
    wss_port: int,
) -> Encryption | None:
    """Return how to encrypt; None where nothing is. Makes certificates where none are given; raises `ConfigError`."""
    if not tls and certificate is None and key is None:
        if listen != LOOPBACK or wss_port:
            raise ConfigError("--listen and --wss-port need --tls: what leaves this machine is encrypted")
        return None
    if (certificate is None) != (key is None):
        raise ConfigError("--tls-cert and --tls-key go together: give both, or none")
    if certificate is not None and key is not None:
        if not hosts:
            raise ConfigError("--tls-cert needs --public-host NAME, a name in it under which this machine is reached")
        text = "" if ca is None else read_pem(ca)
        here = hosts[0]
        return Encryption(certificate.absolute(), key.absolute(), text, here, tuple(hosts), listen, wss_port)
    made, own_key, text = _made(data_dir.resolve() / "certs", hosts)
    return Encryption(made, own_key, text, LOOPBACK, tuple(hosts), listen, wss_port)


def _made(directory: Path, hosts: Sequence[str]) -> tuple[Path, Path, str]:
    """Return certificate, key and authority of a directory, made where they are not there."""
    from fedbus.access.certs import Certs, shown  # here: cryptography, which not everybody has

    certs = Certs(directory)
    if not certs.ca.exists():
        certs.init(f"fedbus up in {directory.parent.name}"[:64])
    certificate, key = certs.files(NAME)
    if certificate.exists():
        one = shown(certificate)
        if set(hosts) <= set(one.names) and one.ends - datetime.now(UTC) > RENEW_BEFORE:
            return certificate, key, read_pem(certs.ca)
        log.info("%s is made anew, for %s", certificate, ", ".join((*hosts, LOOPBACK)))
    for stale in (certificate, key):
        stale.unlink(missing_ok=True)
    certs.server(NAME, hosts)
    return certificate, key, read_pem(certs.ca)


def _web(host: str, port: int) -> str:
    return (
        f"wss://{join_address(host, port)}" if port != 443 else f"wss://{join_address(host, port).rpartition(':')[0]}"
    )
