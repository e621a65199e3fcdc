"""`fedbus bench profile`: where the processor time of the Python roles goes, function by function.

py-spy looks at every role 100 times a second from outside while echo rounds run. A sample belongs to the innermost
function of fedbus on its stack, with everything that this calls below itself (numpy, hashes, the socket); one without
such a function to the innermost that there is, in parentheses: there the event loop reads from sockets. Threads that
wait for work are left out. Times the role's processor time by byte moved, a share becomes seconds by GB. The broker is
not Python; /proc tells how much of its time the kernel spends for it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedbus.cli.benches import echo, expectation
from fedbus.cli.benches.case import Case
from fedbus.cli.benches.meter import GB, by_role, difference, role
from fedbus.cli.benches.observer import observed
from fedbus.cli.benches.report import Column, number
from fedbus.cli.benches.rig import Rig, rig
from fedbus.errors import ConfigError

RATE_PER_S = 100

END_S_MAX = 10.0
"""For py-spy to write what it has."""

FUNCTIONS_MAX = 8
"""Of a role that are shown; the rest is one line."""

REST = "(all others)"

WAITS = frozenset({"(_worker)", "(EpollSelector.select)", "(PollSelector.select)", "(wait)"})
"""Functions in which a thread waits. py-spy knows most of these for idle; where it looks at the wrong moment, we do."""

_FRAME = re.compile(r"(.*) \((?:.*/)?fedbus/(.*)\.py\)")
_BEGINNINGS = ("cli/", "__main__", "together", "workers")
"""Where coroutines and threads begin: no stack is without one of them, and none says what is done."""


def find() -> str:
    """Return where py-spy is; `ConfigError` says how to get it."""
    beside = Path(sys.executable).parent / "py-spy"
    found = shutil.which("py-spy") or (str(beside) if beside.exists() else None)
    if found is None:
        raise ConfigError("bench profile needs py-spy: pip install py-spy")
    return found


async def run(case: Case) -> list[dict[str, Any]]:
    """Run echo rounds under py-spy; returns a line for each function, the most expensive of each role first."""
    spy = find()
    model = expectation.initial(case.model_mb, case.arrays)
    async with rig(case.cast) as running:
        await running.start_clients()
        with tempfile.TemporaryDirectory(prefix="fedbus-profile-") as place:
            kernel = running.meter.kernel_s()
            async with _watched(spy, running, Path(place)):
                checked, observer = await running.guard(observed(running, case, model, quiet=True))
            kernel = difference(kernel, running.meter.kernel_s())
            counts = _counts(Path(place))
    in_kernel = min(1.0, kernel["broker"] / max(observer.cpu_s()["broker"], 1e-9))
    counts["broker"] = Counter(
        {"(in the kernel)": round(1000 * in_kernel), "(its own code)": round(1000 * (1 - in_kernel))}
    )
    moved_gb = sum(found.bytes_moved for found in observer.rounds.steady) / GB
    per_gb = {name: value / moved_gb for name, value in by_role(observer.steady_cpu_s()).items()}
    return [{"correct": checked["correct"], **asdict(case), **line} for line in lines(counts, per_gb)]


@asynccontextmanager
async def _watched(spy: str, running: Rig, place: Path) -> AsyncIterator[None]:
    """Have py-spy look at all processes of Python; what it saw is in files named after them."""
    spies = [
        await asyncio.create_subprocess_exec(
            *(spy, "record", "--pid", str(pid), "--output", str(place / name)),
            *("--format", "raw", "--rate", str(RATE_PER_S), "--nolineno", "--nonblocking"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for name, pid in running.pids.items()
        if name != "broker"
    ]
    try:
        yield
        for process in spies:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
        async with asyncio.timeout(END_S_MAX):
            await asyncio.gather(*(process.wait() for process in spies))
    finally:
        for process in spies:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _counts(place: Path) -> dict[str, Counter[str]]:
    """Return samples by role and function."""
    counts: dict[str, Counter[str]] = {}
    for path in place.iterdir():
        counts.setdefault(role(path.name), Counter()).update(samples(path.read_text().splitlines()))
    if not counts:
        raise ConfigError("py-spy saw nothing: it needs the right to look into processes (ptrace)")
    return counts


def samples(stacks: Iterable[str]) -> Counter[str]:
    """Count samples by the innermost function of fedbus, of lines ``frame;frame;frame count``."""
    found: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        function = _function(stack.split(";"))
        if function not in WAITS:
            found[function] += int(count)
    return found


def _function(stack: list[str]) -> str:
    for frame in reversed(stack):
        match = _FRAME.fullmatch(frame)
        if match and not match[2].startswith(_BEGINNINGS):
            return f"{match[2].replace('/', '.')}: {match[1]}"
    return f"({stack[-1].partition(' (')[0]})"


def lines(counts: Mapping[str, Counter[str]], cpu_s_per_gb: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the functions of each role with their shares."""
    return [
        {"role": name, "function": function, "share": share, "cpu_s_per_gb": share * cpu_s_per_gb[name]}
        for name in sorted(counts)
        for function, share in _shares(counts[name]).items()
    ]


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    shares = {function: count / total for function, count in counts.most_common(FUNCTIONS_MAX)}
    rest = total - sum(count for _, count in counts.most_common(FUNCTIONS_MAX))
    return shares | ({REST: rest / total} if rest else {})


COLUMNS = (
    Column("clients x model / arrays", echo.work_text),
    Column("role", lambda run: run["role"]),
    Column("function", lambda run: run["function"]),
    Column("share", lambda run: f"{run['share']:.0%}"),
    Column("CPU-s/GB", lambda run: number(run["cpu_s_per_gb"])),
)
