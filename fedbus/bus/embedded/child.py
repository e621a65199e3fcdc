"""A child process that does not outlive us, even when we are killed with -9.

On Linux the kernel sees to it: the child asks for a signal at its parent's death (PR_SET_PDEATHSIG). That signal comes
when the *thread* that forked ends, so the thread whose loop starts the broker has to be the one in which it is used; a
loop is bound to its thread, so it is. Elsewhere a watcher, a process of its own, waits for the end of a pipe that only
we hold open.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1

_WATCHER = """
import os, signal, sys
sys.stdin.buffer.read()
try:
    os.kill(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


@dataclass(slots=True)
class Child:
    """A process that we started, and the watcher that ends it with us, where one is needed."""

    process: subprocess.Popen[bytes]
    watcher: subprocess.Popen[bytes] | None

    def dismiss_watcher(self) -> None:
        """End the watcher; before the process is waited for, as its pid may belong to somebody else from then on."""
        if self.watcher is not None:
            self.watcher.kill()
            self.watcher.wait()
            if self.watcher.stdin is not None:
                self.watcher.stdin.close()
            self.watcher = None


def start_child(command: Sequence[str], output: Path, lock: int, *, by_watcher: bool | None = None) -> Child:
    """Start a process that ends when we do. It inherits ``lock``, a file descriptor, and holds it as long as it lives.

    ``by_watcher`` chooses the way; None takes the kernel's where there is one.
    """
    by_kernel = sys.platform == "linux" if by_watcher is None else not by_watcher
    with output.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - the binary was looked for, the arguments are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            # a Ctrl-C in the terminal is for us: we stop the broker last, it must not stop by itself first
            start_new_session=True,
            preexec_fn=die_with(os.getpid()) if by_kernel else None,  # noqa: PLW1509 - see there
        )
    watcher = None
    if not by_kernel:
        watcher = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-c", _WATCHER, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
    return Child(process, watcher)


def die_with(parent: int) -> Callable[[], None]:
    """Return what the child does between fork and exec. Nothing is imported or looked up there: locks may be held."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    number = int(signal.SIGTERM)
    getppid, leave = os.getppid, os._exit

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if getppid() != parent:  # the parent died before we asked: nobody would tell us
            leave(1)

    return ask
