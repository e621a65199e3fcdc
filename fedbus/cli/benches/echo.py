"""`fedbus bench echo`: what a round costs when training costs nothing, and whether the result is right.

Broker, coordinator, combiners and clients are processes of their own; this one only asks and reads. Figures are taken
from where they arise: times from the journal, memory and processor time from /proc. What the broker carries at best is
measured before the session and after it, over the same broker and with the same processes standing by.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedbus.cli.benches import expectation, raw
from fedbus.cli.benches.meter import GB, MB, Memory, Meter, by_role, difference, of_server
from fedbus.cli.benches.report import Column, Figures, number, roles_text, seconds
from fedbus.cli.benches.rig import REAL_CLIENTS_MAX, Cast, Rig, rig
from fedbus.cli.benches.rounds import Round, Rounds
from fedbus.cli.progress import Progress, show
from fedbus.config.session import SessionConfig
from fedbus.federation.service import Session, SessionInfo, SessionResult
from fedbus.tensors import CHUNK_BYTES

SAMPLE_S = 0.1
"""Memory is read at the end of a round, but not more often: 100 rounds a second are not to be slowed down by it."""

VALUE_FLOOR: float = SessionConfig.model_fields["value_floor"].default

DEADLINE_S = 86_400.0
"""Of rounds and closes: how long a model takes is what is measured, whatever its size."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run: how many clients, how large a model, spread over what. ``crowd`` None: above `REAL_CLIENTS_MAX`."""

    clients: int = 10
    model_mb: float = 45.0
    arrays: int = 62
    rounds: int = 5
    combiners: int = 1
    sharding: Literal["clients", "chunks"] = "clients"
    processes: int | None = None
    crowd: bool | None = None
    workload: str = ""

    @property
    def cast(self) -> Cast:
        """Who takes part."""
        crowd = self.clients > REAL_CLIENTS_MAX if self.crowd is None else self.crowd
        return Cast(self.clients, min(self.processes or 2, self.clients), self.combiners, crowd)

    def config(self, model: expectation.Arrays) -> SessionConfig:
        """The session: every round waits for every client, nothing is evaluated, and no honest number is too large."""
        value_max = expectation.value_max(model, self.clients, self.rounds)
        return SessionConfig(
            value_floor=max(VALUE_FLOOR, 2.0 ** math.ceil(math.log2(value_max))),
            rounds=self.rounds,
            clients_min=self.clients,
            quorum=self.clients,
            evaluate_every=0,
            round_attempts_max=1,
            round_deadline_s=DEADLINE_S,
            close_deadline_s=DEADLINE_S,
            sharding=self.sharding,
        )


WORKLOADS = {
    "W1": Case(10, 45.0, 62),
    "W2": Case(4, 400.0, 100),
    "W3": Case(100, 1.0, 20),
    "W4": Case(1000, 0.1, 10),
}
"""The work that the page compares with others by."""


async def run(case: Case, *, quiet: bool) -> dict[str, Any]:
    """Run one case; returns its figures. ``quiet``: without a word about rounds while they run."""
    model = expectation.initial(case.model_mb, case.arrays)
    model_bytes = sum(array.nbytes for array in model.values())
    chunk_bytes = min(CHUNK_BYTES, max(1024, model_bytes))
    nbytes = raw.run_bytes(2 * case.clients * model_bytes)
    async with rig(case.cast) as running:
        await running.start_clients()
        before = await raw.measure(running.url, nbytes, chunk_bytes)
        figures = await running.guard(_session(running, case, model, quiet=quiet))
        after = await raw.measure(running.url, nbytes, chunk_bytes)
    raw_bytes_s = statistics.median([*before, *after])
    return figures | {
        "raw_mb_s_before": [rate / MB for rate in before],
        "raw_mb_s_after": [rate / MB for rate in after],
        "nats_raw_mb_s": raw_bytes_s / MB,
        "ratio_to_raw": figures["moved_mb_s"] * MB / raw_bytes_s,
    }


class Observer:
    """Follows a session and reads the meter as it goes: when the first round is over, and memory at the end of each."""

    def __init__(self, meter: Meter) -> None:
        self.rounds = Rounds()
        self.memory = Memory()
        self._meter = meter
        self._begin = self._steady = self._end = meter.cpu_s()
        self._sampled = 0.0

    async def follow(self, session: Session) -> None:
        """Follow to the session's end."""
        async for event in session.events():
            closed = self.rounds.take(event)
            if closed is not None:
                self._read(closed)
        self._end = self._meter.cpu_s()

    def _read(self, closed: Round) -> None:
        if closed is self.rounds.closed[0]:
            self._steady = self._meter.cpu_s()
        if time.monotonic() - self._sampled >= SAMPLE_S:
            self.memory.take(self._meter.rss_bytes())
            self._sampled = time.monotonic()

    def cpu_s(self) -> dict[str, float]:
        """Processor time of each process in the session."""
        return difference(self._begin, self._end)

    def steady_cpu_s(self) -> dict[str, float]:
        """Processor time of each process in the rounds after the first; of all where there is but one."""
        return difference(self._steady if len(self.rounds.closed) > 1 else self._begin, self._end)


async def observed(running: Rig, case: Case, model: expectation.Arrays, *, quiet: bool) -> tuple[Figures, Observer]:
    """Run a session to its end; returns whether it is right and by how much it is off, and what was observed."""
    federation = running.federation
    observer = Observer(running.meter)
    session = await federation.start_session(case.config(model), model=model, name="echo")
    following = asyncio.create_task(observer.follow(session))
    try:
        if not quiet:
            await show(federation, session, Progress(SessionInfo(session.name)))
        await following
    finally:
        following.cancel()
        await asyncio.wait([following])
    result = await session.wait()
    return await check(running, case, model, result, observer.rounds), observer


async def check(
    running: Rig, case: Case, model: expectation.Arrays, result: SessionResult, rounds: Rounds
) -> dict[str, Any]:
    """Fetch the last model; returns whether it is what it must be, and by how much it is off."""
    final = await running.federation.models.get(result.model_version)
    error = await asyncio.to_thread(expectation.error_max, model, final, case.clients, case.rounds)
    bound = expectation.error_bound(model, case.clients, case.rounds, case.config(model).weight_max)
    all_counted = [found.counted for found in rounds.closed] == [case.clients] * case.rounds
    return {
        "correct": error <= bound and all_counted,
        "error_max": error,
        "error_bound": bound,
        "model_digest": result.digest,
    }


async def _session(running: Rig, case: Case, model: expectation.Arrays, *, quiet: bool) -> dict[str, Any]:
    checked, observer = await observed(running, case, model, quiet=quiet)
    cpu, steady_cpu, peaks = observer.cpu_s(), observer.steady_cpu_s(), running.meter.rss_peak_bytes()
    return {
        **checked,
        **asdict(case),
        "crowd": case.cast.crowd,
        "processes": case.cast.processes,
        **_times(observer.rounds),
        **_memory(observer.memory, peaks),
        **_cpu(cpu, steady_cpu, sum(found.bytes_moved for found in observer.rounds.steady)),
    }


def _times(rounds: Rounds) -> dict[str, Any]:
    closed, steady = rounds.closed, rounds.steady
    return {
        "rounds": len(closed),
        "round_s": [found.seconds for found in closed],
        "round_s_median": rounds.median_s,
        "rounds_per_s": rounds.per_s,
        "publish_s": [found.publish_s for found in closed],
        "publish_s_median": rounds.publish_median_s,
        "publish_share": rounds.publish_median_s / max(rounds.median_s, 1e-9),
        "bytes_up": sum(found.bytes_up for found in closed),
        "bytes_down": sum(found.bytes_down for found in closed),
        "moved_mb_s": statistics.median(found.bytes_moved / max(found.seconds, 1e-9) for found in steady) / MB,
    }


def _memory(memory: Memory, peaks: Mapping[str, float]) -> dict[str, Any]:
    return {
        "server_rss_peak_mb": sum(of_server({n: v}) for n, v in peaks.items() if n != "broker") / MB,
        "broker_rss_peak_mb": peaks["broker"] / MB,
        "server_peak_mb": of_server(peaks) / MB,
        "peak_mb_by_role": _scaled(by_role(peaks), MB),
        "rss_first_mb": of_server(memory.first) / MB,
        "rss_last_mb": of_server(memory.last) / MB,
        "rss_first_mb_by_role": _scaled(by_role(memory.first), MB),
        "rss_last_mb_by_role": _scaled(by_role(memory.last), MB),
    }


def _cpu(cpu: Mapping[str, float], steady: Mapping[str, float], steady_bytes: int) -> dict[str, Any]:
    moved_gb = max(steady_bytes, 1) / GB
    return {
        "server_cpu_s": of_server(cpu),
        "server_cpu_s_by_role": {n: v for n, v in cpu.items() if of_server({n: 1.0})},
        "server_cpu_s_per_gb": of_server(steady) / moved_gb,
        "cpu_s_per_gb_by_role": _scaled(by_role(steady), moved_gb),
    }


def _scaled(values: Mapping[str, float], unit: float) -> dict[str, float]:
    return {name: value / unit for name, value in values.items()}


def result_text(run: Figures) -> str:
    """Say whether the model is what the clients must come to."""
    return "correct" if run["correct"] else f"WRONG by {run['error_max']:.2g}, {run['error_bound']:.2g} allowed"


def work_text(run: Figures) -> str:
    """Say what was done: ``W1 10 x 45 MB / 62``."""
    return f"{run['workload']} {run['clients']:,} x {number(run['model_mb'])} MB / {run['arrays']}".strip()


def spread_text(run: Figures) -> str:
    """Say over what it was spread."""
    by = f" by {run['sharding']}" if run["combiners"] > 1 else ""
    clients = "crowds" if run["crowd"] else "connections of their own"
    return f"{run['combiners']}{by}, {clients}"


COLUMNS = (
    Column("clients x model / arrays", work_text),
    Column("combiners, clients", spread_text),
    Column("result", result_text),
    Column("round", lambda run: seconds(run["round_s_median"])),
    Column("rounds/s", lambda run: number(run["rounds_per_s"])),
    Column("moved MB/s", lambda run: number(run["moved_mb_s"])),
    Column("raw MB/s", lambda run: number(run["nats_raw_mb_s"])),
    Column("ratio", lambda run: f"{run['ratio_to_raw']:.2f}"),
    Column("server CPU-s/GB", lambda run: number(run["server_cpu_s_per_gb"])),
    Column("CPU-s/GB by role", lambda run: roles_text(run["cpu_s_per_gb_by_role"])),
    Column("server peak MB", lambda run: number(run["server_peak_mb"])),
    Column("peak MB by role", lambda run: roles_text(run["peak_mb_by_role"])),
    Column("memory first, last MB", lambda run: f"{number(run['rss_first_mb'])}, {number(run['rss_last_mb'])}"),
    Column("to publish", lambda run: f"{seconds(run['publish_s_median'])} ({run['publish_share']:.0%})"),
)
