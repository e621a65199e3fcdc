"""How `fedbus up` encrypts, and is reached from other machines: certificates, listening addresses, websockets.

Without certificates of somebody else's it makes an authority of its own, ``<data-dir>/certs``, whose certificate
travels in all credentials and tokens: who has joined needs to name nothing. Where clients have to show certificates as
well (mTLS), what runs on this machine shows one that is made for it; others get theirs by `fedbus certs client`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.bus.embedded.settings import join_address
from fedbus.bus.tls import TlsFiles, read_pem, with_files
from fedbus.errors import ConfigError
from fedbus.gateway.listening import Listening

if TYPE_CHECKING:
    from fedbus.access.certs import Certs

log = logging.getLogger("fedbus.cli")

LOOPBACK = "127.0.0.1"
EVERYWHERE = (LOOPBACK, "localhost", "0.0.0.0", "::")  # noqa: S104 - only compared with
NAME = "server"
OWN = "operator"
"""What the files of the broker and of who connects to it from here are called."""

LOOK_S = 5.0
"""How often it is looked whether certificates were renewed."""

RENEW_BEFORE = timedelta(days=60)
"""A certificate of our own that has less left is made anew at the next start: who runs for months is not cut off."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """Certificates in PEM files, and where all listens with them.

    ``ca``: who signed them, as PEM; '' for an authority that every system knows. ``here``: a name in the certificate
    under which this machine reaches itself; ``hosts``: those under which others do. ``wss_port`` 0: no websockets.
    ``clients_ca``: who has to have signed the certificates of clients, ``own``: that of this machine; None, nobody's.
    """

    certificate: Path
    key: Path
    ca: str
    here: str = LOOPBACK
    hosts: tuple[str, ...] = ()
    listen: str = LOOPBACK
    wss_port: int = 0
    clients_ca: Path | None = None
    own: tuple[Path, Path] | None = None

    def broker(self, settings: BrokerSettings, index: int = 0) -> BrokerSettings:
        """Return the settings of the broker of this number, with TLS."""
        web = join_address(self.listen, self.wss_port + index) if self.wss_port else ""
        return replace(settings, tls=BrokerTls(self.certificate, self.key, self.clients_ca), websocket_listen=web)

    def gateway(self, listening: Listening) -> Listening:
        """Return how a gateway listens, with HTTPS."""
        hosts = (*listening.hosts, *self.hosts)
        return replace(listening, host=self.listen, hosts=hosts, tls_certificate=self.certificate, tls_key=self.key)

    def url(self, ports: Iterable[int]) -> str:
        """Return where this machine reaches brokers at these ports, and what it shows there."""
        url = ",".join(f"tls://{join_address(self.here, port)}" for port in ports)
        return with_files(url, TlsFiles(None, *self.own)) if self.own is not None else url

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
    client_certs: bool = False,
) -> Encryption | None:
    """Return how to encrypt; None where nothing is. Makes certificates where none are given; raises `ConfigError`.

    ``client_certs``: clients have to show certificates, of the same authority.
    """
    if not tls and certificate is None and key is None:
        if listen != LOOPBACK or wss_port or client_certs:
            raise ConfigError(
                "--listen, --wss-port and --client-certs need --tls: what leaves this machine is encrypted"
            )
        return None
    if (certificate is None) != (key is None):
        raise ConfigError("--tls-cert and --tls-key go together: give both, or none")
    if certificate is not None and key is not None:
        if not hosts:
            raise ConfigError("--tls-cert needs --public-host NAME, a name in it under which this machine is reached")
        text = "" if ca is None else read_pem(ca)
        here, files = hosts[0], (certificate.absolute(), key.absolute())
        mutual, own = (_by_others(certificate, ca), files) if client_certs else (None, None)
        return Encryption(*files, text, here, tuple(hosts), listen, wss_port, mutual, own)
    here = LOOPBACK if listen in EVERYWHERE else listen  # who listens at one address is not at the other
    names = hosts if here == LOOPBACK else (*hosts, here)
    certs = _authority(data_dir.resolve() / "certs")
    made, own_key = _files(certs, NAME, names, lambda: certs.server(NAME, names))
    mutual = certs.ca if client_certs else None
    own = _files(certs, OWN, (), lambda: certs.client(OWN)) if client_certs else None
    return Encryption(made, own_key, read_pem(certs.ca), here, tuple(hosts), listen, wss_port, mutual, own)


def _by_others(certificate: Path, ca: Path | None) -> Path:
    """Return who signs clients where certificates are somebody else's: whoever signed the broker's."""
    from fedbus.access.certs import shown

    if ca is None:
        raise ConfigError("--client-certs beside --tls-cert needs whose: `fedbus --ca FILE up`, who signs clients'")
    if "client" not in shown(certificate).kind:
        raise ConfigError(
            f"--client-certs: {certificate} is shown by the roles beside the broker, too, and is not for clients: "
            "have it made for both (serverAuth, clientAuth)"
        )
    return ca.absolute()


def _authority(directory: Path) -> Certs:
    """Return the authority of a directory, made where it is not there."""
    from fedbus.access.certs import Certs  # here: cryptography, which not everybody has

    certs = Certs(directory)
    if not certs.ca.exists():
        certs.init(f"fedbus up in {directory.parent.name}"[:64])
    return certs


def _files(certs: Certs, name: str, hosts: Sequence[str], make: Callable[[], Path]) -> tuple[Path, Path]:
    """Return certificate and key of this name, made where they are not there, end soon, or are for other hosts."""
    from fedbus.access.certs import shown

    certificate, key = certs.files(name)
    if certificate.exists():
        one = shown(certificate)
        if set(hosts) <= set(one.names) and one.ends - datetime.now(UTC) > RENEW_BEFORE:
            return certificate, key
        log.info("%s is made anew%s", certificate, f", for {', '.join((*hosts, LOOPBACK))}" if hosts else "")
    for stale in (certificate, key):
        stale.unlink(missing_ok=True)
    make()
    return certificate, key


def _web(host: str, port: int) -> str:
    return (
        f"wss://{join_address(host, port)}" if port != 443 else f"wss://{join_address(host, port).rpartition(':')[0]}"
    )
