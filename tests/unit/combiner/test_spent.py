"""How long an upload took, by the combiner's clock: from its first announcement until all of it was folded."""

from __future__ import annotations

import pytest
from round_driver import Driver, Parcel

from fedbus.messages.ids import SECONDS_MAX, Spent

MINE = Spent(0.5, 1.0, 20.0)


def spent(driver):
    """What the coordinator heard of where each client's time went."""
    return {verdict.client: verdict.spent for body in driver.reported for verdict in body.verdicts}


def test_an_upload_in_chunks_takes_until_its_last_byte_is_folded():
    """A repeat of the announcement does not begin it anew; what the client has measured is handed on."""
    driver, a = Driver(now=100.0).open({"a": 1}), Parcel("a", spent=MINE)
    driver.begin(a)
    driver.now = 101.0
    driver.begin(a)
    driver.now = 103.5
    for index in range(4):
        driver.step(a.arrival(index))
    assert spent(driver) == {"a": pytest.approx(MINE._replace(upload_s=3.5))}


def test_an_upload_that_came_whole_takes_until_it_is_folded():
    """Of one that waits for a busy thread that is most of it."""
    driver, a = Driver(now=100.0, lazy=True).open({"a": 1}), Parcel("a", spent=MINE)
    driver.work()
    driver.step(a.whole())
    driver.now = 100.25
    driver.work()
    assert spent(driver) == {"a": pytest.approx(MINE._replace(upload_s=0.25))}


def test_an_upload_that_was_too_early_began_when_it_was_first_announced():
    """Also when it was said again before the order came; another update of the same client begins its own."""
    a, b = Parcel("a", spent=MINE), Parcel("b", spent=MINE)
    late = Driver(now=100.0, lazy=True).open({"a": 1, "b": 1})
    late.step(a.whole(), Parcel("b", seed=7, spent=MINE).whole())
    late.now = 102.0
    late.step(a.whole(), b.whole())
    late.now = 105.0
    late.work()
    assert spent(late) == {
        "a": pytest.approx(MINE._replace(upload_s=5.0)),
        "b": pytest.approx(MINE._replace(upload_s=3.0)),
    }


def test_a_clock_that_is_set_back_makes_no_time_below_none():
    """The verdict is journalled, and seconds below zero would be no message."""
    driver, a = Driver(now=100.0).open({"a": 1}), Parcel("a", spent=MINE)
    driver.begin(a)
    driver.now = 50.0
    for index in range(4):
        driver.step(a.arrival(index))
    assert spent(driver) == {"a": MINE}


def test_who_has_measured_nothing_is_given_no_times():
    """An update that a former process has made comes without, and zeros would be a lie."""
    driver, a = Driver(now=100.0).open({"a": 1}), Parcel("a")
    driver.send(a)
    assert spent(driver) == {"a": None}


def test_a_clock_that_is_set_on_by_decades_is_no_error():
    """A machine that begins in 1970 and then learns what time it is tells of the longest time that a message may."""
    driver, a = Driver(now=100.0, lazy=True).open({"a": 1}), Parcel("a", spent=MINE)
    driver.work()
    driver.step(a.whole())
    driver.now = 1.8e9
    driver.work()
    assert spent(driver) == {"a": MINE._replace(upload_s=SECONDS_MAX)}
