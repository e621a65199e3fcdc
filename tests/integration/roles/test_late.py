"""Late updates over a real broker: one of three clients misses its round; what it made counts in the next, or not."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import fedbus
from fedbus.messages import records

DEADLINE_S = 1.5
SHIFTS = {"a": (1.0, 1.0), "b": (2.0, 1.0)}
"""Of those who are in time: by how much each shifts the model, and its weight."""


def slow_app(shift, weight, may_end):
    """An app whose first training ends when it may; ``made``: the rounds whose trainings came to their end."""
    app = fedbus.ClientApp()
    made = []

    @app.train
    async def train(model, task):
        arrays = {name: array + array.dtype.type(shift) for name, array in model.items()}
        if task.round == 1:
            await may_end.wait()
        made.append(task.round)
        return fedbus.Update(arrays, weight=weight)

    return app, made


@pytest.mark.parametrize(
    ("late_updates", "weight", "trained", "expected"),
    [
        # Round 1: (1 + 2) / 2 = 1.5. Round 2: 2.5 and 3.5 by weight 1; the late one is 0 + 4 by weight 4 x 0.5.
        ("stale", 4.0, [1], (2.5 + 3.5 + 2 * 4.0) / 4),
        # Dropped, the slow one trains anew: 1.5 + 4 by weight 2.
        ("drop", 2.0, [2], (2.5 + 3.5 + 2 * 5.5) / 4),
    ],
)
async def test_what_misses_its_round_counts_in_the_next_at_half_its_weight(
    house, make_app, zeros, late_updates, weight, trained, expected
):
    """The model is the exact mean; the slow client's training goes on, or is given up; the report says so of each."""
    await house.operate()
    may_end = asyncio.Event()
    app, made = slow_app(4.0, weight, may_end)
    for name, (shift, of_weight) in SHIFTS.items():
        await house.client(name, make_app(shift, of_weight))
    await house.client("c", app)
    await house.present(3)
    config = fedbus.SessionConfig(
        rounds=2, clients_min=3, quorum=2, round_deadline_s=DEADLINE_S, evaluate_every=0, late_updates=late_updates
    )
    async with fedbus.connect(house.url) as federation, asyncio.timeout(60):
        session = await federation.start_session(config, model=zeros)
        async for event in session.events():
            if late_updates == "stale" and isinstance(event.data, records.RoundClosed):
                may_end.set()  # else it never may: the training of the round that has closed is given up
        result = await session.wait()
        arrays = await federation.models.get(result.model_version)
        first, second = await session.report(1), await session.report(2)
        info = await session.info()
    house.check()
    assert result.outcome == "completed" and made == trained
    for array in arrays.values():
        np.testing.assert_array_equal(array, np.full(array.shape, expected, array.dtype))

    slow = first.clients[0]
    late = late_updates == "stale"
    assert (slow.client, slow.outcome, slow.seconds) == ("c", "late" if late else "missed", None)
    assert slow.what.startswith("connected"), slow
    assert first.why.startswith("closed at its deadline with 2 of 3 updates: c was ") and first.outcomes["counted"] == 2
    assert first.fixed_at - first.opened_at >= DEADLINE_S
    assert info.rounds[0].not_counted == {
        "c": "late: counts in round 2 at 0.5 of its weight, if it comes" if late else "no update in time"
    }
    (again,) = (one for one in second.clients if one.client == "c")
    assert (again.outcome, again.stale, again.weight) == ("stale" if late else "counted", int(late), 2.0)
    assert info.rounds[1].counted == 3 and info.rounds[1].not_counted == {}
