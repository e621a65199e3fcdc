"""Tracking into real MLflow and TensorBoard, over a real broker, with a tracker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest

import fedbus
from fedbus.bus.embedded.child import die_with
from fedbus.config.session import SessionConfig
from fedbus.messages import records
from fedbus.messages.records import Entry
from fedbus.store.streams import ensure_streams

READ_BACK = Path(__file__).with_name("read_back.py")
DIGEST = "ab" * 32
ROUNDS = 40
STARTED_AT = 1_700_000_000.0


class Journal:
    """The journal of session s, written as a coordinator would."""

    def __init__(self, federation):
        self._federation = federation
        self._last = 0
        self.number = 0

    async def say(self, *said):
        """Append an entry; its time follows from its number."""
        entry = Entry.of(STARTED_AT + self.number, "epoch", said)
        self._last = await self._federation.journal.append("s", entry, self._last)

    async def start(self):
        """Begin the session."""
        config = SessionConfig(rounds=ROUNDS, strategy="fedadam", strategy_options={"learning_rate": 0.5})
        await self.say(records.SessionStarted(config=config, version="s-0", blob="b", digest=DIGEST, nbytes=8))

    async def rounds(self, up_to):
        """Close and evaluate rounds."""
        while self.number < up_to:
            self.number += 1
            n = self.number
            published = records.ModelPublished(
                round=n, version=f"s-{n}", parent="", session="s", blob="b", digest=DIGEST, nbytes=8
            )
            await self.say(published, records.RoundClosed(round=n, counted=3, metrics={"loss: a*b": 1 / n}))
            await self.say(records.RoundEvaluated(round=n, version=f"s-{n}", metrics={"accuracy": n / ROUNDS}))


async def started(*arguments):
    """Start a process that dies with us."""
    return await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with(os.getpid()), env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip


async def ended(process):
    """Wait for the end of a process; returns what it printed."""
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()[-3000:]
    return out


@pytest.mark.slow
async def test_a_tracker_that_is_killed_goes_on_without_a_gap_or_a_repetition(broker, tmp_path, eventually):
    """Killed by -9 in the middle: MLflow's and TensorBoard's own readers find every step once, with value and time."""
    mlflow, tensorboard, lines = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "runs", tmp_path / "points.jsonl"
    sinks = ["--sink", f"mlflow:{mlflow}", "--sink", f"tensorboard:{tensorboard}", "--sink", f"jsonl:{lines}"]
    command = ["-m", "fedbus", "session", "track", "s", "--follow", "--nats", broker.url, *sinks]
    async with fedbus.connect(broker.url) as federation:
        await ensure_streams(federation.bus, federation.subjects)
        journal = Journal(federation)
        await journal.start()
        await journal.rounds(5)
        tracker = await started(*command)
        await eventually(lambda: _has_points(tmp_path / "mlflow.db", tracker), within_s=60, every_s=0.05)
        await journal.rounds(25)
        tracker.kill()
        await tracker.communicate()
        await _tear(tensorboard, lines)
        await journal.rounds(ROUNDS)
        await journal.say(
            records.SessionEnded(outcome="completed", reason="done", version=f"s-{ROUNDS}", digest=DIGEST)
        )
        await ended(await started(*command))
    found = json.loads(await ended(await started(READ_BACK, mlflow, tensorboard)))
    (run,) = found["mlflow"]
    assert run["status"] == "FINISHED"
    assert (run["params"]["strategy"], run["params"]["strategy_options.learning_rate"]) == ("fedadam", "0.5")
    assert (run["tags"]["fedbus.model_version"], run["tags"]["fedbus.model_digest"]) == (f"s-{ROUNDS}", DIGEST)
    wanted = {n: (n / ROUNDS, STARTED_AT + n) for n in range(1, ROUNDS + 1)}
    points = run["metrics"]["evaluate/accuracy"]
    assert [(step, value, at / 1000) for step, value, at in sorted(points)] == [(n, *wanted[n]) for n in wanted]
    assert [step for step, *_ in sorted(run["metrics"]["train/loss_ a_b"])] == list(wanted)
    ((name, curves),) = found["tensorboard"].items()
    assert name == "s-20231114T221320"
    points = sorted(curves["evaluate/accuracy"])
    assert [step for step, *_ in points] == list(wanted)
    assert all(value == pytest.approx(wanted[step][0]) and at == wanted[step][1] for step, value, at in points)
    assert sorted(step for step, *_ in curves["train/loss: a*b"]) == list(wanted)
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    steps = [(line["kind"], line["step"]) for line in told]
    assert sorted(set(steps)) == sorted(steps)
    assert [step for kind, step in steps if kind == "round"] == list(wanted)


async def _has_points(path, tracker):
    """Whether the tracker has got as far as a point."""
    assert tracker.returncode is None, (await tracker.communicate())[1].decode()[-3000:]
    return await asyncio.to_thread(_count, path) > 0


def _count(path):
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute("select count(*) from metrics").fetchone()[0]
    except sqlite3.Error:
        return 0  # it is being made


async def _tear(tensorboard, lines):
    """Take a few bytes of the end of each file, as a power failure or a full disk would."""
    for path in [*await asyncio.to_thread(lambda: sorted(tensorboard.glob("*/*"))), lines]:
        data = await asyncio.to_thread(path.read_bytes)
        if len(data) > 400:
            await asyncio.to_thread(path.write_bytes, data[:-7])


@pytest.mark.parametrize("name", ["a/../b", "..", "a//b", "/x", "x/", "", ".", "a:b#c", "é", "/" * 128, "." * 300])
def test_any_name_of_a_metric_is_one_of_mlflow(name):
    """Clients choose them: one that MLflow would refuse, as a path that leads elsewhere, must not end the tracking."""
    from mlflow.utils.validation import _validate_metric_name

    from fedbus.sinks.mlflow import _name

    _validate_metric_name(_name(f"train/{name}"))
    assert _name("train/loss") == "train/loss"
