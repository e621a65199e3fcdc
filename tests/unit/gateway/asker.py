"""Asks a gateway in memory, without a socket: over the memory bus and in virtual time, all that HTTP would do is done.

async def scene():
    async with gateway_in(House()) as gateway:
        answer = await ask(gateway, "GET", "/api/v1/sessions?limit=2")
        assert answer.status == 200 and answer.json["items"] == []

run_virtual(scene())
"""

from __future__ import annotations

import asyncio
import json as json_of
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from aiohttp import streams
from aiohttp.test_utils import make_mocked_request
from whole_house import House

from fedbus.bus.memory import MemoryBus
from fedbus.gateway.listening import Listening
from fedbus.gateway.service import Gateway
from fedbus.store.streams import ensure_streams
from fedbus.workers import Inline


class _Writer:
    """What aiohttp writes an answer to."""

    def __init__(self):
        self.data = bytearray()
        self.output_size = self.length = 0
        self.transport = mock.Mock()

    async def write(self, chunk):
        self.data += chunk

    async def write_eof(self, chunk=b""):
        self.data += chunk

    async def write_headers(self, status_line, headers):
        pass

    def send_headers(self):
        pass

    async def drain(self):
        pass

    def enable_chunking(self):
        pass

    def enable_compression(self, *_):
        pass


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self):
        """The body."""
        return json_of.loads(self.body)


async def ask(gateway, method, target, *, json=None, body=b"", headers=None, remote="127.0.0.1"):
    """Ask a gateway; ``json`` or ``body`` is sent where there is one."""
    found = {"Host": "localhost:8080", **(headers or {})}
    data = json_of.dumps(json).encode() if json is not None else body
    if json is not None:
        found.setdefault("Content-Type", "application/json")
    if data:
        found["Content-Length"] = str(len(data))
    payload = streams.StreamReader(mock.Mock(_reading_paused=False), 2**30, loop=asyncio.get_running_loop())
    payload.feed_data(data)
    payload.feed_eof()
    writer = _Writer()
    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: (remote, 1) if name == "peername" else default
    request = make_mocked_request(
        method,
        target,
        headers=found,
        payload=payload if data else streams.EMPTY_PAYLOAD,
        writer=writer,
        transport=transport,
        app=gateway.app,
        client_max_size=gateway.listening.body_bytes_max,
    )
    gateway.app.freeze()
    response = await gateway.app._handle(request)
    await response.prepare(request)
    await response.write_eof()
    return Answer(response.status, response.headers, bytes(writer.data))


def make_gateway(
    house: House, name="gw", incarnation="", credentials=None, oidc=None, workspace="default", **listening
):
    """Make a gateway on the broker of a house; settings as in `Listening`; nothing of it runs yet.

    With ``credentials`` it is secured: whoever asks has to say who she is.
    """
    return Gateway(
        MemoryBus(house.broker, name),
        name=name,
        incarnation=incarnation or f"{name}-1",
        workspace=workspace,
        clock=house.clock,
        workers=Inline(),
        listening=Listening(**{"rate_per_s": 0.0} | listening),
        credentials=credentials,
        oidc=oidc,
    )


@asynccontextmanager
async def gateway_in(house: House, name="gw", **listening):
    """A gateway on the broker of a house that is there as a role is, but listens on no port."""
    gateway = make_gateway(house, name, **listening)
    async with gateway.federation:
        await ensure_streams(gateway.federation.bus, gateway.federation.subjects)
        parts = [house.live(part) for part in gateway._parts()]
        try:
            await asyncio.sleep(0.1)  # of virtual time: for the parts to read what is there
            yield gateway
        finally:
            for part in parts:
                await house.dismiss(part)
