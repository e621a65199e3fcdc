"""The brokers that `fedbus up` starts: one, or the nodes of a cluster, each with a store below the data directory.

Which of them a store belongs to shows in what lies in it. A run that would not see the streams of an earlier one is
refused with what to do: it would begin anew beside them, and nobody would know why everything is gone.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from fedbus.bus.embedded import BrokerSecurity, BrokerSettings, EmbeddedBroker
from fedbus.cli.encrypting import LOOPBACK, Encryption
from fedbus.errors import ConfigError

LOOK_S = 0.1

OPEN_ACCOUNT = "$G"
"""To whom streams belong where nats-server asks nobody who he is."""


class KeptBroker:
    """The embedded broker as something to keep alive; its port and store stay over its lives."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    async def start(self) -> KeptBroker:
        """Start it."""
        await self._broker.start()
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._broker.pid

    async def wait(self) -> str:
        """Wait for its end; returns where it is told about."""
        while self._broker.running:  # noqa: ASYNC110 - as in the broker: no event tells of its end
            await asyncio.sleep(LOOK_S)
        return "see broker.log in its store"

    async def stop(self) -> None:
        """End it; idempotent."""
        await self._broker.stop()


def embedded(
    data_dir: Path,
    count: int,
    port: int,
    security: Callable[[], BrokerSecurity] | None = None,
    encryption: Encryption | None = None,
) -> dict[str, EmbeddedBroker]:
    """Return one embedded broker, or the nodes of a cluster of them, by name; none is started.

    A cluster does not find the streams that a single broker has kept, nor the other way round; nor does a secured one
    those of an open one, whose streams belong to no account: `ConfigError`.
    """
    for name in ("broker", "broker-1"):
        _check_access(data_dir / name, secured=security is not None)
    if count == 1:
        _check_kept(data_dir / "broker-1", "--brokers 3 (or 5)")
        settings = _encrypted(BrokerSettings(), encryption)
        host = LOOPBACK if encryption is None else encryption.listen
        return {
            "broker": EmbeddedBroker(data_dir / "broker", host=host, port=port, settings=settings, security=security)
        }
    _check_kept(data_dir / "broker", "--brokers 1")
    if count % 2 == 0:
        raise ConfigError(f"--brokers {count}: 1, 3 or 5, for more than half must live")
    routes = [f"127.0.0.1:{free}" for free in _free_ports(count)]
    return {
        name: EmbeddedBroker(
            data_dir / name,
            port=port and port + index,
            host=LOOPBACK if encryption is None else encryption.listen,
            settings=_encrypted(
                BrokerSettings(name=name, cluster_name="fedbus", cluster_listen=routes[index], routes=tuple(routes)),
                encryption,
                index,
            ),
            security=security,
        )
        for index, name in enumerate(f"broker-{index + 1}" for index in range(count))
    }


def _encrypted(settings: BrokerSettings, encryption: Encryption | None, index: int = 0) -> BrokerSettings:
    return settings if encryption is None else encryption.broker(settings, index)


def _check_access(store: Path, *, secured: bool) -> None:
    """Raise `ConfigError` where streams are kept that this run would not see, though nothing of them is lost."""
    accounts = store / "jetstream"
    names = {one.name for one in accounts.iterdir() if (one / "streams").is_dir()} if accounts.is_dir() else set()
    if secured and OPEN_ACCOUNT in names:
        raise ConfigError(
            f"{store} holds the streams of an open run, which a secured broker does not show: go on with --open, or "
            "take it along: `fedbus backup DIR` there, `fedbus restore DIR --from-open` here, over another --data-dir"
        )
    if not secured and any(re.fullmatch("A[A-Z2-7]{55}", name) for name in names):
        raise ConfigError(
            f"{store} holds the streams of a secured run, which an open broker does not show: leave --open away, or "
            "take another --data-dir"
        )


def _check_kept(store: Path, option: str) -> None:
    if (store / "jetstream").exists():
        raise ConfigError(
            f"{store} holds the streams of an earlier run with {option}: do so again, or take another dir"
        )


def _free_ports(count: int) -> list[int]:
    # nodes have to know each other's ports before they start; between here and there somebody else could take one,
    # in which case the start fails and says so
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]
