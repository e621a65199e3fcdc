"""`fedbus bench echo`: what a round costs when training costs nothing, and whether the result is right.

Broker, coordinator, combiners and clients are processes of their own; this one only asks and reads. Figures are taken
from where they arise: times from the journal, memory and processor time from /proc. What the broker carries at best is
measured before the session and after it, over the same broker and with the same processes standing by.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fedbus.cli.benches import expectation, raw
from fedbus.cli.benches.case import Case
from fedbus.cli.benches.meter import GB, MB, Memory, by_role, of_server
from fedbus.cli.benches.observer import observed
from fedbus.cli.benches.report import Column, Figures, number, roles_text, seconds
from fedbus.cli.benches.rig import Rig, rig
from fedbus.cli.benches.rounds import Rounds
from fedbus.tensors import CHUNK_BYTES


async def run(case: Case, *, quiet: bool) -> dict[str, Any]:
    """Run one case; returns its figures. ``quiet``: without a word about rounds while they run."""
    model = expectation.initial(case.model_mb, case.arrays)
    model_bytes = sum(array.nbytes for array in model.values())
    chunk_bytes = min(CHUNK_BYTES, max(1024, model_bytes))
    nbytes = raw.run_bytes(2 * case.clients * model_bytes)
    async with rig(case.cast) as running:
        await running.start_clients()
        before = await raw.measure(running.plain_url, nbytes, chunk_bytes)
        figures = await running.guard(_session(running, case, model, quiet=quiet))
        after = await raw.measure(running.plain_url, nbytes, chunk_bytes)
    raw_bytes_s = statistics.median([*before, *after])
    return figures | {
        "raw_mb_s_before": [rate / MB for rate in before],
        "raw_mb_s_after": [rate / MB for rate in after],
        "nats_raw_mb_s": raw_bytes_s / MB,
        "ratio_to_raw": figures["moved_mb_s"] * MB / raw_bytes_s,
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
    secured = ", secured" if run["access"] == "secured" else ""
    return f"{run['combiners']}{by}, {clients}{secured}"


def memory_text(run: Figures) -> str:
    """Say what the server held first and last, and what of it the broker did, which no code of ours bounds."""
    pairs = [
        (run["rss_first_mb"], run["rss_last_mb"]),
        (run["rss_first_mb_by_role"]["broker"], run["rss_last_mb_by_role"]["broker"]),
    ]
    server, broker = (f"{number(first)}, {number(last)}" for first, last in pairs)
    return f"{server} (broker {broker})"


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
    Column("memory first, last MB", memory_text),
    Column("to publish", lambda run: f"{seconds(run['publish_s_median'])} ({run['publish_share']:.0%})"),
)
