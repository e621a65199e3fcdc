"""The public clients: who they are and where they connect; what they do is in `fedbus.client.service`.

    async with Client("nats://127.0.0.1:4222", app, name="site-1") as client:
        await client.run()

    async with Crowd("nats://127.0.0.1:4222", app, name="phone", count=1000) as crowd:
        await crowd.run()                   # phone-0 .. phone-999, over one connection

``run`` is a coroutine like any other: cancel it to leave. It installs no signal handler, touches no global, and leaves
neither task nor thread behind (a sync training function that is running when it is cancelled runs to its end; nobody
waits for it).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedbus.access.local import admitted
from fedbus.access.renewal import renewing
from fedbus.access.signing import signing_of
from fedbus.bus.base import Bus
from fedbus.bus.nats import connect
from fedbus.bus.proxy import through
from fedbus.client.app import ClientApp, Model
from fedbus.client.cards import Card, OnCard
from fedbus.client.newest import NewestModel
from fedbus.client.owner import Wishes
from fedbus.client.service import Hub
from fedbus.client.setup import Setup
from fedbus.client.state import State
from fedbus.clock import Clock, SystemClock
from fedbus.config.policy import Policy
from fedbus.crash import Crash, never
from fedbus.errors import ConfigError
from fedbus.messages.ids import Peer, check_name
from fedbus.messages.presence import FIRST_MAX, MEMBERS_MAX, crowd_name, members_of
from fedbus.telemetry import Telemetry
from fedbus.workers import Workers


class _Party:
    """What a client and a crowd share: a connection and a model."""

    def __init__(self, url: str | Bus, credentials: str | Path | None, setup: Setup) -> None:
        if not isinstance(setup.app, ClientApp):
            raise ConfigError(f"expected a fedbus.ClientApp, got {type(setup.app).__name__}")
        if not setup.app.functions:
            raise ConfigError("the app can do nothing yet: give it a function with @app.train")
        self._url = url
        self._credentials = credentials
        self._bus: Bus | None = None
        self._newest = NewestModel()
        self._hub: Hub | None = None
        self._setup = setup

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
            role, name = self._setup.peer
            if self._credentials is None:
                self._credentials = await admitted(self._url, self._setup.workspace, role, name)
            self._bus = await connect(self._url, name=f"{role}-{name}", credentials=self._credentials or None)
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
        """Take part until cancelled; then say `Bye`.

        Raises `BusClosed` when the connection is closed for good, `NameTaken` where another process lives under the
        name, or holds its place in the state directory, `ConfigError` where that cannot be used.
        """
        if self._bus is None:
            kind = type(self).__name__
            who = kind.lower()
            raise ConfigError(f"enter the {who} first: async with fedbus.{kind}(...) as {who}: await {who}.run()")
        setup = self._setup
        if self._credentials:
            signing = await asyncio.to_thread(signing_of, self._credentials, setup.clock)
            setup = replace(setup, signing=signing)
        self._hub = Hub(setup, self._bus, self._newest)
        # a bus that somebody handed in is renewed by whoever made it
        credentials = self._credentials if isinstance(self._url, str) else None
        try:
            async with renewing(self._bus, credentials or None, setup.clock):
                await self._hub.run()
        finally:
            self._hub = None

    async def pause(self) -> None:
        """Do nothing and say nothing from now on, until `resume`; with a state directory also after a restart.

        What is being trained is given up, what is held stays here; `ConfigError` where the client is not running.
        """
        await self._do("pause")

    async def resume(self, session: str = "") -> None:
        """Go on; with a ``session``: take part again in one that was left."""
        await self._do("resume", session)

    async def leave(self, session: str = "") -> None:
        """Take no part in a session any more, and forget what was made for it; without one: in none, and `pause`."""
        await self._do("leave", session)

    async def withdraw(self, session: str) -> tuple[int, ...]:
        """Leave a session, and ask that what was sent for its open round be undone; returns the rounds asked for.

        What is part of a model that was published cannot be taken out of it.
        """
        done = await self._do("withdraw", session)
        return tuple(int(number) for number in done["rounds"])

    async def _do(self, what: str, session: str = "") -> dict[str, Any]:
        if self._hub is None:
            raise ConfigError(f"{what}: {self.name} is not running; {type(self).__name__.lower()}.run() does")
        return dict(await self._hub.heeding.wants.do(what, session))

    @property
    def cards(self) -> Mapping[str, Card]:
        """What is known of the sessions that it was asked for since it runs, by name."""
        return dict(self._hub.heeding.cards) if self._hub is not None else {}


class Client(_Party):
    """One client.

    ``url``: of the broker, or a connected `Bus`, which stays open when the client is left. ``name``: who it is, 1 to 64
    of ``A-Z a-z 0-9 _ -``, one client a name. ``credentials``: path of its credentials file; None takes what is
    known of that broker on this machine (`fedbus join`, `fedbus up`), '' none; beside a connected `Bus` they are what
    its updates are signed with. ``attributes``: texts that engineers can filter by. ``state_dir``: a directory in which
    an update is kept from the end of training until its round is closed, so that it survives this process; clients of
    several names may share one. ``policy``: what its owner allows (`fedbus.config.policy`), or the file that says so.
    ``on_card``: asked with the `Card` of a session before it takes part (also ``@app.consent``). ``outgoing_log``:
    where all that leaves is written down, with a ``state_dir`` by default ``outgoing.jsonl`` in it. ``proxy``: the HTTP
    proxy by which every address of ``url`` is reached, ``http://[user:password@]host:port`` or ``https://`` (only the
    command line looks at ``HTTPS_PROXY``). Raises `ConfigError` for a policy, a name, a proxy or an app that cannot be,
    `BusUnavailable` when it is entered and no broker answers at ``url``.
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
        state_dir: Path | str | None = None,
        state: State | None = None,
        policy: Policy | Path | str | None = None,
        on_card: OnCard | None = None,
        outgoing_log: Path | str | None = None,
        proxy: str | None = None,
    ) -> None:
        peer = Peer("client", check_name("client name", name))
        super().__init__(
            through(url, proxy),
            credentials,
            Setup(
                app=app,
                peer=peer,
                clients=(name,),
                workspace=check_name("workspace", workspace),
                attributes=_texts(attributes),
                clock=clock or SystemClock(),
                traces=traces or Telemetry("client", name),
                incarnation=incarnation or secrets.token_hex(8),
                workers=workers,
                crash=crash,
                state=_state(state_dir, state),
                wishes=_wishes(app, peer, state_dir, policy, on_card, outgoing_log),
            ),
        )


class Crowd(_Party):
    """Many virtual clients in one process: they share its connection, its threads and the model in its memory.

    To the federation each is a client like any other, ``<name>-<first>`` and so on, ``count`` of them (1 to 100,000);
    ``task.client`` tells the app for whom it is called. Plain functions of the app are called for one client after the
    other, in one thread; async functions for up to eight clients at once. Several crowds, in several processes, may
    hold one series of clients between them: same ``name``, each its own ``first``. Other arguments, and what is raised,
    as for `Client`.
    """

    def __init__(
        self,
        url: str | Bus,
        app: ClientApp,
        *,
        name: str,
        count: int,
        first: int = 0,
        credentials: str | None = None,
        attributes: Mapping[str, str] | None = None,
        workspace: str = "default",
        traces: Telemetry | None = None,
        clock: Clock | None = None,
        workers: Workers | None = None,
        incarnation: str | None = None,
        crash: Crash = never,
        state_dir: Path | str | None = None,
        state: State | None = None,
        policy: Policy | Path | str | None = None,
        on_card: OnCard | None = None,
        outgoing_log: Path | str | None = None,
        proxy: str | None = None,
    ) -> None:
        check_name("crowd name", name)
        if not 1 <= count <= MEMBERS_MAX:
            raise ConfigError(f"count: expected 1 to {MEMBERS_MAX} clients in a crowd, got {count}")
        if not 0 <= first <= FIRST_MAX:
            raise ConfigError(f"first: expected a number from 0 to {FIRST_MAX}, got {first}")
        crowd = crowd_name(name, first)
        clients = members_of(crowd, first, count)
        if not clients:
            check_name("name of the crowd's last client", f"{name}-{first + count - 1}")
        peer = Peer("crowd", check_name("crowd name", crowd))
        super().__init__(
            through(url, proxy),
            credentials,
            Setup(
                app=app,
                peer=peer,
                clients=tuple(clients),
                first=first,
                workspace=check_name("workspace", workspace),
                attributes=_texts(attributes),
                clock=clock or SystemClock(),
                traces=traces or Telemetry("client", crowd),
                incarnation=incarnation or secrets.token_hex(8),
                workers=workers,
                crash=crash,
                state=_state(state_dir, state),
                wishes=_wishes(app, peer, state_dir, policy, on_card, outgoing_log),
            ),
        )

    @property
    def clients(self) -> Sequence[str]:
        """The names of its clients, in order."""
        return self._setup.clients


def _state(path: Path | str | None, state: State | None) -> State | None:
    if path is None or state is not None:
        return state
    from fedbus.client.directory import Directory  # noqa: PLC0415 - it locks files as only Unix does

    return Directory(path)


def _wishes(
    app: ClientApp,
    peer: Peer,
    state_dir: Path | str | None,
    policy: Policy | Path | str | None,
    on_card: OnCard | None,
    outgoing_log: Path | str | None,
) -> Wishes:
    return Wishes(
        policy=Path(policy) if isinstance(policy, str) else policy,
        on_card=on_card or getattr(app, "on_card", None),  # what is no app is refused by who gets this
        directory=None if state_dir is None else Path(state_dir) / f"{peer.role}-{peer.name}",
        outgoing=None if outgoing_log is None else Path(outgoing_log),
    )


def _texts(attributes: Mapping[str, str] | None) -> dict[str, str]:
    return {str(key): str(value) for key, value in (attributes or {}).items()}
