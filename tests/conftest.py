"""What holds for every test: no example of Hypothesis is timed, since a machine may be busy with anything; and nobody's
home is touched: what is remembered of brokers stands in a temporary place, also for processes that a test starts.
Garbage is collected less often than Python would: that was a tenth of the processor's time.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from fedbus.access import known

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


YOUNG_MAX = 20_000
"""Objects that are made before the youngest are looked through. Python's own bound is 700: a simulated world makes more
in a blink.
"""


def pytest_collection_finish() -> None:
    """Look no more at what was imported and collected, which stays: three quarters of a million objects."""
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])


@pytest.fixture(scope="session", autouse=True)
def fedbus_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remember what is known of brokers for this run only."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("FEDBUS_HOME")
    os.environ["FEDBUS_HOME"] = str(home)
    known.use_home(home)
    try:
        yield
    finally:
        known.use_home(None)
        if before is None:
            del os.environ["FEDBUS_HOME"]
        else:
            os.environ["FEDBUS_HOME"] = before
