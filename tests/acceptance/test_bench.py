from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_the_echo_is_correct_and_measured(shell):
    """Every figure is there and possible, for clients in several processes and two combiners."""
    asked = (
        "--clients",
        "5",
        "--model-mb",
        "3",
        "--arrays",
        "4",
        "--rounds",
        "3",
        "--processes",
        "2",
        "--combiners",
        "2",
    )
    figures = shell.json("bench", "echo", *asked)
    assert figures["correct"]
    assert 0 < figures["error_max"] <= figures["error_bound"]
    assert figures["clients"] == 5
    assert len(figures["round_s"]) == figures["rounds"] == 3
    assert min(figures["round_s"][1:]) <= figures["round_s_median"] <= max(figures["round_s"][1:])
    assert figures["bytes_up"] == 3 * 5 * 3_000_000
    assert figures["bytes_down"] >= 3 * 5 * 3_000_000
    assert figures["server_rss_peak_mb"] > 30
    assert figures["broker_rss_peak_mb"] > 10
    assert figures["server_cpu_s"] > 0
    assert figures["nats_raw_mb_s"] > 1
    assert figures["ratio_to_raw"] > 0


def test_one_client_with_an_empty_share_of_arrays(shell):
    """A model smaller than its number of arrays still runs: each array has one number."""
    figures = shell.json("bench", "echo", "--clients", "1", "--model-mb", "0", "--arrays", "7", "--rounds", "1")
    assert figures["correct"]
    assert figures["bytes_up"] == 7 * 4
