"""Ceilings: what one process can give another at best, measured again and again in short runs of two processes.

A listening child says ``ready`` and what the sending child needs to know, then ``<bytes> <seconds>`` for each run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fedbus.cli.processes import Process
from fedbus.errors import FedbusError

DEADLINE_S = 90.0
"""For all runs and the start of both: some ten seconds, on a machine that is very busy a minute."""


async def between(module: str, nbytes: int, chunk_bytes: int, runs: int, env: Mapping[str, str]) -> list[float]:
    """Return the bytes a second of each run, in which ``module``'s sender gives its listener about ``nbytes``."""
    listening = await Process.start(["listen", str(runs)], env=env, piped=True, module=module)
    try:
        async with asyncio.timeout(DEADLINE_S):
            ready = (await listening.read_line()).split()
            if ready[:1] != ["ready"]:
                raise FedbusError(f"{module}: the listener did not get ready: {await listening.wait()}")
            arguments = ["send", str(runs), str(nbytes), str(chunk_bytes), *ready[1:]]
            sending = await Process.start(arguments, env=env, module=module)
            try:
                return [_rate(await listening.read_line()) for _ in range(runs)]
            finally:
                await sending.stop()
    except TimeoutError as error:
        raise FedbusError(f"{module} did not end within {DEADLINE_S:g} s") from error
    finally:
        await listening.stop()


def _rate(line: str) -> float:
    words = line.split()
    if len(words) != 2:
        raise FedbusError("the listener ended without a figure: see its lines above")
    return int(words[0]) / max(float(words[1]), 1e-9)
