"""`fedbus bench echo`: what a round costs when training costs nothing, and whether the result is right.

Broker, coordinator, combiners and clients are processes of their own; this one only asks and reads. Figures are taken
from where they arise: times from the journal, memory and processor time of the server side from /proc.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from fedbus.cli import echo, raw
from fedbus.cli.output import duration, print_json, size
from fedbus.cli.processes import Process, cpu_s, rss_peak_bytes
from fedbus.cli.progress import Progress, show
from fedbus.cli.roles import Place
from fedbus.cli.up import Up
from fedbus.config.session import SessionConfig
from fedbus.errors import FedbusError
from fedbus.federation.service import Federation, Session, SessionInfo, connect
from fedbus.tensors import CHUNK_BYTES

MB = 1e6

CLIENTS_S_MAX = 120.0
"""For all clients to come: a process with clients needs a second to import, and 20 ms for each of them."""

LOOK_S = 0.1

RAW_BYTES = (64_000_000, 2_000_000_000)
"""Least and most bytes of the raw measurement: a tenth of a second at least, and `raw.TIME_S_MAX` at most."""


class Bench:
    """One run of the benchmark."""

    def __init__(
        self, *, clients: int, model_mb: float, arrays: int, rounds: int, processes: int, combiners: int
    ) -> None:
        self._clients = clients
        self._model = echo.initial(model_mb, arrays)
        self._processes = processes
        self._combiners = combiners
        self._config = SessionConfig(
            rounds=rounds, clients_min=clients, quorum=clients, evaluate_every=0, round_attempts_max=1
        )
        self._asked = {"clients": clients, "model_mb": model_mb, "arrays": arrays, "combiners": combiners}

    async def run(self, *, json: bool) -> dict[str, Any]:
        """Run it; prints and returns the figures."""
        with tempfile.TemporaryDirectory(prefix="fedbus-bench-") as place:
            up = Up(Place(""), Path(place), combiners=self._combiners, log_level="error", quiet=True)
            async with up.running():
                figures = await self._measure(up, json=json)
        print_json(figures) if json else _print(figures)
        return figures

    async def _measure(self, up: Up, *, json: bool) -> dict[str, Any]:
        url, pids = up.place.url, up.supervisor.pids
        children = await self._start_clients(url)
        try:
            watch = [asyncio.create_task(child.wait()) for child in children]
            session_ended = asyncio.create_task(self._session(url, pids, json=json))
            done, _ = await asyncio.wait({*watch, session_ended}, return_when=asyncio.FIRST_COMPLETED)
            if session_ended not in done:
                session_ended.cancel()
                await asyncio.wait([session_ended])
                raise FedbusError("a process with clients ended before the session did: see its lines above")
            figures = session_ended.result()
        finally:
            await asyncio.gather(*(child.stop() for child in children))
        moved = (figures["bytes_up"] + figures["bytes_down"]) // self._config.rounds
        low, high = RAW_BYTES
        chunk_bytes = min(CHUNK_BYTES, max(1024, sum(array.nbytes for array in self._model.values())))
        raw_bytes_s = await raw.measure(url, min(high, max(low, moved)), chunk_bytes)
        figures["nats_raw_mb_s"] = raw_bytes_s / MB
        figures["ratio_to_raw"] = moved / figures["round_s_median"] / raw_bytes_s
        return figures

    async def _start_clients(self, url: str) -> list[Process]:
        children, first = [], 0
        for index in range(self._processes):
            count = (self._clients - first) // (self._processes - index)
            children.append(
                await Process.start([str(first), str(count)], env={"FEDBUS_URL": url}, module="fedbus.cli.echo")
            )
            first += count
        return children

    async def _session(self, url: str, pids: dict[str, int], *, json: bool) -> dict[str, Any]:
        async with connect(url) as federation:
            await self._everybody(federation)
            cpu_before = {name: cpu_s(pid) for name, pid in pids.items()}
            session = await federation.start_session(self._config, model=self._model, name="echo")
            progress = Progress(SessionInfo(session.name))
            if json:
                await _follow(session, progress)
            else:
                await show(federation, session, progress)
            result = await session.wait()
            rss = {name: rss_peak_bytes(pid) for name, pid in pids.items()}
            cpu = {name: cpu_s(pid) - cpu_before[name] for name, pid in pids.items()}
            final = await federation.models.get(result.model_version)
        info, rounds = progress.info, self._config.rounds
        error = await asyncio.to_thread(echo.error_max, self._model, final, self._clients, rounds)
        bound = echo.error_bound(self._model, self._clients, rounds, self._config.weight_max)
        round_s = [found.seconds for found in info.rounds]
        return {
            "correct": error <= bound and [r.counted for r in info.rounds] == [self._clients] * rounds,
            "error_max": error,
            "error_bound": bound,
            **self._asked,
            "processes": self._processes,
            "rounds": len(info.rounds),
            "round_s": round_s,
            "round_s_median": statistics.median(round_s[1:] or round_s),
            "server_rss_peak_mb": sum(value for name, value in rss.items() if name != "broker") / MB,
            "broker_rss_peak_mb": rss["broker"] / MB,
            "server_cpu_s": sum(cpu.values()),
            "server_cpu_s_by_role": cpu,
            "bytes_up": sum(r.bytes_up for r in info.rounds),
            "bytes_down": sum(r.bytes_down for r in info.rounds),
            "model_digest": result.digest,
        }

    async def _everybody(self, federation: Federation) -> None:
        """Wait until all clients are there, so that their start is in no figure."""
        end = time.monotonic() + CLIENTS_S_MAX
        while (there := len(await federation.clients())) < self._clients:
            if time.monotonic() > end:
                raise FedbusError(f"{there} of {self._clients} clients came within {CLIENTS_S_MAX:g} s")
            await asyncio.sleep(LOOK_S)


async def _follow(session: Session, progress: Progress) -> None:
    async for event in session.events():
        progress.take(event)


def _print(figures: dict[str, Any]) -> None:
    """Print what a person looks for; the rest is in the JSON."""
    print()
    verdict = "correct" if figures["correct"] else "WRONG"
    rows = (
        ("result", f"{verdict}: off by {figures['error_max']:.2g} at most, {figures['error_bound']:.2g} allowed"),
        ("round", f"{duration(figures['round_s_median'])} (median without the first)"),
        ("moved", f"{size(figures['bytes_up'])} up, {size(figures['bytes_down'])} down"),
        ("memory", f"{figures['server_rss_peak_mb']:.0f} MB coordinator and combiners"),
        ("", f"{figures['broker_rss_peak_mb']:.0f} MB broker"),
        ("processor", f"{figures['server_cpu_s']:.2f} s broker, coordinator and combiners"),
        ("raw", f"{figures['nats_raw_mb_s']:.0f} MB/s by plain publish and subscribe"),
        ("", f"{figures['ratio_to_raw']:.2f} of that is what a round moves"),
    )
    for name, text in rows:
        print(f"{name:10s} {text}")
