"""The gateways of `fedbus up` and `fedbus demo`: where each listens, and at which address it answers.

A gateway writes its address into a file once it takes requests (`fedbus gateway --ready-file`). One that is started
again gets the port that it had: who has its page open finds it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import orjson

HOST = "127.0.0.1"


class Gateways:
    """``count`` gateways on ``port`` and those after it, or on free ones (0); their files stand in ``place``."""

    def __init__(self, place: Path, *, count: int, port: int) -> None:
        self.names = ["gateway", *(f"gateway-{index}" for index in range(2, count + 1))][:count]
        self._place = place
        self._ports = {name: port and port + index for index, name in enumerate(self.names)}
        self._urls: dict[str, str] = {}

    def file(self, name: str) -> Path:
        """Return where a gateway writes its address."""
        return self._place.resolve() / f"{name}.json"

    def port(self, name: str) -> int:
        """Return where a gateway is to listen: where it listened before, if it did; 0: on a free port."""
        return urlsplit(self._urls.get(name, "")).port or self._ports[name]

    def arguments(self, name: str) -> list[str]:
        """Return the command of a gateway that is about to start; what an earlier one has written is gone then."""
        self._place.mkdir(parents=True, exist_ok=True)
        self.file(name).unlink(missing_ok=True)
        listen = ["--listen", HOST, "--port", str(self.port(name))]
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
