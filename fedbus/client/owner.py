"""What the owner of a client's data has decided: policy, consent, pause, and which sessions are left.

An `Owner` is asked about each task before anything is done about it (`Owner.judge`), and says yes, or why not. What it
goes by is the policy file (taken anew when it changes), the answers to consent cards, and what was said through the
client's methods or `fedbus client pause|leave` - the last three stand in the state directory, so that a client that is
started again is as its owner left it. ``digest`` names all of it in a `Hello`: who declined is asked again when that
is another.

The owner of a crowd is one: whatever is decided is for all of its clients, and a day's limits are theirs together.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbus.client.cards import Card, OnCard, asked_of, card_of, digest_of
from fedbus.client.decisions import Decisions, Shown
from fedbus.client.policyfile import PolicyFile
from fedbus.clock import Clock
from fedbus.config.policy import Policy, Spent, day_of, decide, is_within
from fedbus.messages.tasks import SessionCard, Task
from fedbus.together import together
from fedbus.workers import aside

log = logging.getLogger("fedbus.client")

CHECK_S = 1.0
"""How often the policy file and the hours are looked at."""

CONSENT_S = 15.0
"""How long a round may wait for its owner's answer to a card; then it goes on without, and the client is asked again
when the answer is there."""

CARDS_MAX = 1000
"""Cards that are remembered: as many as a client's sessions."""

LEFT = "its owner has left this session"
PAUSED = "its owner has paused it"
NOT_YET = "its owner has not agreed to it yet"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something may be; if not why, and until when. ``silent``: nobody is told, for now."""

    allowed: bool
    reason: str = ""
    until_at: float = 0.0
    silent: bool = False


YES = Verdict(True)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client is given of its owner: a policy or its file, whom to show cards, where all that is written down."""

    policy: Path | Policy | None = None
    on_card: OnCard | None = None
    directory: Path | None = None
    outgoing: Path | None = None

    @property
    def log_file(self) -> Path | None:
        """Where what has left is written down."""
        return self.outgoing or (self.directory / "outgoing.jsonl" if self.directory else None)


NO_WISHES = Wishes()
"""Of an owner who has said nothing."""


class Owner:
    """One client's owner, or one crowd's. Raises `ConfigError` for a policy that cannot be: nothing runs without.

    ``changed`` is called when what was decided may be decided otherwise now.
    """

    def __init__(self, wishes: Wishes, workspace: str, clock: Clock) -> None:
        self._wishes = wishes
        self._workspace = workspace
        self._clock = clock
        self._file = PolicyFile.of(wishes.policy) if wishes.policy is not None else None
        self._kept = Decisions()
        self._told: dict[str, tuple[SessionCard | None, Shown]] = {}
        self._dirty = False
        self._to_ask: asyncio.Queue[Card] = asyncio.Queue()
        self._asking: set[str] = set()
        self._moment: object = None
        self.changed: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Read what was decided before. Raises `ConfigError` where that cannot be read: nobody guesses it."""
        if self._wishes.directory is not None:
            self._kept = Decisions.read(self._wishes.directory)

    # --- what was decided ---

    @property
    def paused(self) -> bool:
        """Whether nothing is to be done, and nothing said."""
        return self._kept.paused

    @property
    def policy(self) -> Policy | None:
        """What holds now."""
        return None if self._file is None else self._file.policy

    @property
    def digest(self) -> str:
        """What was decided, in a word; empty where nothing was."""
        return self._digest(self._kept.left)

    def _digest(self, left: Iterable[str]) -> str:
        left = sorted(left)
        if self._file is None and self._wishes.on_card is None and not left:
            return ""
        answers = sorted([name, shown.answer] for name, shown in self._kept.shown.items() if shown.answer)
        return digest_of([self._file.digest if self._file else "", left, answers])[:32]

    @property
    def cards(self) -> Mapping[str, Card]:
        """The cards of the sessions that are known."""
        return {name: shown.card for name, shown in self._kept.shown.items()}

    def status(self) -> dict[str, Any]:
        """Say how things stand, as JSON."""
        return {"paused": self._kept.paused, "left": sorted(self._kept.left), "cards": len(self._kept.shown)}

    def has_left(self, session: str) -> bool:
        """Whether a session was left."""
        return session in self._kept.left

    def pause(self) -> None:
        """From now on nothing is done."""
        self._kept.paused = True
        self._save()

    def resume(self, session: str = "") -> None:
        """Go on; take part again in a session that was left, where one is named."""
        self._kept.left.pop(session, None)
        self._kept.withdrawn.pop(session, None)
        self._kept.paused = self._kept.paused and bool(session)
        self._save()

    def leave(self, session: str, *, withdrawn: int = 0) -> None:
        """Take no part in a session any more; ``withdrawn``: the round of which an update is taken back, if one is."""
        self._kept.left[session] = self._clock.now()
        if withdrawn:
            self._kept.withdrawn[session] = withdrawn
        while len(self._kept.left) > CARDS_MAX:
            oldest = next(iter(self._kept.left))
            self._kept.left.pop(oldest)
            self._kept.withdrawn.pop(oldest, None)
        self._save()

    def withdrew(self, session: str) -> int:
        """Return the round of which an update was taken back when a session was left; 0: none was."""
        return self._kept.withdrawn.get(session, 0)

    def ended(self, session: str) -> None:
        """Forget what was decided of a session that is over: another one of its name is another question."""
        self._told.pop(session, None)
        left, shown = self._kept.left.pop(session, None), self._kept.shown.get(session)
        self._kept.withdrawn.pop(session, None)
        if shown is not None and shown.decision != "ended":
            shown.answer, shown.decision, shown.reason = "", "ended", f"it was {shown.decision}"
        elif left is None:
            return
        self._save()

    # --- deciding ---

    def judge(self, task: Task, *, here: bool = False) -> Verdict:
        """Return whether a task may be done; ``here``: its model need not be fetched."""
        if task.state not in ("train", "evaluate"):
            return YES
        if self._kept.paused:
            return Verdict(False, PAUSED, silent=True)
        if task.session in self._kept.left:
            return Verdict(False, LEFT)
        shown = self._show(task)
        verdict = self._by_policy(task, here=here)
        if verdict.allowed and self._wishes.on_card is not None:
            verdict = self._by_answer(shown)
        self._note(shown, verdict)
        return verdict

    def _show(self, task: Task) -> Shown:
        """Remember what a session is; the same question is not asked twice."""
        told = self._told.get(task.session)
        if told is not None and told[0] == task.card:
            return told[1]  # of a crowd the tasks of thousands say the same
        card = card_of(self._workspace, task)
        shown = self._kept.shown.get(task.session)
        if shown is None or shown.card.identity != card.identity:
            shown = self._kept.shown[task.session] = Shown(card, at=self._clock.now())
            while len(self._kept.shown) > CARDS_MAX:
                oldest = next(iter(self._kept.shown))
                self._kept.shown.pop(oldest)
                self._told.pop(oldest, None)
        elif shown.card.model != card.model:
            shown.card = card
        self._told[task.session] = task.card, shown
        return shown

    def _by_policy(self, task: Task, *, here: bool) -> Verdict:
        if self._file is None:
            return YES
        found = decide(self._file.policy, asked_of(self._workspace, task, here=here), self._clock.now(), self._today())
        return Verdict(found.allowed, found.reason, found.until_at)

    def _by_answer(self, shown: Shown) -> Verdict:
        if shown.answer:
            return YES if shown.answer == "yes" else Verdict(False, shown.answer)
        if shown.card.session not in self._asking:
            self._asking.add(shown.card.session)
            shown.asked_at = self._clock.now()
            self._to_ask.put_nowait(shown.card)
        return Verdict(False, NOT_YET, silent=self._clock.now() < shown.asked_at + CONSENT_S)

    def _note(self, shown: Shown, verdict: Verdict) -> None:
        """Log a card with what is decided, when that is news."""
        decision = "accepted" if verdict.allowed else "asked" if verdict.reason == NOT_YET else "declined"
        if (shown.decision, shown.reason) == (decision, verdict.reason):
            return
        first = not shown.decision
        shown.decision, shown.reason, shown.at = decision, verdict.reason, self._clock.now()
        how = "no policy: all sessions are accepted" if self._file is None and verdict.allowed else verdict.reason
        log.info("%s: %s%s", shown.card.session, decision, f": {how}" if how else "")
        if first:
            log.info("%s", shown.card.text())
        self._save()

    # --- what is used of a day ---

    def _today(self) -> Spent:
        assert self._file is not None, "what is used counts where there is a policy"
        day = day_of(self._file.policy, self._clock.now())
        if self._kept.spent is None or self._kept.spent.day != day:
            self._kept.spent = Spent(day)
        return self._kept.spent

    def spend(self, *, up: int = 0, down: int = 0, begun: tuple[str, int] | None = None) -> None:
        """Take note of what was used: bytes, or a round that is begun."""
        if self._file is None:
            return
        spent = self._today()
        spent.bytes_up, spent.bytes_down, self._dirty = spent.bytes_up + up, spent.bytes_down + down, True
        if begun is not None and begun not in spent.rounds:
            spent.rounds.add(begun)
            self._save()

    # --- running ---

    async def run(self) -> None:
        """Watch the policy file and the hours, and ask about cards; runs until cancelled."""
        async with together() as group:
            group.create_task(self._ask_all(group))
            while True:
                # Nobody who has no policy and asks nobody is to be woken.
                idle = self._file is None and self._wishes.on_card is None
                await (asyncio.Event().wait() if idle else asyncio.sleep(CHECK_S))
                if self._dirty:
                    self._save()
                moment = self._now()
                if moment != self._moment:
                    self._moment = moment
                    self.changed()

    def _now(self) -> object:
        """Return what decisions go by beside tasks; where it is another, they may be others."""
        now = self._clock.now()
        late = [
            name
            for name, shown in self._kept.shown.items()
            if name in self._asking and now > shown.asked_at + CONSENT_S
        ]
        if self._file is None:
            return late
        self._file.look()
        policy = self._file.policy
        return self._file.digest, is_within(policy.hours, now), day_of(policy, now), late

    async def _ask_all(self, group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(self._ask(await self._to_ask.get()))

    async def _ask(self, card: Card) -> None:
        assert self._wishes.on_card is not None, "cards are queued for somebody"
        try:
            answer = await _answer(self._wishes.on_card, card)
        except Exception as error:  # noqa: BLE001 - the owner's function may raise anything
            log.warning("%s: asking its owner failed: %s: %s", card.session, type(error).__name__, error)
            answer = False
        self._asking.discard(card.session)
        shown = self._kept.shown.get(card.session)
        if shown is not None and shown.card.identity == card.identity:
            refusal = answer if isinstance(answer, str) and answer else "its owner has not agreed to it"
            shown.answer = "yes" if answer is True else refusal[:500]
            self._save()
            self.changed()

    def close(self) -> None:
        """Write what was used; idempotent."""
        if self._dirty:
            self._save()

    def _save(self) -> None:
        self._dirty = False
        if self._wishes.directory is not None:
            self._kept.save(self._wishes.directory)


async def _answer(on_card: OnCard, card: Card) -> bool | str:
    """Ask, in a thread where the function is a plain one."""
    if inspect.iscoroutinefunction(on_card):
        return await on_card(card)  # type: ignore[no-any-return]
    answer = await aside(on_card, card)  # a person may never answer, and that is not to hold up the end of a process
    return await answer if inspect.isawaitable(answer) else answer
