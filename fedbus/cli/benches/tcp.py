"""What a plain TCP connection carries on loopback: no broker, no messages, nothing kept. The floor of every transfer.

python -m fedbus.cli.benches.tcp listen RUNS             says ``ready PORT``, then ``<bytes> <seconds>`` for each run
python -m fedbus.cli.benches.tcp send RUNS BYTES CHUNK PORT
"""

from __future__ import annotations

import socket
import sys
import time

from fedbus.cli.benches import ceilings

BUFFER_BYTES = 1024 * 1024

DEADLINE_S = ceilings.DEADLINE_S


async def measure(nbytes: int, chunk_bytes: int, runs: int) -> list[float]:
    """Return the bytes a second of each run of about ``nbytes`` from one process to another."""
    return await ceilings.between("fedbus.cli.benches.tcp", nbytes, chunk_bytes, runs, {})


def listen(runs: int) -> None:
    """Take connections, one a run; each ends with its bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_S)
        print("ready", server.getsockname()[1], flush=True)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for _ in range(runs):
            link, _ = server.accept()
            with link:
                link.settimeout(DEADLINE_S)
                began, received = time.perf_counter(), 0
                while count := link.recv_into(buffer):
                    received += count
                print(received, time.perf_counter() - began, flush=True)


def send(runs: int, nbytes: int, chunk_bytes: int, port: int) -> None:
    """Make a connection a run and send so many bytes."""
    # spread over the machine's page cache as real chunks are: one chunk would stay in the processor's
    data = [bytes([index]) * chunk_bytes for index in range(16)]
    for _ in range(runs):
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as link:
            for count in range(max(1, -(-nbytes // chunk_bytes))):
                link.sendall(data[count % len(data)])


def main() -> None:
    """Be what argv says."""
    numbers = [int(text) for text in sys.argv[2:]]
    listen(*numbers) if sys.argv[1] == "listen" else send(*numbers)


if __name__ == "__main__":
    main()
