from __future__ import annotations

from collections import Counter

import pytest

from fedbus.cli.benches import profile
from fedbus.errors import ConfigError

RUN = "main (fedbus/__main__.py);run (fedbus/cli/running.py);_run_once (asyncio/base_events.py)"


@pytest.mark.parametrize(
    ("stack", "function"),
    [
        (f"{RUN};add (fedbus/aggregation/ring.py);ones (numpy/_core/numeric.py)", "aggregation.ring: add"),
        (f"{RUN};take (/x/fedbus/bus/nats/link.py);_on (/x/fedbus/tensors/digest.py)", "tensors.digest: _on"),
        (f"{RUN};together (fedbus/together.py);_read_ready (asyncio/selector_events.py)", "(_read_ready)"),
        (RUN, "(_run_once)"),
    ],
)
def test_a_sample_belongs_to_the_innermost_function_of_ours(stack, function):
    """What numpy and hashes do is the caller's; frames in which everything begins are nobody's."""
    assert profile.samples([f"{stack} 7"]) == {function: 7}


def test_who_waits_costs_nothing():
    """Threads without work and a loop without events are left out, and counts of one function add up."""
    lines = ["_worker (concurrent/futures/thread.py) 900", f"{RUN};EpollSelector.select (selectors.py) 50"]
    busy = [f"{RUN};a (fedbus/x.py) 3", f"{RUN};b (fedbus/y.py);a (fedbus/x.py) 4"]
    assert profile.samples([*lines, *busy]) == {"x: a": 7}


def test_shares_are_of_the_role_and_become_seconds():
    """Shares of a role come to one, the rest in one line; times its processor time they are seconds by GB."""
    many = Counter({f"f{i:02d}": 10 for i in range(profile.FUNCTIONS_MAX)}) + Counter({"g": 5, "h": 3})
    lines = profile.lines({"combiner": many, "broker": Counter({"k": 1})}, {"broker": 0.5, "combiner": 2.0})
    assert lines[0] == {"role": "broker", "function": "k", "share": 1.0, "cpu_s_per_gb": 0.5}
    combiner = lines[1:]
    assert len(combiner) == profile.FUNCTIONS_MAX + 1
    assert sum(line["share"] for line in combiner) == pytest.approx(1)
    assert combiner[-1]["function"] == profile.REST
    assert combiner[-1]["cpu_s_per_gb"] == pytest.approx(2.0 * 8 / many.total())


def test_without_py_spy_the_way_to_it_is_told(monkeypatch, tmp_path):
    """What is missing is named with the command that gets it."""
    monkeypatch.setattr(profile.shutil, "which", lambda _: None)
    monkeypatch.setattr(profile.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="pip install py-spy"):
        profile.find()
