"""Runs a command's coroutine, and ends it as a person or a process manager expects.

Ctrl-C and SIGTERM cancel the coroutine, which leaves in its own way (roles say `Bye`). A second Ctrl-C, or
`LEAVE_S_MAX` without an end, ends the process at once: nothing may keep a terminal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

T = TypeVar("T")

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

LEAVE_S_MAX = 20.0
"""From the signal to the end: the broker has ten seconds to write its indices, roles have ten to leave before that."""

THREADS_S_MAX = 1.0
"""For threads that are left when all is over, such as a training function that nobody waits for any more."""


def run(main: Coroutine[Any, Any, T], *, terminated: int = TERMINATED) -> T:
    """Run to the end; raises `typer.Exit` with 130 after Ctrl-C and with ``terminated`` after SIGTERM."""
    stopped: list[int] = []

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def stop(code: int) -> None:
            if stopped and code == INTERRUPTED:
                os._exit(code)
            if not stopped:
                stopped.append(code)
                leave_after(LEAVE_S_MAX, code)
                task.cancel()

        loop.add_signal_handler(signal.SIGINT, stop, INTERRUPTED)
        loop.add_signal_handler(signal.SIGTERM, stop, terminated)
        return await main

    with asyncio.Runner() as runner:
        try:
            return runner.run(guarded())
        except (Exception, asyncio.CancelledError):
            # what goes wrong while leaving (the broker was stopped by the same Ctrl-C) is nobody's concern any more
            if not stopped:
                raise
    leave_after(THREADS_S_MAX, stopped[0])
    raise typer.Exit(stopped[0])


def leave_after(seconds: float, code: int) -> None:
    """End the process when the time is up, whatever it still does."""

    def leave() -> None:
        sys.stdout.flush()
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
