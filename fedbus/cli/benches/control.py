"""`fedbus bench control`: how quickly a gateway knows a long journal, what it holds of it, how soon its pages come.

A broker is given the journals of sessions that have ended, an entry an event; a coordinator leads. Then a gateway is
started: until it is ready it reads all of them. Each page is asked for one after the other over one connection, as a
person's browser does, at places spread over the whole list; the whole answer counts.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.embedded.child import die_with
from fedbus.bus.nats import connect
from fedbus.cli.benches import journals
from fedbus.cli.benches.meter import MB, Meter
from fedbus.cli.benches.report import Column, number, seconds
from fedbus.errors import BusUnavailable
from fedbus.messages.subjects import Subjects

READY_S_MAX = 600.0
PAGES_S_MAX = 60.0
"""Longest that one page may take before it is given up."""

POLL_S = 0.05

MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there
"""Where the broker keeps its files: the disk is not what is measured, and syncs each of a hundred thousand entries."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    sessions: int = 10_000
    requests: int = 50


async def run(case: Case) -> dict[str, Any]:
    """Run one case; returns its figures."""
    async with AsyncExitStack() as stack:
        where = str(MEMORY) if await asyncio.to_thread(MEMORY.is_dir) else None
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbus-control-", dir=where)))
        broker = await stack.enter_async_context(EmbeddedBroker(place / "broker"))
        bus = await stack.enter_async_context(await connect(broker.url, name="bench"))
        began = time.perf_counter()
        events = await journals.fill(bus, Subjects("default"), case.sessions)
        filled_s = time.perf_counter() - began
        await stack.enter_async_context(_role(place, "coordinator", broker.url))
        began = time.perf_counter()
        ready = place / "ready.json"
        options = ("--port", "0", "--rate", "0", "--ready-file", str(ready))
        process = await stack.enter_async_context(_role(place, "gateway", broker.url, *options))
        url = await _listens(process, ready)
        pages = _Pages(url)
        await asyncio.to_thread(pages.until_ready)
        ready_s = time.perf_counter() - began
        meter = Meter({"gateway": process.pid})
        after_reading = meter.rss_bytes()["gateway"]
        found = await asyncio.to_thread(pages.measure, case, lambda: meter.cpu_s()["gateway"])
        return {
            "correct": pages.correct and events == case.sessions * journals.EVENTS,
            "sessions": case.sessions,
            "events": events,
            "filled_s": filled_s,
            "ready_s": ready_s,
            "gateway_cpu_s": meter.cpu_s()["gateway"],
            "gateway_rss_mb": after_reading / MB,
            "gateway_rss_after_mb": meter.rss_bytes()["gateway"] / MB,
            "pages_ms": found,
            "slowest_p99_ms": max(one["p99"] for one in found.values()),
        }


@asynccontextmanager
async def _role(place: Path, role: str, url: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "fedbus", role, "--nats", url, "--log-level", "error", *options]
    with (place / f"{role}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with(os.getpid())
        )
    try:
        yield process
    except (BusUnavailable, OSError, http.client.HTTPException) as error:
        said = await asyncio.to_thread((place / f"{role}.log").read_text)
        raise BusUnavailable(f"{role}: {error}: {said[-500:] or 'it said nothing'}") from error
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listens(process: asyncio.subprocess.Process, ready: Path) -> str:
    """Return a gateway's address as soon as it has one."""
    async with asyncio.timeout(READY_S_MAX):
        while not await asyncio.to_thread(ready.exists):
            if process.returncode is not None:
                raise BusUnavailable(f"the gateway ended with code {process.returncode} before it was ready")
            await asyncio.sleep(POLL_S)
    return str(json.loads(await asyncio.to_thread(ready.read_bytes))["http_url"])


class _Pages:
    """Asks a gateway, and takes the time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PAGES_S_MAX)
        self.correct = True

    def until_ready(self) -> None:
        """Wait until the journal is read."""
        end = time.monotonic() + READY_S_MAX
        while self._status("/readyz") != http.client.OK:
            if time.monotonic() > end:
                raise BusUnavailable(f"the gateway was not ready within {READY_S_MAX:g} s")
            time.sleep(POLL_S)

    def measure(self, case: Case, cpu_s: Callable[[], float]) -> dict[str, dict[str, float]]:
        """Return of each page the median, the 99th percentile, and what it costs the gateway's CPU, in milliseconds."""
        spread = [case.sessions * index // case.requests for index in range(case.requests)]
        name = journals.session_name
        pages: dict[str, Callable[[int], str]] = {
            "overview": lambda _: "/overview",
            "list": lambda _: "/sessions",
            "list, page by page": self._turning("/sessions?limit=100"),
            "filter by status": lambda _: "/sessions?status=running",
            "filter by text": lambda at: f"/sessions?text={name(at)}",
            "filter by strategy": lambda _: "/sessions?strategy=fedadam",
            "session": lambda at: f"/sessions/{name(at)}",
            "rounds": lambda at: f"/sessions/{name(at)}/rounds",
            "round": lambda at: f"/sessions/{name(at)}/rounds/newest",
            "curves": lambda at: f"/sessions/{name(at)}/curves",
            "evaluations": lambda at: f"/sessions/{name(at)}/evaluations",
            "session's events": lambda at: f"/sessions/{name(at)}/events",
            "events": lambda _: "/events?order=newest",
            "events, page by page": self._turning("/events?limit=100"),
            "events of a kind": self._turning("/events?kind=RoundClosed"),
            "events with a text": lambda at: f"/events?text=site-{at % 997:03d}&order=newest&limit=20",
            "events since": lambda at: f"/events?since={journals.BEGAN_AT + 10.0 * at}",
            "compare": lambda at: f"/compare?session={name(at)}&session={name((at + 1) % case.sessions)}",
            "clients": lambda _: "/clients",
            "client": lambda at: f"/clients/site-{at % 997:03d}",
        }
        return {what: self._times(page, spread, cpu_s) for what, page in pages.items()}

    def _times(self, page: Callable[[int], str], spread: list[int], cpu_s: Callable[[], float]) -> dict[str, float]:
        times: list[float] = []
        before = cpu_s()
        for at in spread:
            path = page(at)
            began = time.perf_counter()
            self._get(path)
            times.append(1000 * (time.perf_counter() - began))
        used_ms = 1000 * (cpu_s() - before) / len(times)
        times.sort()
        p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
        return {"p50": statistics.median(times), "p99": p99, "cpu": used_ms}

    def _turning(self, path: str) -> Callable[[int], str]:
        """Return a list whose next page is asked for each time."""
        last = ""

        def page(_: int) -> str:
            nonlocal last
            cursor = (self._answer or {}).get("next") if last else None
            last = f"{path}&cursor={cursor}" if cursor else path
            return last

        return page

    _answer: Any = None

    def _get(self, path: str) -> None:
        self._line.request("GET", f"/api/v1{path}", headers={"Accept": "application/json"})
        answer = self._line.getresponse()
        body = answer.read()
        self._answer = json.loads(body)
        self.correct = self.correct and answer.status == http.client.OK

    def _status(self, path: str) -> int:
        self._line.request("GET", path)
        answer = self._line.getresponse()
        answer.read()
        return answer.status


COLUMNS = (
    Column("sessions, events", lambda run: f"{run['sessions']:,}, {run['events']:,}"),
    Column("result", lambda run: "correct" if run["correct"] else "WRONG"),
    Column("ready", lambda run: seconds(run["ready_s"])),
    Column("its CPU", lambda run: seconds(run["gateway_cpu_s"])),
    Column("its memory, MB", lambda run: number(run["gateway_rss_mb"])),
    Column("slowest p99, ms", lambda run: number(run["slowest_p99_ms"])),
    Column(
        "pages p50/p99/CPU, ms",
        lambda run: "; ".join(
            f"{what} {number(one['p50'])}/{number(one['p99'])}/{number(one['cpu'])}"
            for what, one in run["pages_ms"].items()
        ),
    ),
)
