"""`fedbus bench clients`: what clients cost that only wait, and what they cost in rounds of a small model.

First they are all there and nothing happens: processor time over some seconds, and memory. Then rounds in which each of
them takes part. The ceiling is the rate of plain messages of about a client's size from one process to another over the
same broker: a client's part in a round is at least a task, an update and a receipt.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbus.cli.benches import case as cases
from fedbus.cli.benches import expectation, raw
from fedbus.cli.benches.meter import GB, MB, by_role, difference, of_server
from fedbus.cli.benches.observer import observed
from fedbus.cli.benches.report import Column, number, roles_text, seconds
from fedbus.cli.benches.rig import Rig, rig
from fedbus.cli.benches.rounds import Rounds

SETTLE_S = 1.0
"""From the coming of the last client until idle means idle."""

MESSAGE_BYTES = 1000
"""Of the ceiling's messages: about a task, an announcement, a receipt."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run. ``crowd`` as in `fedbus.cli.benches.case.Case`, but crowds unless it is said otherwise."""

    clients: int = 1000
    model_mb: float = 0.01
    arrays: int = 4
    rounds: int = 5
    combiners: int = 1
    processes: int | None = None
    crowd: bool = True
    idle_s: float = 10.0

    @property
    def echo(self) -> cases.Case:
        """The rounds."""
        return cases.Case(
            clients=self.clients,
            model_mb=self.model_mb,
            arrays=self.arrays,
            rounds=self.rounds,
            combiners=self.combiners,
            processes=self.processes,
            crowd=self.crowd,
        )


async def run(case: Case) -> dict[str, Any]:
    """Run one case; returns its figures."""
    model = expectation.initial(case.model_mb, case.arrays)
    least_bytes, _ = raw.RUN_BYTES
    async with rig(case.echo.cast) as running:
        server_before = of_server(running.meter.rss_bytes())
        await running.start_clients()
        idle = await running.guard(_idle(running, case, server_before))
        before = await raw.measure(running.url, least_bytes, MESSAGE_BYTES)
        checked, observer = await running.guard(observed(running, case.echo, model, quiet=True))
        peaks = by_role(running.meter.rss_peak_bytes())
        after = await raw.measure(running.url, least_bytes, MESSAGE_BYTES)
    messages_s = statistics.median([*before, *after]) / MESSAGE_BYTES
    return {
        "correct": checked["correct"],
        "clients": case.clients,
        "processes": case.echo.cast.processes,
        "crowd": case.crowd,
        "combiners": case.combiners,
        "model_mb": case.model_mb,
        "arrays": case.arrays,
        **idle,
        **_active(case, observer.rounds, observer.steady_cpu_s()),
        "raw_messages_s": messages_s,
        "ratio_to_raw": case.clients / observer.rounds.median_s / messages_s,
        "peak_mb_by_role": {name: value / MB for name, value in peaks.items()},
    }


async def _idle(running: Rig, case: Case, server_before: float) -> dict[str, Any]:
    await asyncio.sleep(SETTLE_S)
    loop = asyncio.get_running_loop()
    began, cpu = loop.time(), running.meter.cpu_s()
    await asyncio.sleep(case.idle_s)
    used, rss = difference(cpu, running.meter.cpu_s()), running.meter.rss_bytes()
    idle_s = loop.time() - began
    percent = {name: 100 * value / idle_s for name, value in by_role(used).items()}
    thousands = case.clients / 1000
    memory = by_role(rss)["clients"] + of_server(rss) - server_before
    return {
        "idle_s": idle_s,
        "idle_cpu_percent_by_role": percent,
        "idle_cpu_percent_per_1000": sum(percent.values()) / thousands,
        "clients_rss_mb_per_1000": by_role(rss)["clients"] / MB / thousands,
        "server_rss_growth_mb_per_1000": (of_server(rss) - server_before) / MB / thousands,
        "idle_clients_per_gb": case.clients / (memory / GB),
        "idle_clients_per_core": case.clients / max(sum(percent.values()) / 100, 1e-6),
    }


def _active(case: Case, rounds: Rounds, cpu: Mapping[str, float]) -> dict[str, Any]:
    parts = case.clients * len(rounds.steady)
    cost = {name: 1000 * value / parts for name, value in by_role(cpu).items()}
    return {
        "rounds": len(rounds.closed),
        "round_s": [found.seconds for found in rounds.closed],
        "round_s_median": rounds.median_s,
        "rounds_per_s": rounds.per_s,
        "cpu_ms_per_client_round": sum(cost.values()),
        "cpu_ms_per_client_round_by_role": cost,
        "active_clients_per_core_s": 1000 / max(sum(cost.values()), 1e-6),
    }


COLUMNS = (
    Column(
        "clients in processes",
        lambda run: f"{run['clients']:,} in {run['processes']}, {'crowds' if run['crowd'] else 'connections'}",
    ),
    Column("result", lambda run: "correct" if run["correct"] else "WRONG"),
    Column("idle: % of a core per 1,000", lambda run: number(run["idle_cpu_percent_per_1000"])),
    Column("idle % by role", lambda run: roles_text(run["idle_cpu_percent_by_role"])),
    Column("MB per 1,000, theirs", lambda run: number(run["clients_rss_mb_per_1000"])),
    Column("MB per 1,000, server", lambda run: number(run["server_rss_growth_mb_per_1000"])),
    Column("round", lambda run: seconds(run["round_s_median"])),
    Column("rounds/s", lambda run: number(run["rounds_per_s"])),
    Column("CPU-ms per client and round", lambda run: number(run["cpu_ms_per_client_round"])),
    Column("CPU-ms by role", lambda run: roles_text(run["cpu_ms_per_client_round_by_role"])),
    Column("of raw messages/s", lambda run: f"{number(run['ratio_to_raw'])} ({number(run['raw_messages_s'])})"),
)
