"""The card of a session: what a data owner is shown before a client takes part in it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedbus.config.policy import Asked
from fedbus.messages.tasks import Task
from fedbus.tensors.digest import Hasher


@dataclass(frozen=True, slots=True)
class Card:
    """What a session is, for its data owner to agree to: everything that is known before anything is done for it.

    ``started_by``: who started it. ``updates_min``: fewest updates that a model is made of; ``answers_min``,
    ``reveal``: fewest answers that an evaluation is kept of, and whether each one's numbers or their sums. ``metrics``:
    without which the strategy cannot do. ``known``: whether the coordinator told all this.
    """

    session: str
    workspace: str
    known: bool = True
    purpose: str = ""
    description: str = ""
    started_by: str = ""
    strategy: str = ""
    codec: str = ""
    rounds: int = 0
    model: str = ""
    model_bytes: int = 0
    clients_min: int = 0
    updates_min: int = 0
    answers_min: int = 0
    reveal: str = "clients"
    residency: str = "prefer"
    metrics: tuple[str, ...] = ()
    evaluates: bool = False
    queries: int = 0

    @property
    def identity(self) -> str:
        """A digest of all that an answer is about; the model goes on, the question is the same."""
        return digest_of(asdict(replace(self, model="", model_bytes=0)))

    def text(self) -> str:
        """Say it in lines, for a terminal."""
        asked = (
            ["train"] * (self.rounds > 0) + ["evaluate"] * self.evaluates + ["answer questions"] * (self.queries > 0)
        )
        kept = "each one's numbers" if self.reveal == "clients" else "sums alone"
        rows = [
            ("purpose", self.purpose or "(not said)"),
            ("about", self.description or "(nothing)"),
            ("started by", self.started_by or "(not said)"),
            ("asks to", ", ".join(asked) or "(not said)"),
            ("strategy", f"{self.strategy}, updates encoded by {self.codec}, {self.rounds} rounds"),
            ("model", f"{self.model}, {self.model_bytes} bytes: as much leaves in each round at most"),
            ("cohort", f"a model of {self.updates_min} updates or more; answers of {self.answers_min} clients or more"),
            ("kept", f"{kept}; an update may leave its region: {'yes' if self.residency == 'prefer' else 'no'}"),
            ("needs", f"metrics {', '.join(self.metrics)}" if self.metrics else "no metrics"),
        ]
        head = f"session {self.session} in workspace {self.workspace}"
        if not self.known:
            return f"{head}\n  its coordinator does not say what it is"
        return "\n".join([head, *(f"  {name:10s} {printable(text)}" for name, text in rows)])


OnCard = Callable[[Card], "bool | str | Awaitable[bool | str]"]
"""Asked before a session is joined: True, False, or why not in words that others may read."""


def card_of(workspace: str, task: Task) -> Card:
    """Return the card of the session that a task is of."""
    card, session = task.card, task.session
    if card is None:
        return Card(session, workspace, known=False)
    return Card(
        session=session,
        workspace=workspace,
        purpose=printable(card.purpose),
        description=printable(card.description),
        started_by=printable(card.by),
        strategy=card.strategy,
        codec=card.codec,
        rounds=card.rounds,
        model=card.version,
        model_bytes=card.nbytes,
        clients_min=card.clients_min,
        updates_min=card.updates_min,
        answers_min=card.answers_min,
        reveal=card.reveal,
        residency=card.residency,
        metrics=tuple(map(printable, card.metrics)),
        evaluates=card.evaluates,
        queries=card.queries,
    )


def asked_of(workspace: str, task: Task, *, here: bool) -> Asked:
    """Return what a policy decides about; ``here``: the model need not be fetched."""
    if task.train is not None and task.state == "train":
        of_task: dict[str, Any] = {"what": "train", "round": task.train.round}
    else:
        assert task.evaluate is not None, "a task that is judged asks for something"
        of_task = {"what": "query" if task.evaluate.queries else "evaluate", "round": task.evaluate.round}
    card = task.card
    if card is None:
        return Asked(workspace=workspace, session=task.session, told=False, **of_task)
    fetched = 0 if here or of_task["what"] == "query" else card.nbytes
    return Asked(
        workspace=workspace,
        session=task.session,
        purpose=card.purpose,
        by=card.by,
        strategy=card.strategy,
        metrics=card.metrics,
        updates_min=card.updates_min,
        answers_min=card.answers_min,
        reveal=card.reveal,
        nbytes_down=fetched,
        nbytes_up=card.nbytes if of_task["what"] == "train" else 0,
        **of_task,
    )


def printable(text: str) -> str:
    """Return a text of a stranger in one line that a terminal shows and does not obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def digest_of(value: object) -> str:
    """Return a digest of a JSON value."""
    hasher = Hasher()
    hasher.update(json.dumps(value, sort_keys=True).encode())
    return hasher.hexdigest()
