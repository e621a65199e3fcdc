"""Journals of sessions that never ran, record by record as a coordinator would have written them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fedbus.bus.base import Bus
from fedbus.config.session import SessionConfig
from fedbus.messages import records
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Spent
from fedbus.messages.records import Entry, Record
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams
from fedbus.tensors.digest import Hasher
from fedbus.together import together

CLIENTS = 10
"""Of each session: a UpdatesRecorded of that many is some 2 KB."""

EVENTS = 10
"""Of each session: one round, its updates in two entries."""

WRITERS = 16
"""Sessions that are written at once: the broker syncs each entry, and answers those that wait together."""

BEGAN_AT = 1_750_000_000.0

STRATEGIES = ("fedavg", "fedadam", "fedyogi", "median")


def story(number: int) -> Iterator[tuple[float, Record]]:
    """Yield the records of a session, each with its time."""
    name, digest = session_name(number), Hasher().hexdigest()
    config = SessionConfig(rounds=1, strategy=STRATEGIES[number % len(STRATEGIES)], seed=number, clients_min=CLIENTS)
    clients = [f"site-{(number * 7 + index) % 997:03d}" for index in range(CLIENTS)]
    at = BEGAN_AT + 10.0 * number

    def accepted(client: str) -> records.AcceptedUpdate:
        metrics = {"loss": 1.0 / (1 + number % 50), "accuracy": (number % 100) / 100}
        spent = Spent(0.01, 0.2, 3.0, 0.4)
        return records.AcceptedUpdate(
            client=client, attempt=1, weight=100.0, nbytes=50_000, norm=1.0, digest=digest, metrics=metrics, spent=spent
        )

    half = CLIENTS // 2
    places = dict.fromkeys(clients, "combiner-1")
    measured = tuple(records.Measured(client=one, weight=100.0, metrics={"accuracy": 0.5}) for one in clients)
    happened: list[Record] = [
        records.SessionStarted(config=config, version=f"{name}-0", blob=f"{name}-0-b", digest=digest, nbytes=50_000),
        records.RoundOpened(
            round=1, attempt=1, version=f"{name}-0", blob=f"{name}-0-b", clients=places,
            incarnations={"combiner-1": "i"}, target=CLIENTS, deadline_at=at + 600.0,
        ),
        records.UpdatesRecorded(round=1, accepted=tuple(map(accepted, clients[:half]))),
        records.UpdatesRecorded(round=1, accepted=tuple(map(accepted, clients[half:]))),
        records.RoundClosing(
            round=1, attempt=2, counted=tuple(clients), root="combiner-1", publish=f"{name}-1-2",
            reason=f"{CLIENTS} of {CLIENTS} updates arrived", deadline_at=at + 600.0,
        ),
        records.ModelPublished(
            round=1, version=f"{name}-1", parent=f"{name}-0", session=name, blob=f"{name}-1-2", digest=digest,
            nbytes=50_000, at=at,
        ),
        records.RoundClosed(round=1, counted=CLIENTS, metrics={"loss": 0.5}, bytes_up=500_000, opened_at=at + 1.0),
        records.EvaluationOpened(
            round=1, version=f"{name}-1", blob=f"{name}-1-2", clients=tuple(clients), deadline_at=at + 900.0
        ),
        records.RoundEvaluated(
            round=1, version=f"{name}-1", metrics={"accuracy": 0.5}, clients=measured, answered=CLIENTS
        ),
        records.SessionEnded(outcome="completed", reason="1 rounds done", version=f"{name}-1", digest=digest),
    ]  # fmt: skip
    yield from ((at + index, record) for index, record in enumerate(happened))


def session_name(number: int) -> str:
    """Return what the session of a number is called."""
    return f"session-{number:05d}"


async def fill(bus: Bus, subjects: Subjects, sessions: int) -> int:
    """Write the journals of so many sessions, an entry a record; returns how many entries that are."""
    await ensure_streams(bus, subjects)
    numbers = iter(range(sessions))

    async def write() -> int:
        return sum([await _write(bus, subjects, number) for number in numbers])

    async with together() as group:
        writers = [group.create_task(write()) for _ in range(WRITERS)]
    return sum(writer.result() for writer in writers)


async def _write(bus: Bus, subjects: Subjects, number: int) -> int:
    name, last, count = session_name(number), 0, 0
    for at, record in story(number):
        entry = Entry.of(at, "bench", (record,), term=1)
        id_ = f"{name}-{count}"
        data = encode(Envelope(id_, subjects.workspace, "bench", entry))
        last = await bus.append(
            subjects.stream("journal"), subjects.journal(name), data, expected_last=last, message_id=id_
        )
        count += 1
        await asyncio.sleep(0)
    return count
