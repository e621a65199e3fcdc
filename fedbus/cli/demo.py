"""`fedbus demo`: a real broker, a coordinator, combiners, a page and clients with their own digits; then the figures.

The roles are coroutines of this process, each with a connection of its own: nothing passes between them but by the
broker. Each client trains on its own share only. The held-out digits are dealt out among the clients for evaluation, so
the federation's weighted accuracy is the accuracy on all of them. The last figure does not trust it: the published
model is fetched and measured here.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import fedbus
from fedbus.cli import digits
from fedbus.cli.output import duration, print_json, size
from fedbus.cli.progress import Progress, show
from fedbus.cli.roles import Place, take_part
from fedbus.cli.up import Up
from fedbus.config.session import SessionConfig
from fedbus.federation.service import SessionInfo, SessionResult, connect


def client_app(train_on: digits.Examples, test_on: digits.Examples) -> fedbus.ClientApp:
    """Return the app of one owner of digits."""
    app = fedbus.ClientApp()

    @app.train
    def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
        arrays, loss = digits.train(
            model,
            train_on.x,
            train_on.y,
            epochs=int(task.config.get("epochs", digits.EPOCHS_PER_ROUND)),
            batch_size=digits.BATCH_SIZE,
            learning_rate=digits.LEARNING_RATE,
            seed=task.seed,
        )
        return fedbus.Update(arrays, weight=len(train_on), metrics={"loss": loss})

    if len(test_on):

        @app.evaluate
        def evaluate(model: fedbus.Model, task: fedbus.EvaluateTask) -> fedbus.Evaluation:
            return fedbus.Evaluation(len(test_on), {"accuracy": digits.accuracy(model, test_on.x, test_on.y)})

    return app


class Demo:
    """One run of the demo, with as many clients as the settings' ``clients_min``."""

    def __init__(
        self, config: SessionConfig, *, combiners: int, json: bool, http_port: int = 0, stay: bool = False
    ) -> None:
        self._config = config
        self._clients = config.clients_min
        self._combiners = combiners
        self._seed = config.seed
        self._json = json
        self._http_port = http_port
        self._stay = stay

    async def run(self) -> None:
        """Run it to its end, and print what came of it; where it is to stay, all is there until it is cancelled."""
        began = time.perf_counter()
        data = await asyncio.to_thread(lambda: digits.load(clients=self._clients, seed=self._seed))
        self._introduce(data)
        with tempfile.TemporaryDirectory(prefix="fedbus-demo-") as place:
            async with self._running(Path(place), data) as up:
                result, info, model = await self._federate(up)
                if self._stay:
                    await self._figures(data, result, info, model, began)
                    print(
                        f"\nall of it stays: the page {up.http_url}, the broker {up.place.url}; Ctrl-C ends it",
                        flush=True,
                    )
                    await asyncio.Event().wait()
        await self._figures(data, result, info, model, began)

    @asynccontextmanager
    async def _running(self, place: Path, data: digits.Digits) -> AsyncIterator[Up]:
        """The operator's side with its page, and every owner of digits, inside the block."""
        up = Up(
            Place(""),
            place,
            keys=place / "keys",
            combiners=self._combiners,
            gateways=1,
            http_port=self._http_port,
            quiet=True,
        )
        async with up.running(processes=False), asyncio.TaskGroup() as group:
            clients = [
                group.create_task(
                    # each makes itself credentials, as any client of whoever runs the broker
                    take_part(
                        replace(up.place, credentials=None),
                        client_app(share, held_out(data.test, i, self._clients)),
                        f"client-{i + 1}",
                    )
                )
                for i, share in enumerate(data.clients)
            ]
            print(f"page   {up.page or up.http_url}", flush=True)
            yield up
            for client in clients:
                client.cancel()

    async def _federate(self, up: Up) -> tuple[SessionResult, SessionInfo, digits.Arrays]:
        async with connect(up.place.url, credentials=up.place.credentials) as federation:
            session = await federation.start_session(self._config, model=digits.initial(self._seed), name="digits")
            progress = Progress(SessionInfo(session.name), federation.now)
            await show(federation, session, progress)
            result = await session.wait()
            return result, progress.info, await federation.models.get(result.model_version)

    async def _figures(
        self, data: digits.Digits, result: SessionResult, info: SessionInfo, model: digits.Arrays, began: float
    ) -> None:
        federated = digits.accuracy(model, data.test.x, data.test.y)
        reached = await asyncio.to_thread(lambda: digits.baselines(data, rounds=self._config.rounds, seed=self._seed))
        self._conclude(result, info, federated, reached, time.perf_counter() - began, data)

    def _introduce(self, data: digits.Digits) -> None:
        shares = [len(share) for share in data.clients]
        kinds = [len(set(share.y.tolist())) for share in data.clients]
        print(
            f"{sum(shares)} handwritten digits with {len(shares)} owners: {min(shares)} to {max(shares)} each, of "
            f"{min(kinds)} to {max(kinds)} kinds; {len(data.test)} are held out",
            flush=True,
        )

    def _conclude(
        self,
        result: SessionResult,
        info: SessionInfo,
        federated: float,
        reached: digits.Baselines,
        wall_s: float,
        data: digits.Digits,
    ) -> None:
        up, down = sum(r.bytes_up for r in info.rounds), sum(r.bytes_down for r in info.rounds)
        pooled = sum(share.x.nbytes + share.y.nbytes for share in data.clients)
        if self._json:
            print_json(
                {
                    "rounds": result.rounds,
                    "clients": self._clients,
                    "combiners": self._combiners,
                    "seed": self._seed,
                    "strategy": self._config.strategy,
                    "codec": self._config.codec,
                    "accuracy_federated": federated,
                    "accuracy_local_mean": reached.local_mean,
                    "accuracy_centralised": reached.centralised,
                    "model_digest": result.digest,
                    "wall_s": wall_s,
                    "bytes_up": up,
                    "bytes_down": down,
                    "bytes_centralised": pooled,
                }
            )
            return
        print(f"\naccuracy on the {len(data.test)} digits that nobody trained on:")
        print(f"  local        {reached.local_mean:6.1%}   each owner alone, the mean of {self._clients}")
        print(f"  federated    {federated:6.1%}   together, and no digit left its owner")
        print(f"  centralised  {reached.centralised:6.1%}   had all digits been given away")
        print(f"\nmoved  {size(up + down)}: {size(up)} up, {size(down)} down")
        print(f"       {size(pooled)} would have moved, once, had all digits been given away")
        print(f"model  {result.digest}")
        print(f"took   {duration(wall_s)}")


def held_out(test: digits.Examples, index: int, clients: int) -> digits.Examples:
    """Return one client's part of the held-out examples: every ``clients``-th; together they are all of them."""
    return digits.Examples(x=test.x[index::clients], y=test.y[index::clients])
