"""What a client's data would look like on the wire and on the broker's disk, looked for while the client trains on it.

Everything that goes between client and broker is recorded, in the clear, by a proxy; the broker's directory is read
when the session is over. The same search then finds what an app gives away on purpose: it can find something.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import fedbus
from fedbus.errors import SessionFailed
from fedbus.testing.proxy import Line, Proxy

SPEC = importlib.util.spec_from_file_location("canary", Path(__file__).with_name("canary.py"))
canary = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(canary)

CLASSES = 10


def data():
    """Return images and digits, the rows among them, each with its owner's name."""
    images, digits = load_digits(return_X_y=True)
    rows = canary.rows()
    x = np.concatenate([images[:200] / 16.0, rows, rows])
    y = np.concatenate([digits[:200], [3, 7, 3, 7]])
    return x, y, [*("anybody" for _ in range(200)), *(canary.SECRET for _ in range(4))]


def app_of(leak=None):
    """Return an app that fits a softmax to the digits; ``leak``: how it gives the rows away, on purpose."""
    app = fedbus.ClientApp()
    x, y, owners = data()
    wanted = np.eye(CLASSES)[y]

    def measure(model):
        scores = x @ model["w"] + model["b"]
        scores -= scores.max(axis=1, keepdims=True)
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        loss = -np.log((chances * wanted).sum(axis=1) + 1e-9).mean()
        return chances, {"loss": float(loss), "accuracy": float((chances.argmax(axis=1) == y).mean())}

    @app.train
    def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
        assert owners[-1] == canary.SECRET
        arrays = {name: array.copy() for name, array in model.items()}
        for _ in range(5):
            chances, metrics = measure(arrays)
            arrays["w"] -= (x.T @ (chances - wanted) / len(x)).astype(np.float32)
            arrays["b"] -= (chances - wanted).mean(axis=0).astype(np.float32)
        if leak == "update":
            arrays["b"][:] = x[-1, :CLASSES]
        if leak == "metrics":
            metrics |= {"pixel": float(x[-1, 0])}
        if leak == "error":
            raise ValueError(f"could not convert {owners[-1]!r}")
        return fedbus.Update(arrays, weight=len(x), metrics=metrics)

    @app.evaluate
    def evaluate(model: fedbus.Model, task: fedbus.EvaluateTask) -> fedbus.Evaluation:
        return fedbus.Evaluation(weight=len(x), metrics=measure(model)[1])

    return app


@contextlib.asynccontextmanager
async def recorded(house, broker, app, **how):
    """A client behind a proxy that keeps all that passes; gives both directions."""
    up, down = bytearray(), bytearray()
    lines = Line(tap=up.extend), Line(tap=down.extend)
    async with Proxy("127.0.0.1", broker.port, up=lines[0], down=lines[1]) as proxy:
        await house.operate()
        await house.client("site-1", app, url=proxy.url, **how)
        await house.present(1)
        yield up, down
        await house.dismiss("site-1")


async def session(house, **config):
    """Train; returns the session's result."""
    model = {"w": np.zeros((canary.FEATURES, CLASSES), np.float32), "b": np.zeros(CLASSES, np.float32)}
    config = fedbus.SessionConfig(clients_min=1, evaluate_every=1, **config)
    async with fedbus.connect(house.url) as federation:
        return await (await federation.start_session(config, model=model)).wait()


def on_disk(tmp_path):
    """Return all that stands in the broker's directory."""
    return b"\n".join(path.read_bytes() for path in sorted((tmp_path / "store").rglob("*")) if path.is_file())


async def test_a_clients_rows_are_found_nowhere(house, broker, tmp_path):
    """Three rounds of training and evaluation on the rows: no form of them is on the wire or on the broker's disk."""
    attributes = {"region": "eu"}
    app = app_of()
    async with recorded(house, broker, app, state_dir=tmp_path / "state", attributes=attributes) as (up, down):
        result = await session(house, rounds=3)
        assert result.outcome == "completed"
    assert len(up) > 3 * 4 * canary.FEATURES * CLASSES  # three updates went, whole
    assert b"site-1" in up and b"loss" in up
    assert canary.found_in(up) == []
    assert canary.found_in(down) == []
    await broker.stop()
    assert b"loss" in on_disk(tmp_path)
    assert canary.found_in(on_disk(tmp_path)) == []


@pytest.mark.parametrize(
    ("leak", "form"),
    [("update", "row 1 as f4 little"), ("metrics", "row 1 as f8 big"), ("error", "text as utf-8")],
)
async def test_what_is_given_away_is_found(house, broker, tmp_path, leak, form):
    """The same rows in an update, a metric, or an error's text are found, on the wire and on the broker's disk."""
    async with recorded(house, broker, app_of(leak)) as (up, _):
        with contextlib.suppress(SessionFailed):
            await session(house, rounds=1)
    assert any(what.startswith(form) for what in canary.found_in(up)), canary.found_in(up)
    await broker.stop()
    assert any(what.startswith(form) for what in canary.found_in(on_disk(tmp_path)))


def test_every_form_is_searched_for():
    """Each form of each row is found in bytes that hold it, and none in noise of as many bytes as a session makes."""
    noise = np.random.default_rng(1).bytes(2**20)
    assert canary.found_in(noise) == []
    wanted = canary.needles()
    assert len(wanted) > 800
    row = canary.rows()[0]
    for text in (row.astype("<f8"), row.astype(">f4"), row.astype("<f2")):
        assert canary.found_in(b"..." + text.tobytes() + b"...")
    assert canary.found_in(str(row.tolist()).encode())


async def test_an_owner_keeps_the_texts_of_errors(house, broker, tmp_path):
    """An error that quotes a row stays with its owner, where the policy says so; that there was one is told."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[outgoing]\nerrors = false\n")
    async with recorded(house, broker, app_of("error"), policy=policy, state_dir=tmp_path / "state") as (up, down):
        with contextlib.suppress(SessionFailed):
            await session(house, rounds=1)
    assert b"TaskFailed" in up
    assert canary.found_in(up) == canary.found_in(down) == []
    await broker.stop()
    assert canary.found_in(on_disk(tmp_path)) == []
