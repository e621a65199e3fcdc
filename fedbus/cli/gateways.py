"""The gateways of `fedbus up` and `fedbus demo`: where each listens, and at which address it answers.

A gateway writes its address into a file once it takes requests (`fedbus gateway --ready-file`). One that is started
again gets the port that it had: who has its page open finds it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import orjson
import typer

from fedbus.gateway.listening import Listening

AllowHost = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="NAME", help="A name under which it may be asked for; repeatable."),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option("--cors-origin", metavar="ORIGIN", help="A page elsewhere that may use it; repeatable."),
]
Proxy = Annotated[
    list[str] | None,
    typer.Option(
        "--proxy", metavar="ADDRESS", help="A proxy in front of it, believed from where requests come; repeatable."
    ),
]
JaegerUrl = Annotated[
    str, typer.Option("--jaeger-url", metavar="URL", help="Where the page's links to traces lead.", show_default=False)
]

HttpsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="Serve HTTPS with this certificate (PEM).", show_default=False),
]
HttpsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="The key of that certificate.", show_default=False)
]


class Gateways:
    """``count`` gateways on ``port`` and those after it, or on free ones (0); their files stand in ``place``.

    ``like``: how all of them listen, but for host and port.
    """

    def __init__(self, place: Path, *, count: int, port: int, like: Listening | None = None) -> None:
        self.names = ["gateway", *(f"gateway-{index}" for index in range(2, count + 1))][:count]
        self._place = place
        self._like = like or Listening()
        self._ports = {name: port and port + index for index, name in enumerate(self.names)}
        self._urls: dict[str, str] = {}

    def file(self, name: str) -> Path:
        """Return where a gateway writes its address."""
        return self._place.resolve() / f"{name}.json"

    def begin(self, name: str) -> Listening:
        """Return how a gateway that is about to start is to listen; what an earlier one has written is gone then.

        Where it listened before, if it did; port 0: on a free one.
        """
        self._place.mkdir(parents=True, exist_ok=True)
        self.file(name).unlink(missing_ok=True)
        port = urlsplit(self._urls.get(name, "")).port or self._ports[name]
        return replace(self._like, port=port)

    def arguments(self, name: str) -> list[str]:
        """Return the command of a gateway that is about to start, as `begin`."""
        listening = self.begin(name)
        listen = ["--listen", listening.host, "--port", str(listening.port)]
        listen += [f"--allow-host={host}" for host in listening.hosts]
        listen += [f"--cors-origin={origin}" for origin in listening.cors_origins]
        if listening.tls_certificate is not None and listening.tls_key is not None:
            listen += [f"--tls-cert={listening.tls_certificate}", f"--tls-key={listening.tls_key}"]
        if listening.jaeger_url:
            listen.append(f"--jaeger-url={listening.jaeger_url}")
        return ["gateway", "--name", name, *listen, "--ready-file", str(self.file(name))]

    @property
    def url(self) -> str | None:
        """The address of the first; None where there is none, or not yet."""
        return self._urls.get(self.names[0]) if self.names else None

    def missing(self) -> Sequence[str]:
        """Return the names of those that do not take requests yet."""
        for name in self.names:
            with suppress(FileNotFoundError):
                self._urls[name] = str(orjson.loads(self.file(name).read_bytes())["http_url"])
        return [name for name in self.names if name not in self._urls]
