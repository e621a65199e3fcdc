"""`fedbus bench transfer`: the ways of a round apart: model down to all clients, updates up, new model out.

Real rounds by real roles, in which clients wait at two gates (`fedbus.cli.benches.gates`): when the last has the model,
and when the last has its update. So each way has the machine for itself:

    RoundOpened --download--> all fetched | (training) | sent off --upload--> all accepted --publish--> ModelPublished

Beside them, in the same run, plain publish and subscribe over the same broker and a plain TCP connection.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedbus.cli.benches import case as cases
from fedbus.cli.benches import expectation, raw, tcp
from fedbus.cli.benches.gates import Keeper
from fedbus.cli.benches.meter import GB, MB, Meter, by_role, difference
from fedbus.cli.benches.observer import check
from fedbus.cli.benches.report import Column, Figures, number, roles_text
from fedbus.cli.benches.rig import Cast, Rig, rig
from fedbus.cli.benches.rounds import Round, Rounds
from fedbus.errors import FedbusError
from fedbus.federation.service import Session
from fedbus.tensors import CHUNK_BYTES

SETTLE_S = 0.2
"""Between training and sending: what the roles still do of the way down is over by then."""

DEADLINE_S = 3600.0

FIRST = 1
"""Number of the first client: one client alone has to change the model too, or there is nothing to fetch."""

WAYS = ("download", "upload", "publish")


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    clients: int = 1
    model_mb: float = 45.0
    arrays: int = 62
    rounds: int = 4
    processes: int | None = None

    @property
    def cast(self) -> Cast:
        """Who takes part: clients with connections of their own, for each has to be held."""
        return Cast(self.clients, min(self.processes or 2, self.clients), held=True, first=FIRST)


@dataclass(slots=True)
class Way:
    """One way in one round: how long, how many bytes, the processor time of each process."""

    seconds: float
    nbytes: int
    cpu_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, in seconds since the epoch, and the processor time of each process at it."""

    at: float
    cpu_s: dict[str, float] = field(repr=False)

    def way_to(self, end: Mark, nbytes: int) -> Way:
        """Return what happened between two marks."""
        return Way(max(end.at - self.at, 1e-9), nbytes, difference(self.cpu_s, end.cpu_s))


class Journal:
    """Follows a session; marks the moments of each round as they come."""

    def __init__(self, meter: Meter, clients: int) -> None:
        self.rounds = Rounds()
        self._marks: dict[tuple[int, str], asyncio.Future[Mark]] = {}
        self._meter = meter
        self._clients = clients

    async def follow(self, session: Session) -> None:
        """Follow to the session's end; then nothing more is waited for."""
        async for event in session.events():
            found = self.rounds.take(event) or self.rounds.open
            if found is not None:
                for what in _reached(found, self._clients):
                    mark = self._mark(found.round, what)
                    if not mark.done():
                        mark.set_result(Mark(event.at, self._meter.cpu_s()))
        for mark in self._marks.values():
            mark.cancel()

    def _mark(self, round_: int, what: str) -> asyncio.Future[Mark]:
        return self._marks.setdefault((round_, what), asyncio.get_running_loop().create_future())

    async def mark(self, round_: int, what: str) -> Mark:
        """Wait for a moment: ``opened``, ``accepted`` (the last update), ``published`` or ``closed``."""
        mark = self._mark(round_, what)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([mark])
        if mark.cancelled():
            raise FedbusError(f"the session ended before round {round_} was {what}")
        return mark.result()


def _reached(found: Round, clients: int) -> Iterable[str]:
    yield "opened"
    if found.accepted >= clients:
        yield "accepted"
    if found.published_at:
        yield "published"
    if found.closed_at:
        yield "closed"


async def run(case: Case) -> dict[str, Any]:
    """Run one case; returns its figures."""
    model = expectation.initial(case.model_mb, case.arrays)
    model_bytes = sum(array.nbytes for array in model.values())
    nbytes = raw.run_bytes(case.clients * model_bytes)
    chunk_bytes = min(CHUNK_BYTES, max(1024, model_bytes))

    async with rig(case.cast) as running:
        await running.start_clients()

        async def ceilings() -> tuple[list[float], list[float]]:
            return await raw.measure(running.url, nbytes, chunk_bytes), await tcp.measure(nbytes, chunk_bytes, raw.RUNS)

        before = await ceilings()
        correct, ways = await running.guard(_session(running, case, model, model_bytes))
        peaks = running.meter.rss_peak_bytes()
        after = await ceilings()
    raw_bytes_s, tcp_bytes_s = (statistics.median([*b, *a]) for b, a in zip(before, after, strict=True))
    figures: dict[str, Any] = {
        "correct": correct,
        "clients": case.clients,
        "model_mb": case.model_mb,
        "arrays": case.arrays,
        "rounds": case.rounds,
        "processes": case.cast.processes,
        "nats_raw_mb_s": raw_bytes_s / MB,
        "tcp_mb_s": tcp_bytes_s / MB,
        "broker_rss_peak_mb": peaks["broker"] / MB,
        "peak_mb_by_role": {name: value / MB for name, value in by_role(peaks).items()},
    }
    for name in WAYS:
        figures |= _figures(name, [found[name] for found in ways], raw_bytes_s, tcp_bytes_s)
    return figures


def _figures(name: str, ways: list[Way], raw_bytes_s: float, tcp_bytes_s: float) -> dict[str, Any]:
    rate = statistics.median(way.nbytes / way.seconds for way in ways)
    moved_gb = sum(way.nbytes for way in ways) / GB
    cpu: dict[str, float] = {}
    for way in ways:
        for role, value in by_role(way.cpu_s).items():
            cpu[role] = cpu.get(role, 0.0) + value
    return {
        f"{name}_s": [way.seconds for way in ways],
        f"{name}_mb_s": rate / MB,
        f"{name}_to_raw": rate / raw_bytes_s,
        f"{name}_to_tcp": rate / tcp_bytes_s,
        f"{name}_cpu_s_per_gb": {role: value / moved_gb for role, value in cpu.items()},
    }


async def _session(
    running: Rig, case: Case, model: expectation.Arrays, model_bytes: int
) -> tuple[bool, list[dict[str, Way]]]:
    """Run the rounds; returns whether the result is right, and the ways of all rounds but the first."""
    session_case = cases.Case(case.clients, case.model_mb, case.arrays, case.rounds, first=FIRST)
    journal = Journal(running.meter, case.clients)
    async with Keeper.on(running.federation.bus) as keeper:
        session = await running.federation.start_session(session_case.config(model), model=model, name="transfer")
        following = asyncio.create_task(journal.follow(session))
        try:
            marks = [await _round(running.meter, keeper, journal, number, case.clients) for number in _numbers(case)]
            await following
        finally:
            following.cancel()
            await asyncio.wait([following])
    checked = await check(running, session_case, model, await session.wait(), journal.rounds)
    ways = [_ways(found, closed, model_bytes) for found, closed in zip(marks, journal.rounds.closed, strict=True)]
    return checked["correct"], ways[1:] or ways


def _numbers(case: Case) -> range:
    return range(1, case.rounds + 1)


async def _round(meter: Meter, keeper: Keeper, journal: Journal, number: int, clients: int) -> dict[str, Mark]:
    """Hold and let go the clients of a round; returns its moments."""
    marks = {"opened": await journal.mark(number, "opened")}
    fetched, trained = f"{number}-fetched", f"{number}-trained"
    await keeper.all_at(fetched, clients, DEADLINE_S)
    marks["fetched"] = Mark(time.time(), meter.cpu_s())
    await keeper.open(fetched)
    await keeper.all_at(trained, clients, DEADLINE_S)
    await asyncio.sleep(SETTLE_S)
    marks["sent"] = Mark(time.time(), meter.cpu_s())
    await keeper.open(trained)
    for what in ("accepted", "published", "closed"):
        marks[what] = await journal.mark(number, what)
    return marks


def _ways(marks: Mapping[str, Mark], closed: Round, model_bytes: int) -> dict[str, Way]:
    return {
        "download": marks["opened"].way_to(marks["fetched"], closed.bytes_down),
        "upload": marks["sent"].way_to(marks["accepted"], closed.bytes_up),
        "publish": marks["accepted"].way_to(marks["published"], model_bytes),
    }


def _columns(name: str) -> tuple[Column, ...]:
    def rate(run: Figures) -> str:
        return f"{number(run[f'{name}_mb_s'])} ({run[f'{name}_to_raw']:.2f}, {run[f'{name}_to_tcp']:.2f})"

    return (
        Column(f"{name} MB/s (of raw, of TCP)", rate),
        Column(f"{name} CPU-s/GB", lambda run: roles_text(run[f"{name}_cpu_s_per_gb"])),
    )


COLUMNS = (
    Column("clients x model", lambda run: f"{run['clients']} x {number(run['model_mb'])} MB"),
    Column("result", lambda run: "correct" if run["correct"] else "WRONG"),
    Column("raw MB/s", lambda run: number(run["nats_raw_mb_s"])),
    Column("TCP MB/s", lambda run: number(run["tcp_mb_s"])),
    *(column for name in WAYS for column in _columns(name)),
    Column("broker peak MB", lambda run: number(run["broker_rss_peak_mb"])),
)
