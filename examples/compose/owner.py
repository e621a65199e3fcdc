"""One of several owners of handwritten digits: ``fedbus client run owner:app``, on one machine or in a container.

The digits are dealt out as in `fedbus demo`, to ``FEDBUS_OWNERS`` owners (10). Each process takes the first share that
no other process on the machine has, by a lock in the directory ``FEDBUS_SHARES``: started five times, it is five owners
with different digits. Or it is told which one it is, from 1 on: ``FEDBUS_OWNER``.

``python owner.py FILE`` writes the first model, which nobody has trained yet.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

import fedbus
from fedbus.cli import digits
from fedbus.cli.demo import client_app, held_out
from fedbus.tensors.files import write

SEED = 0


def claim(shares: Path, owners: int) -> tuple[int, IO[bytes]]:
    """Return the number of a free share, and the file whose lock holds it for as long as the process lives."""
    shares.mkdir(parents=True, exist_ok=True)
    for number in range(owners):
        file = (shares / f"share-{number}").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return number, file
    raise SystemExit(f"all {owners} shares of the digits have an owner: let FEDBUS_OWNERS be more, for every client")


def owner() -> tuple[fedbus.ClientApp, IO[bytes] | None]:
    """Return the app of the owner that this process is, and what keeps its share."""
    owners = int(os.environ.get("FEDBUS_OWNERS", "10"))
    shares = Path(os.environ.get("FEDBUS_SHARES", Path(tempfile.gettempdir()) / "fedbus-shares"))
    told = int(os.environ.get("FEDBUS_OWNER", "0"))
    if told > owners:
        raise SystemExit(f"owner {told} of {owners}: let FEDBUS_OWNERS be more, for every client")
    number, lock = (told - 1, None) if told else claim(shares, owners)
    data = digits.load(clients=owners, seed=SEED)
    return client_app(data.clients[number], held_out(data.test, number, owners)), lock


if __name__ == "__main__":
    write(Path(sys.argv[1]), digits.initial(SEED))
else:
    app, _share = owner()
