from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SMALL = ("demo", "--clients", "3", "--rounds", "2", "--seed", "7")


def test_the_same_seed_gives_the_same_model_whatever_the_combiners(shell):
    """Two runs, and runs with 2 and 4 combiners, publish one and the same model, bit by bit."""
    runs = [shell.json(*SMALL, "--combiners", str(count)) for count in (1, 1, 2, 4)]
    assert len({run["model_digest"] for run in runs}) == 1
    assert len({run["accuracy_federated"] for run in runs}) == 1
    assert shell.json(*SMALL[:-1], "8")["model_digest"] != runs[0]["model_digest"]


def test_together_is_better_than_alone(shell):
    """With its defaults the demo ends soon, and the federation beats its members and comes near to pooling."""
    figures = shell.json("demo")
    assert figures["rounds"] == 10
    assert figures["accuracy_federated"] > figures["accuracy_local_mean"] + 0.2
    assert figures["accuracy_federated"] > figures["accuracy_centralised"] - 0.05
    assert figures["bytes_up"] == 10 * 10 * 4810 * 4
    assert figures["bytes_down"] > 0
    assert 0 < figures["wall_s"] < 45


def test_people_see_rounds_and_figures(shell):
    """Without --json there is a line for each round, then three accuracies and the digest."""
    lines = shell.run(*SMALL).stdout.splitlines()
    assert sum(line.startswith("round ") for line in lines) == 2
    words = " ".join(lines)
    assert all(word in words for word in ("local", "federated", "centralised", "held out", "moved", "model "))


def test_the_last_line_is_json_and_the_rest_is_for_people(shell):
    """With --json only the last line of stdout is the object."""
    lines = shell.run(*SMALL, "--json").stdout.splitlines()
    assert json.loads(lines[-1])["rounds"] == 2


def test_ctrl_c_leaves_nothing_behind(shell, tmp_path):
    """Ctrl-C in the middle ends with 130 and no traceback; the broker and the temporary data are gone."""
    shell.env["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    process = shell.start("demo", "--rounds", "1000")
    end = time.monotonic() + 30
    while "round   2" not in shell.said():
        assert time.monotonic() < end, shell.said()
        time.sleep(0.05)
    pids = [int(path.read_text()) for path in Path(tmp_path / "tmp").glob("fedbus-demo-*/broker/broker.pid")]
    assert len(pids) == 1
    assert shell.end(process, signal.SIGINT) == 130
    assert "Traceback" not in shell.said()
    assert not Path(f"/proc/{pids[0]}").exists()
    assert list((tmp_path / "tmp").glob("fedbus-*")) == []
