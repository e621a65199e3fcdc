"""`fedbus simulate`: a session with many virtual clients, over the bus, the coordinator and the combiners of real ones.

In: a module with a `ClientApp`, a number of clients, settings of a session. It starts the operator's side and workers
(`fedbus.cli.crew`), or joins a federation that runs, waits for everybody, runs one session to its end, and leaves
nothing behind. Out: figures by round, the model's digest, and what it cost.

It promises that one seed gives one model, bit for bit, whatever the number of workers and combiners, and the one that
real clients of the same names would have made: a task's seed depends on (seed, round, name), the choice of clients too,
and the sum of updates on no order. Only the app can break it, by chance that does not come from ``task.seed``.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fedbus.cli.benches.meter import MB, Meter
from fedbus.cli.crew import Crew, Share
from fedbus.cli.listing import federation_of
from fedbus.cli.output import duration, metrics_text, names_text, print_json, print_table, size
from fedbus.cli.planning import Plan
from fedbus.cli.progress import Progress, show
from fedbus.cli.roles import Place
from fedbus.cli.supervisor import Supervisor
from fedbus.cli.up import Up
from fedbus.errors import FedbusError, SessionFailed
from fedbus.federation.service import Federation, Session, SessionEvent, SessionInfo
from fedbus.messages import records
from fedbus.tensors import files
from fedbus.together import together

log = logging.getLogger("fedbus.cli")

STOP_S_MAX = 2.0
"""For the word that a session is to end, when we are interrupted: the command stands from then on."""

ROLE_STARTS_MAX = 5
"""A coordinator or combiner that a crash takes comes back; one that goes on crashing has met a defect."""

LOOK_S = 1.0


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan, *, log_level: str = "warning") -> None:
        self._plan = plan
        self._log_level = log_level
        self._crew = Crew(plan.target, plan.series, plan.clients, plan.workers, log_level)
        self._began = time.perf_counter()

    async def run(self, *, json: bool) -> dict[str, Any]:
        """Run it to its end; prints and returns the figures. `FedbusError` says why there are none."""
        self._introduce()
        async with self._operators_side() as (place, roles), together() as group:
            keeping = [group.create_task(work) for work in (_see_live(roles), *self._crew.works(place))]
            figures = await self._session(place, roles.pids)
            for task in keeping:
                task.cancel()
        print_json(figures) if json else _print(figures)
        return figures

    @asynccontextmanager
    async def _operators_side(self) -> AsyncIterator[tuple[Place, Supervisor]]:
        """Yield where the federation is, and who keeps the roles of its operator's side that are ours."""
        plan = self._plan
        if plan.place.url:
            yield plan.place, Supervisor()
            return
        with tempfile.TemporaryDirectory(prefix="fedbus-simulate-") as temporary:
            data_dir = plan.data_dir or Path(temporary)
            up = Up(
                plan.place,
                data_dir,
                keys=data_dir / "keys",
                combiners=plan.combiners,
                log_level="error" if self._log_level == "warning" else self._log_level,  # we show whom it refuses
                quiet=True,
            )
            async with up.running():
                yield up.place, up.supervisor

    async def _session(self, place: Place, pids: Mapping[str, int]) -> dict[str, Any]:
        plan = self._plan
        async with federation_of(place) as federation:
            session = await federation.start_session(plan.config, model=plan.model)
            progress = _Watch(SessionInfo(session.name), plan)
            try:
                await show(federation, session, progress)
            except BaseException:
                await _stop(session)
                raise
            info = progress.info
            if info.state == "failed":
                raise SessionFailed(f"the simulation failed: {info.reason}")
            if plan.out is not None:
                await _save(federation, info, plan.out)
            return {**self._results(info), **self._costs(pids)}

    def _results(self, info: SessionInfo) -> dict[str, Any]:
        plan, round_s = self._plan, [found.seconds for found in info.rounds]
        return {
            "outcome": info.state,
            "reason": info.reason,
            "session": info.session,
            "clients": plan.expected,
            "per_round": plan.config.clients_per_round or plan.expected,
            "workers": len(self._crew.shares),
            "combiners": plan.combiners if not plan.place.url else None,
            "seed": plan.config.seed,
            "rounds": len(info.rounds),
            "counted": [found.counted for found in info.rounds],
            "round_s": round_s,
            "round_s_median": statistics.median(round_s[1:] or round_s or [0.0]),
            "metrics": [found.metrics for found in info.rounds],
            "train_metrics": [found.train_metrics for found in info.rounds],
            "bytes_up": sum(found.bytes_up for found in info.rounds),
            "bytes_down": sum(found.bytes_down for found in info.rounds),
            "bytes_by_round": [(found.bytes_up, found.bytes_down) for found in info.rounds],
            "model_version": info.version,
            "model_digest": info.digest,
        }

    def _costs(self, pids: Mapping[str, int]) -> dict[str, Any]:
        """Return what the processes on this machine have used since their start, this one among them."""
        meter = Meter({**pids, **self._crew.pids})
        own = resource.getrusage(resource.RUSAGE_SELF)
        cpu, rss = {"simulate": own.ru_utime + own.ru_stime}, {"simulate": own.ru_maxrss * 1024 / MB}
        try:
            cpu |= meter.cpu_s()
            rss |= {name: value / MB for name, value in meter.rss_peak_bytes().items()}
        except FedbusError as error:
            log.warning("processor time and memory are not all there: %s", error)
        return {
            "wall_s": time.perf_counter() - self._began,
            "cpu_s": sum(cpu.values()),
            "cpu_s_by_process": cpu,
            "peak_rss_mb": sum(rss.values()),
            "peak_rss_mb_by_process": rss,
        }

    def _introduce(self) -> None:
        plan, here = self._plan, self._crew.shares
        everybody = Share(0, plan.expected).text(plan.series)
        per_round = plan.config.clients_per_round or plan.expected
        where = f"{plan.clients} of them here in {len(here)} workers" if here else "none of them here"
        print(
            f"{plan.expected} clients ({everybody}), {where}; {per_round} a round, "
            f"{plan.config.rounds} rounds, seed {plan.config.seed}",
            flush=True,
        )


class _Watch(Progress):
    """A session's progress that ends where somebody takes part who is not simulated."""

    def __init__(self, info: SessionInfo, plan: Plan) -> None:
        super().__init__(info)
        self._expected = {f"{plan.series}-{number}" for number in range(plan.expected)}

    def take(self, event: SessionEvent) -> list[str]:
        """Take note of an event; `FedbusError` names the strangers of a round."""
        if isinstance(event.data, records.RoundOpened):
            strangers = sorted(set(event.data.clients) - self._expected)
            if strangers:
                raise FedbusError(
                    f"{names_text(strangers)} take part but are not simulated: results would depend on them; give the "
                    "simulation a workspace of its own (--workspace)"
                )
        return super().take(event)


async def _see_live(roles: Supervisor) -> None:
    """Watch until cancelled; `FedbusError` names a role that does not live: it would be started again for ever."""
    while True:
        await asyncio.sleep(LOOK_S)
        for name, starts in roles.starts.items():
            if starts >= ROLE_STARTS_MAX:
                raise FedbusError(f"{name} ended {starts - 1} times ({roles.ends.get(name)}): see its lines above")


async def _stop(session: Session) -> None:
    """Ask for the end of a session that we leave, as far as that can be done soon."""
    with suppress(FedbusError, TimeoutError):
        async with asyncio.timeout(STOP_S_MAX):
            await session.stop("the simulation was interrupted")


async def _save(federation: Federation, info: SessionInfo, path: Path) -> None:
    """Write the newest model, every chunk of it checked, as `fedbus model download` would."""
    arrays = await federation.models.get(info.version)
    metadata = {"fedbus.version": info.version, "fedbus.digest": info.digest}
    await asyncio.to_thread(files.write, path, arrays, metadata)


def _print(figures: Mapping[str, Any]) -> None:
    """Print what a person looks for; the rest is in the JSON."""
    print()
    columns = ("round", "clients", "took", "up", "down", "metrics")
    merged = ({**t, **m} for t, m in zip(figures["train_metrics"], figures["metrics"], strict=True))
    rows = [
        (number, counted, duration(seconds), size(up), size(down), metrics_text(metrics) or "-")
        for number, (counted, seconds, (up, down), metrics) in enumerate(
            zip(figures["counted"], figures["round_s"], figures["bytes_by_round"], merged, strict=True), 1
        )
    ]
    print_table(columns, rows, empty="no round is closed")
    rss = figures["peak_rss_mb_by_process"]
    crew = [value for name, value in rss.items() if name.startswith("worker-")]
    facts = (
        ("ended", f"{figures['outcome']}: {figures['reason']}"),
        ("round", f"{duration(figures['round_s_median'])} (median without the first)"),
        ("moved", f"{size(figures['bytes_up'])} up, {size(figures['bytes_down'])} down"),
        ("model", f"{figures['model_version']}, digest {figures['model_digest']}"),
        ("took", f"{duration(figures['wall_s'])}, {figures['cpu_s']:.1f} s of processors"),
        ("memory", f"{figures['peak_rss_mb']:.0f} MB at most in {len(rss)} processes"),
        ("", f"{max(crew, default=0):.0f} MB in the largest of {len(crew)} workers"),
    )
    print()
    for name, text in facts:
        print(f"{name:10s} {text}")
