"""The window of a reading, on lines that are simulated: one queue, a capacity, a time that light needs."""

from __future__ import annotations

import heapq

import pytest

from fedbus.store.window import BYTES_MAX, Window

CHUNK = 512 * 1024
NEXT_DOOR = {"latency_s": 0.0001, "rate": 800e6}
FAR = {"latency_s": 0.1, "rate": 300e6 / 8}


class Line:
    """Readers of one broker: their requests stand in one line, each is served at a rate, and travels for a while."""

    def __init__(self, readers, *, latency_s, rate):
        self.windows = [Window(latency_s) for _ in range(readers)]
        self.latency_s, self.rate = latency_s, rate
        self.free_at = 0.0
        self.now = 0.0
        self.came = 0
        self.events = []
        self.most = 0
        self.order = 0
        for window in self.windows:
            self.fill(window)

    def fill(self, window):
        """Ask for as much as the window allows."""
        while window.opens(CHUNK):
            asked = window.ask(CHUNK, self.now)
            self.free_at = max(self.free_at, self.now + self.latency_s / 2) + CHUNK / self.rate
            self.order += 1
            heapq.heappush(self.events, (self.free_at + self.latency_s / 2, self.order, window, asked))
        self.most = max(self.most, sum(w.asked_bytes for w in self.windows))

    def run(self, chunks):
        """Let so many chunks come; returns bytes per second."""
        began, came = self.now, 0
        for _ in range(chunks):
            self.now, _, window, asked = heapq.heappop(self.events)
            window.came(asked, self.now)
            came += asked.nbytes
            self.fill(window)
        return came / (self.now - began)


def test_one_reader_next_door_is_quick_with_little():
    """Alone next door two or three chunks under way get what the line can carry."""
    line = Line(1, **NEXT_DOOR)
    assert line.run(200) > 0.9 * NEXT_DOOR["rate"]
    assert line.most <= 3 * CHUNK


@pytest.mark.parametrize("readers", [8, 64])
def test_in_a_crowd_each_asks_for_one_chunk(readers):
    """Readers of one broker that begin together: each has one chunk under way, and the line is full all the same."""
    line = Line(readers, **NEXT_DOOR)
    line.run(10 * readers)
    assert line.most < 2 * readers * CHUNK
    line.most = 0
    assert line.run(50 * readers) > 0.95 * NEXT_DOOR["rate"]
    assert line.most == readers * CHUNK


def test_a_long_line_is_filled():
    """Over 100 ms the window grows from 3 MiB to what 300 Mbit/s need: 45 MB take 5 % more than they must."""
    line = Line(1, **FAR)
    assert line.most <= 3.5 * 2**20
    line.run(90)
    assert line.now < 1.05 * (90 * CHUNK / FAR["rate"] + FAR["latency_s"])
    assert line.run(200) > 0.9 * FAR["rate"]


def test_a_window_is_bounded():
    """On a line that carries more than anyone has, what is under way stays within 8 MiB; and one chunk always may."""
    line = Line(1, latency_s=0.5, rate=10e9)
    line.run(500)
    assert 0.9 * BYTES_MAX < line.most <= BYTES_MAX
    slow = Line(1, latency_s=0.0, rate=1e4)
    slow.run(20)
    assert slow.most <= 2 * CHUNK
    assert slow.windows[0].asked_bytes == CHUNK


def test_a_window_shrinks_when_others_come():
    """What was right for one reader is given up within a few chunks when the line is shared."""
    line = Line(1, **FAR)
    line.run(100)
    alone = line.windows[0].asked_bytes
    line.rate /= 16
    line.run(40)
    assert line.windows[0].asked_bytes <= alone / 4


def test_a_line_that_nobody_measured_is_measured_by_its_chunks():
    """Without a time of small answers the quickest chunk tells it, and the line is filled."""
    window = Window(None)
    assert window.opens(CHUNK)
    line = Line(1, **FAR)
    line.windows[0] = window
    line.events.clear()
    line.free_at = 0.0
    line.fill(window)
    assert window.asked_bytes == CHUNK
    line.run(60)
    assert line.run(200) > 0.9 * FAR["rate"]


def test_what_is_lost_makes_room():
    """A chunk that will not come is not under way any more, and says nothing of the line."""
    window = Window(0.0001)
    asked = window.ask(CHUNK, 0.0)
    assert not window.opens(CHUNK)
    before = window.bytes_max(CHUNK)
    window.lost(asked)
    assert window.opens(CHUNK)
    assert window.bytes_max(CHUNK) == before


def test_answers_that_take_no_time_are_no_trouble():
    """In simulated worlds time stands still: the window stays within its bound."""
    window = Window(0.0)
    for _ in range(20):
        window.came(window.ask(CHUNK, 1.0), 1.0)
    assert window.bytes_max(CHUNK) <= BYTES_MAX
