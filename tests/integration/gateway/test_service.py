"""A gateway over a real broker: it serves, is seen, drains, and several of them do no harm."""

from __future__ import annotations

import aiohttp


async def test_a_gateway_serves(house):
    """A gateway on a free port answers over HTTP."""
    url = await house.gateway()
    async with aiohttp.ClientSession(url) as http, http.get("/healthz") as answer:
        assert answer.status == 200
        assert (await answer.json())["status"] == "ok"
