"""Says to a client that runs on this machine what its owner wants: one line of JSON to a socket, one line back.

The socket stands in the client's state directory (0700), is itself 0600, and is there while the client runs. A request
is ``{"do": "pause"}``, an answer ``{"done": ...}`` or ``{"error": ...}``. Who may write there is the user whose client
it is, and nobody else; nothing listens on the network.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedbus.errors import ConfigError, FedbusError

log = logging.getLogger("fedbus.client")

NAME = "control"

LINE_BYTES_MAX = 4096
"""Longest request: a word and a session's name."""

REQUEST_S = 10.0
"""How long a request may take: stopping what is sent, and a few words to the bus."""

PATH_BYTES_MAX = 100
"""Longest path that a socket's address holds everywhere; longer ones are named by their directory's descriptor."""

Do = Callable[[str, str], Awaitable[Mapping[str, Any]]]
"""What does what is wanted (`pause`, ...) with a session; raises `FedbusError`."""


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    path = directory / NAME
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{place}/{NAME}"
    finally:
        os.close(place)


@asynccontextmanager
async def listening(directory: Path, do: Do) -> AsyncIterator[None]:
    """Take requests while the context lasts.

    Where there can be no socket (some network file systems have none) the log says so, and the client's own methods are
    all there is.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                writer.write(json.dumps(await _answer(reader, do)).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError) as error:
            log.debug("a request was given up: %s", error)
        finally:
            writer.close()

    path = directory / NAME
    try:
        path.unlink(missing_ok=True)  # of a process that was killed: who has the directory's lock is alone
        with _address(directory) as address:
            server = await asyncio.start_unix_server(serve, address, limit=LINE_BYTES_MAX)
            path.chmod(0o600)
    except OSError as error:
        log.warning("%s: %s: fedbus client pause, leave and withdraw cannot reach it", path, error.strerror or error)
        yield
        return
    try:
        yield
    finally:
        server.close()
        with suppress(OSError):
            path.unlink()


async def _answer(reader: asyncio.StreamReader, do: Do) -> dict[str, Any]:
    try:
        asked = json.loads(await reader.readline())
        return {"done": dict(await do(str(asked["do"]), str(asked.get("session", ""))))}
    except FedbusError as error:
        return {"error": str(error)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {"error": f'expected a line as {{"do": "pause"}}: {error}'}


async def ask(directory: Path, what: str, session: str = "") -> dict[str, Any]:
    """Say it to the client of a state directory; returns what was done. Raises `ConfigError` where none runs there."""
    try:
        async with asyncio.timeout(REQUEST_S):
            with _address(directory) as address:
                reader, writer = await asyncio.open_unix_connection(address)
            try:
                writer.write(json.dumps({"do": what, "session": session}).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ConfigError(
            f"{directory}: no client that runs answers there ({error}); is it the --state-dir of one, and its --name?"
        ) from error
    if "error" in answer:
        raise ConfigError(str(answer["error"]))
    return dict(answer["done"])
