"""The public client: who it is and where it connects; what it does is in `fedbus.client.service`.

    async with Client("nats://127.0.0.1:4222", app, name="site-1") as client:
        await client.run()

`Client.run` is a coroutine like any other: cancel it to leave. It installs no signal handler, touches no global, and
leaves neither task nor thread behind (a sync training function that is running when it is cancelled runs to its end;
nobody waits for it).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from fedbus.bus.base import Bus
from fedbus.bus.nats import connect
from fedbus.client.app import ClientApp, Model
from fedbus.client.newest import NewestModel
from fedbus.client.service import Service, Setup
from fedbus.clock import Clock, SystemClock
from fedbus.crash import Crash, never
from fedbus.errors import ConfigError
from fedbus.messages.ids import Peer, check_name
from fedbus.telemetry import Telemetry
from fedbus.workers import Workers


class Client:
    """One client.

    ``url``: of the broker, or a connected `Bus`, which stays open when the client is left. ``name``: who it is, 1 to 64
    of ``A-Z a-z 0-9 _ -``, one client a name. ``credentials``: path of a NATS credentials file. ``attributes``: texts
    that engineers can filter by. Raises `ConfigError` for a name or an app that cannot be, `BusUnavailable` when it is
    entered and no broker answers at ``url``.
    """

    def __init__(
        self,
        url: str | Bus,
        app: ClientApp,
        *,
        name: str,
        credentials: str | None = None,
        attributes: Mapping[str, str] | None = None,
        workspace: str = "default",
        traces: Telemetry | None = None,
        clock: Clock | None = None,
        workers: Workers | None = None,
        incarnation: str | None = None,
        crash: Crash = never,
    ) -> None:
        check_name("client name", name)
        if not isinstance(app, ClientApp):
            raise ConfigError(f"expected a fedbus.ClientApp, got {type(app).__name__}")
        if not app.functions:
            raise ConfigError("the app can do nothing yet: give it a function with @app.train")
        self._url = url
        self._credentials = credentials
        self._bus: Bus | None = None
        self._newest = NewestModel()
        self._setup = Setup(
            app=app,
            peer=Peer("client", name),
            workspace=check_name("workspace", workspace),
            attributes={str(key): str(value) for key, value in (attributes or {}).items()},
            clock=clock or SystemClock(),
            traces=traces or Telemetry("client", name),
            incarnation=incarnation or secrets.token_hex(8),
            workers=workers,
            crash=crash,
        )

    @property
    def name(self) -> str:
        """Who this is."""
        return self._setup.peer.name

    @property
    def model(self) -> Model | None:
        """The newest model that came from the federation, for inference; None before the first.

        Reading it costs nothing and never touches the network; a new one replaces it between two reads.
        """
        return self._newest.model

    async def __aenter__(self) -> Self:
        """Connect."""
        if isinstance(self._url, str):
            self._bus = await connect(self._url, name=f"client-{self.name}", credentials=self._credentials)
        else:
            self._bus = self._url
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection, if it is ours."""
        bus, self._bus = self._bus, None
        if bus is not None and isinstance(self._url, str):
            await bus.close()

    async def run(self) -> None:
        """Take part until cancelled; then say `Bye`. Raises `BusClosed` when the connection is closed for good."""
        if self._bus is None:
            raise ConfigError("enter the client first: async with fedbus.Client(...) as client: await client.run()")
        await Service(self._setup, self._bus, self._newest).run()
