"""The operator's side on a host of its own: DIRECTORY ADDRESS. A secured broker whose websocket is all it shows.

Says ``serving`` when a client may come, trains two rounds with the first that does, and says ``done``. The same once
more with another, when there is a file ``next``; then it writes ``result.json``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

import numpy as np

import fedbus
from fedbus.access.authority import Authority
from fedbus.access.certs import Certs
from fedbus.access.credentials import write_credentials
from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.cli.roles import Place, combine, coordinate

MODEL = {"w": np.zeros(500_000, np.float32)}


async def main(place: Path, address: str) -> None:
    """Run until the session is over."""
    certs = Certs(place / "certs")
    certs.init()
    certs.server("broker", [address, "broker.test"])  # the second is what proxies call it (`names.py`)
    certificate, key = certs.files("broker")
    keys = Authority.open(place / "keys")
    keys.create_workspace("default")
    ca = certs.ca.read_text()

    def issued(role: str, name: str) -> str:
        path = place / f"{name}.creds"
        write_credentials(path, keys.issue("default", role, name, (f"wss://{address}",), ca))
        return str(path)

    settings = BrokerSettings(tls=BrokerTls(certificate, key), websocket_listen=f"{address}:443")
    issued("client", "site-1")
    issued("client", "site-2")
    async with EmbeddedBroker(place / "store", settings=settings, security=keys.security) as broker:
        at = Place(broker.url, credentials=issued("coordinator", "co"))
        roles = [asyncio.create_task(coordinate(at, "co"))]
        at = Place(broker.url, credentials=issued("combiner", "k"))
        roles.append(asyncio.create_task(combine(at, "k", place)))
        try:
            async with fedbus.connect(broker.url, credentials=issued("engineer", "eve")) as federation:
                results = [await _train(federation)]
                while not (place / "next").exists():  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
                results.append(await _train(federation))
                (place / "result.json").write_text(json.dumps(results))
        finally:
            for role in roles:
                role.cancel()
            await asyncio.gather(*roles, return_exceptions=True)


async def _train(federation: fedbus.Federation) -> dict[str, object]:
    session = await federation.start_session(fedbus.SessionConfig(rounds=2, clients_min=1), model=MODEL)
    print("serving", flush=True)  # noqa: T201 - the parent waits for it
    result = await asyncio.wait_for(session.wait(), 60)
    print("done", flush=True)  # noqa: T201 - as above
    arrays = await federation.models.get(result.model_version)
    return {"outcome": result.outcome, "values": sorted(set(arrays["w"].tolist()))}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
