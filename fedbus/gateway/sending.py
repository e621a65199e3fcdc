"""Sends a long answer piece by piece; whoever takes nothing for a while is cut off, and leaves its place to others."""

from __future__ import annotations

import asyncio

from aiohttp import web

from fedbus.bus.base import Payload

WRITE_S_MAX = 20.0
"""How long a piece may take onto the line; the system's buffers have been full for as long."""


async def send(request: web.Request, response: web.StreamResponse, data: Payload) -> None:
    """Write a piece of an answer; `ConnectionResetError` where it has gone that asked, or takes nothing."""
    try:
        async with asyncio.timeout(WRITE_S_MAX):
            await response.write(data)
    except TimeoutError as error:
        cut_off(request)  # at once: the end of the answer would wait for the same line
        raise ConnectionResetError(f"nothing was taken for {WRITE_S_MAX:g} s") from error


def cut_off(request: web.Request) -> None:
    """End the connection in the middle of an answer, so that nobody takes what came for all of it."""
    if request.transport is not None:
        request.transport.abort()
