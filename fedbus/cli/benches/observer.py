"""Runs a session of echoes, reads the meter as it goes, and checks what came out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fedbus.cli.benches import expectation
from fedbus.cli.benches.case import Case
from fedbus.cli.benches.meter import Memory, Meter, difference
from fedbus.cli.benches.report import Figures
from fedbus.cli.benches.rig import Rig
from fedbus.cli.benches.rounds import Round, Rounds
from fedbus.cli.progress import Progress, show
from fedbus.federation.service import Session, SessionInfo, SessionResult

SAMPLE_S = 0.1
"""Memory is read at the end of a round, but not more often: 100 rounds a second are not to be slowed down by it."""


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
    error = await asyncio.to_thread(expectation.error_max, model, final, case.clients, case.rounds, case.first)
    weight_max = case.config(model).weight_max
    bound = expectation.error_bound(model, case.clients, case.rounds, weight_max, case.first)
    all_counted = [found.counted for found in rounds.closed] == [case.clients] * case.rounds
    return {
        "correct": error <= bound and all_counted,
        "error_max": error,
        "error_bound": bound,
        "model_digest": result.digest,
    }
