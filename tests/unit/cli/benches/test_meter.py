from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from fedbus.cli.benches.meter import MB, Memory, Meter, by_role, difference, of_server
from fedbus.errors import FedbusError


def test_our_own_memory_and_time_are_read():
    """Memory that is touched shows up in VmRSS and VmHWM, work in processor time."""
    meter = Meter({"broker": os.getpid()})
    cpu, before = meter.cpu_s()["broker"], meter.rss_bytes()["broker"]
    # a map of its own: what other tests have freed cannot serve for it
    with mmap.mmap(-1, 100_000_000) as data:
        data.write(b"1" * len(data))
        held = meter.rss_bytes()["broker"]
    assert held - before > 50 * MB
    assert meter.rss_peak_bytes()["broker"] >= held
    while meter.cpu_s()["broker"] < cpu + 0.05:
        pass
    assert difference({"broker": cpu}, meter.cpu_s())["broker"] > 0.045


def test_children_are_included():
    """The memory of a child counts with its parent's, and its processor time also after its end."""
    code = "import sys; x = bytearray(b'1') * 60_000_000; sum(range(3_000_000)); print(len(x), flush=True); input()"
    meter = Meter({"combiner-1": os.getpid()})
    before, cpu = meter.rss_bytes()["combiner-1"], meter.cpu_s()["combiner-1"]
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        with_child = meter.rss_bytes()["combiner-1"]
        child_cpu = Meter({"child": child.pid}).cpu_s()["child"]
        child.communicate(b"\n")
    assert with_child - before > 40 * MB
    assert child_cpu > 0
    assert meter.cpu_s()["combiner-1"] - cpu > child_cpu - 0.015


def test_a_process_that_has_ended_is_named():
    """Nobody's figures are made up: a process that is gone is an error that says which."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    with pytest.raises(FedbusError, match=f"combiner-2, process {child.pid}"):
        Meter({"combiner-2": child.pid}).cpu_s()


def test_sums_by_role_and_of_the_server():
    """Clients are not the server's; the combiners are one role."""
    values = {"broker": 1.0, "combiner-1": 2.0, "combiner-2": 4.0, "coordinator": 8.0, "clients-1": 16.0}
    assert by_role(values) == {"broker": 1.0, "combiner": 6.0, "coordinator": 8.0, "clients": 16.0}
    assert of_server(values) == 15.0
    assert difference({"broker": 0.25}, {"broker": 1.0, "combiner-1": 2.0}) == {"broker": 0.75, "combiner-1": 2.0}


def test_first_and_last_memory():
    """The very first reading is warm-up; the first and last tenth are medians, which one peak does not move."""
    memory = Memory()
    for value in [1.0, *[100.0] * 9, 900.0, *[100.0] * 9, *[103.0] * 20, 103.0]:
        memory.take({"broker": value})
    assert memory.first == {"broker": 100.0}
    assert memory.last == {"broker": 103.0}
    one = Memory()
    one.take({"broker": 7.0})
    assert one.first == one.last == {"broker": 7.0}
