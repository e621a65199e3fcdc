"""TLS towards a broker: whom we trust, who we are, and what went wrong in words that say what to do.

The files are named in the address, as other databases' and brokers' addresses do it; what names none trusts the
authorities that came with the credentials, else those of the system:

    wss://broker.example?ca=/etc/fedbus/ca.pem&cert=/etc/fedbus/client.pem&key=/etc/fedbus/client-key.pem

A proxy on the way may be named there, too (`fedbus.bus.proxy`).

A certificate is always demanded, its name always checked, TLS is 1.2 at least; nothing turns that off.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from fedbus.errors import ConfigError

SECURE_SCHEMES = ("tls", "wss")
WEB_SCHEMES = ("ws", "wss")

PEM_BYTES_MAX = 2**20
"""Of a file of certificates: all authorities of a system are some 200 KB."""

_OPTIONS = ("ca", "cert", "key")
_OF_THE_WAY = ("proxy", "proxy_ca")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """``ca``: whom to trust; ``certificate`` and ``key``: who we are, where the broker asks. All PEM."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return self != TlsFiles()


def addresses_in(url: str) -> list[str]:
    """Return the addresses in a broker's URL, which has commas between them."""
    return [part for part in map(str.strip, url.split(",")) if part]


def split_url(url: str) -> tuple[list[str], TlsFiles]:
    """Return the addresses of a URL (several with commas) without what they say of files, and that.

    `ConfigError` for an option that there is none, one that two addresses say differently, or files for an address
    without TLS.
    """
    addresses: list[str] = []
    said: dict[str, str] = {}
    for part in addresses_in(url):
        pieces = urlsplit(part if "://" in part else f"nats://{part}")
        for option, value in parse_qsl(pieces.query, keep_blank_values=True):
            if option in _OF_THE_WAY and value:
                continue  # each address may have its own
            if option not in _OPTIONS or not value or said.setdefault(option, value) != value:
                known = ", ".join(_OPTIONS)
                raise ConfigError(f"{option}={value} in the broker's address: expected one file each of {known}")
            if pieces.scheme not in SECURE_SCHEMES:
                raise ConfigError(f"{pieces.scheme}:// has no TLS, but {option}= is for it: write tls:// or wss://")
        # what nats-py does not need to see it need not understand
        addresses.append(part.partition("?")[0] if pieces.query else part)
    files = TlsFiles(*(Path(said[option]) if option in said else None for option in _OPTIONS))
    return addresses, files


def scheme_of(address: str) -> str:
    """Return the scheme of one address; without one it is NATS' own."""
    return address.partition("://")[0] if "://" in address else "nats"


def with_files(url: str, files: TlsFiles) -> str:
    """Return a URL whose TLS addresses name these files, where they name none of their own."""
    if not files:
        return url
    values = zip(_OPTIONS, (files.ca, files.certificate, files.key), strict=True)
    query = urlencode({option: str(path) for option, path in values if path is not None}, safe="/")

    def named(part: str) -> str:
        said = dict(parse_qsl(part.partition("?")[2]))
        if part.partition("://")[0] not in SECURE_SCHEMES or any(option in said for option in _OPTIONS):
            return part
        return f"{part}{'&' if said else '?'}{query}"

    return ",".join(named(part.strip()) for part in url.split(","))


def told_to_others(url: str) -> tuple[tuple[str, ...], str]:
    """Return the addresses of a URL as others may use them, without our files, and the certificates that `ca` names.

    Raises `ConfigError`, as `split_url` and `read_pem`.
    """
    addresses, files = split_url(url)
    return tuple(addresses), read_pem(files.ca) if files.ca is not None else ""


def client_context(files: TlsFiles | None = None, *, ca: str = "") -> ssl.SSLContext:
    """Return how to connect: trusts ``files.ca``, else the certificates ``ca`` (PEM), else the system's.

    Reads files. Raises `ConfigError` for one that cannot be read or is no PEM, for a certificate without its key, and
    for a key of another certificate.
    """
    files = files or TlsFiles()
    text = read_pem(files.ca) if files.ca is not None else ca
    try:
        context = ssl.create_default_context(cadata=text or None)
    except (ssl.SSLError, ValueError) as error:
        where = str(files.ca) if files.ca is not None else "of the credentials"
        raise ConfigError(f"the certificates {where} cannot be read as PEM: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if (files.certificate is None) != (files.key is None):
        raise ConfigError("a client's certificate and its key go together: give both, or none")
    if files.certificate is not None and files.key is not None:
        load_chain(context, files.certificate, files.key)
    return context


def load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Have a context show a certificate; `ConfigError` where the two files will not do."""
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except FileNotFoundError as error:
        missing = next((path for path in (certificate, key) if not path.exists()), certificate)
        raise ConfigError(f"{missing}: there is no such file; `fedbus certs` makes certificates") from error
    except (ssl.SSLError, OSError, ValueError) as error:
        text = f"certificate {certificate} and key {key} cannot be used together ({error})"
        raise ConfigError(f"{text}: expected PEM, and the key of that very certificate, without a password") from error


def read_pem(path: Path) -> str:
    """Return the text of a file of certificates; `ConfigError` where it is none."""
    try:
        with path.open("rb") as file:
            text = file.read(PEM_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"certificates {path} cannot be read: {error.strerror}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ConfigError(f"{path} holds no certificate in PEM: expected a file that says BEGIN CERTIFICATE")
    return text


def check_context(context: ssl.SSLContext) -> None:
    """Raise `ConfigError` for a context that would connect to anybody."""
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise ConfigError(
            "the SSL context verifies no certificate or no name: anybody could be the broker; "
            "trust its certificate instead (cafile)"
        )


_EXPIRED, _NOT_YET, _UNKNOWN, _WRONG_NAME = (10,), (9,), (2, 18, 19, 20, 21), (62, 64)
_NO_TLS = ("wrong_version_number", "unknown_protocol", "record_layer_failure", "http_request", "packet_length_too_long")


def tls_problem(
    error: BaseException | None, names: Sequence[str], *, ca: str = "ca= or --ca", plain: str = "nats:// or ws://"
) -> str:
    """Return what went wrong with TLS to hosts of these names, and what to do; '' where it was something else.

    ``ca``: how their authority is named; ``plain``: the scheme of who speaks no TLS.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, " or ".join(names), ca)
    return _of_protocol(error, plain) if isinstance(error, ssl.SSLError) else ""


def _of_protocol(error: ssl.SSLError, plain: str) -> str:
    said = getattr(error, "reason", "") or str(error)  # one that is made by Python has no reason
    reason = said.lower().replace(" ", "_")
    if any(word in reason for word in _NO_TLS):
        return f"expected TLS, came something else: is this the port for TLS? one without is asked by {plain}"
    if "certificate_required" in reason or "handshake_failure" in reason:
        text = "the broker demands a certificate of ours that its CA has signed: its operator makes one"
        return f"{text} (`fedbus certs client`), and --tls-cert and --tls-key, or cert= and key=, name the files"
    if "alert" in reason and ("certificate" in reason or "unknown_ca" in reason):
        return f"the broker does not take our certificate ({reason}): expected one that its CA has signed for clients"
    if "protocol_version" in reason:
        return "the broker speaks no TLS of 1.2 or newer, and nothing older is safe: update it"
    return f"TLS failed: {said}"


def _of_certificate(error: ssl.SSLCertVerificationError, names: str, ca: str) -> str:
    told = error.verify_message
    if error.verify_code in _EXPIRED:
        return f"its certificate is not valid any more ({told}): have it renewed, or look at this machine's clock"
    if error.verify_code in _NOT_YET:
        return f"its certificate is not valid yet ({told}): look at the clocks of both machines"
    if error.verify_code in _WRONG_NAME:
        text = f"expected a certificate for {names}, came one for other names ({told})"
        return f"{text}: connect under a name that stands in it, or have it made again with this one"
    if error.verify_code in _UNKNOWN:
        return f"its certificate is signed by nobody who is trusted here ({told}): name its CA's file with {ca}"
    return f"its certificate cannot be verified: {told}"


def _no_password() -> str:
    # without this OpenSSL would ask on the terminal, and a service would wait there without end
    raise ValueError("the key is encrypted")
