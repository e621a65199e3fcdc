"""A certificate authority for development and for private networks: one directory, a handful of files.

    ca.pem  ca-key.pem                  who is trusted; the key stays where it was made
    NAME.pem  NAME-key.pem              a server (broker, gateway) or a client, each with its chain

ECDSA P-256 throughout: every TLS stack takes it, and a handshake costs a tenth of one with RSA. Keys have mode 0600.
What is there already is never written over. In production take certificates of the authority that your organisation
has, or of a public one: this one can neither revoke nor tell who has made one.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedbus.errors import ConfigError

CA_DAYS = 3650
SERVER_DAYS = 365
CLIENT_DAYS = 365
"""Of an authority ten years: exchanging it means visiting every client. Of what it signs one, as files get lost."""

BACK = timedelta(minutes=10)
"""Certificates begin so long ago: clocks differ."""

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names under which a server is reached on its own machine."""

_HOST = re.compile(
    r"^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$"
)

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Shown:
    """What `show` tells of a certificate. ``kind``: ``ca``, ``server``, ``client``, ``server and client``."""

    file: str
    subject: str
    issuer: str
    kind: str
    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    fingerprint: str


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Certs:
    """The authority in a directory."""

    def __init__(self, directory: Path, *, now: Now = _utc_now) -> None:
        self.directory = directory
        self._now = now

    @property
    def ca(self) -> Path:
        """What everybody has to trust."""
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """What nobody else may have."""
        return self.directory / "ca-key.pem"

    def files(self, name: str) -> tuple[Path, Path]:
        """Return where the certificate and the key of a server or client stand."""
        return self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"

    def init(self, name: str = "fedbus development CA", days: int = CA_DAYS) -> Path:
        """Make the authority; returns its certificate. `ConfigError` where there is one."""
        self._check_free(self.ca, self.ca_key)
        key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
        builder = (
            self._builder(subject, subject, key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
        )
        self._write(self.ca, self.ca_key, [builder.sign(key, hashes.SHA256())], key)
        return self.ca

    def server(self, name: str, hosts: Sequence[str] = (), days: int = SERVER_DAYS, *, local: bool = True) -> Path:
        """Make the certificate of a broker, its cluster's node, or a gateway; returns its file.

        ``hosts``: names and addresses under which it is reached, such as ``broker.lab`` and ``10.0.0.7``; ``local``:
        those of its own machine as well. Nodes of a cluster show the same file to each other, hence it does for clients
        too. Raises `ConfigError`.
        """
        wanted = list(dict.fromkeys((*hosts, *(LOCAL if local else ()))))
        if not wanted:
            raise ConfigError(f"certificate {name!r}: expected a name or an address under which the server is reached")
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, [_host(host) for host in wanted], both, days)

    def client(self, name: str, days: int = CLIENT_DAYS) -> Path:
        """Make the certificate of a client, for brokers that ask for one; returns its file. Raises `ConfigError`."""
        return self._issue(name, [], [ExtendedKeyUsageOID.CLIENT_AUTH], days)

    def show(self) -> list[Shown]:
        """Tell what is there, the authority first; files that hold no certificate are passed over."""
        paths = sorted(self.directory.glob("*.pem"), key=lambda path: (path != self.ca, path.name))
        return [shown(path) for path in paths if not path.name.endswith("-key.pem")]

    def _issue(self, name: str, names: list[x509.GeneralName], uses: list[x509.ObjectIdentifier], days: int) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) or name == "ca" or name.endswith("-key"):
            raise ConfigError(f"name of a certificate: expected 1 to 64 of A-Z a-z 0-9 . _ -, not 'ca', got {name!r}")
        path, key_path = self.files(name)
        self._check_free(path, key_path)
        ca, ca_key = self._load()
        ends = min(timedelta(days=days), ca.not_valid_after_utc - self._now())
        if ends <= timedelta(0):
            raise ConfigError(f"{self.ca} is not valid any more: make another authority in another directory")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(_name(name), ca.subject, key, ends.total_seconds() / 86400)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write(path, key_path, [builder.sign(ca_key, hashes.SHA256()), ca], key)
        return path

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not self.ca.exists() or not self.ca_key.exists():
            raise ConfigError(
                f"no authority in {self.directory}: make one with `fedbus certs init --dir {self.directory}`"
            )
        try:
            ca = x509.load_pem_x509_certificate(self.ca.read_bytes())
            key = serialization.load_pem_private_key(self.ca_key.read_bytes(), None)
            ca.verify_directly_issued_by(ca)
        except (OSError, ValueError, TypeError, InvalidSignature) as error:
            raise ConfigError(f"the authority in {self.directory} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
            raise ConfigError(f"{self.ca_key} is not the key of {self.ca}")
        return ca, key

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
    ) -> x509.CertificateBuilder:
        if not 0 < days <= 100 * 365:
            raise ConfigError(f"days of a certificate: expected 1 to 36500, got {days:g}")
        now = self._now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACK)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def _check_free(self, *paths: Path) -> None:
        there = [str(path) for path in paths if path.exists()]
        if there:
            raise ConfigError(
                f"{' and '.join(there)}: there already, and never written over: move it away, or take another name"
            )

    def _write(
        self, path: Path, key_path: Path, chain: Iterable[x509.Certificate], key: ec.EllipticCurvePrivateKey
    ) -> None:
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_new(key_path, private, 0o600)
            _write_new(path, b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain), 0o644)
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from error


def shown(path: Path) -> Shown:
    """Tell what stands in a file, of the first certificate; `ConfigError` where there is none."""
    try:
        one = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no certificate in PEM: {error}") from error
    return Shown(
        path.name,
        one.subject.rfc4514_string(),
        one.issuer.rfc4514_string(),
        _kind(one),
        tuple(_names(one)),
        one.not_valid_before_utc,
        one.not_valid_after_utc,
        one.fingerprint(hashes.SHA256()).hex(),
    )


def _kind(one: x509.Certificate) -> str:
    try:
        if one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "ca"
        uses = list(one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ""
    known = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}
    return " and ".join(known[use] for use in uses if use in known)


def _names(one: x509.Certificate) -> list[str]:
    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _name(text: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    except ValueError as error:
        raise ConfigError(f"name of a certificate: expected 1 to 64 characters, got {text!r}") from error


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if len(text) > 253 or not _HOST.match(text):
        raise ConfigError(f"expected a host's name or address, such as broker.lab or 10.0.0.7, got {text!r}")
    return x509.DNSName(text)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
