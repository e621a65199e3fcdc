"""Readers of event streams, as programs are: they come again wherever a gateway is, behind the last event they have."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp


class Reader:
    """One reader; ``events``: what it was told, as (id, event); ``late_s``: from an event's time to its arrival."""

    def __init__(self, urls, path, last_id=""):
        self.urls = urls
        self.path = path
        self.last_id = last_id
        self.events = []
        self.late_s = []
        self.comes = 0
        self.resets = 0
        self.status = 0

    async def run(self):
        """Read until the stream says that nothing follows."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_read=60)) as http:
            while True:
                url = self.urls[self.comes % len(self.urls)]
                self.comes += 1
                try:
                    if await self._read(http, url):
                        return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)

    async def _read(self, http, url):
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        async with http.get(f"{url}{self.path}", headers=headers) as answer:
            self.status = answer.status
            if answer.status == 204:
                return True
            assert answer.status == 200, await answer.text()
            kind = data = ""
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "event":
                    kind = value
                elif name == "data":
                    data = value
                elif not line.strip() and kind:
                    if self._take(kind, json.loads(data)):
                        return True
                    kind = data = ""
        return False

    def _take(self, kind, data):
        if kind == "end":
            return True
        if kind == "reset":
            self.resets += 1
            self.events = []
        elif kind != "overview":
            self.events.append((data["id"], data))
            self.late_s.append(time.time() - data["at"])
        return False

    @property
    def ids(self):
        """The ids of what it was told."""
        return [id_ for id_, _ in self.events]
