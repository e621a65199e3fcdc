"""What a combiner does with a session's uploads: who may send, how much, what counts, when the round is merged.

            OrderSeen(fold | merge)            Prepared
   IDLE ---------------------------> PREPARING ---------> FOLDING <-----------------+
    ^                                    |                   |  merge, and all that   | another order: what
    |                                    | (another round)   |  counts is folded      | no longer counts is
    |  OrderSeen(rest)                   v                   v                        | undone first
    +------------------------------- (any phase)   MERGED: partial sent, or model ---+
                                                             stored and reported

   one upload:   QUEUED --room--> RECEIVING --last chunk, digest right--> ACCEPTED --no longer counts--> (undone)
                  |  ^                |  |
                  |  +-- too slow ----+  +--digest wrong, not finite, credit ignored, ...--> REFUSED (undone)
                  |                                             ^
                  +--all of it came at once---> WHOLE ----------+---> ACCEPTED
                     an earlier life accepted it ---> KEPT --folded from the spool--> ACCEPTED

`allowed` is what may be folded now: the attempts of clients that the order names, and the partials of those below us.
Whatever is folded and no longer allowed is undone from the spool, exactly; so a change of mind of the coordinator costs
no more than that. Credits bound memory (`fedbus.combiner.slots`). Chunks come in order; one that is missing or damaged
is asked for again, one that comes twice is ignored. Who holds room and makes less than the least progress gives it to
those who wait, keeps what it has sent, and goes on in its turn. What a sender may not send is answered with the reason,
at most once a second; who goes on beyond its credit is refused. How a round ends: `fedbus.combiner.closing`.

A process that was killed comes back as the same incarnation, if its spool is whole: what it had accepted of the round
that its order names is folded again, and reported again; what it had refused stays refused. Nobody sends that a second
time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from fedbus.combiner.closing import Closing
from fedbus.combiner.early import Early, bare
from fedbus.combiner.events import (
    Begun,
    ChunkArrived,
    Damaged,
    Effect,
    Event,
    Fold,
    Folded,
    FoldWhole,
    Kept,
    Key,
    Note,
    OrderSeen,
    PartialSent,
    Prepare,
    Prepared,
    PrepareFailed,
    Refold,
    Release,
    Report,
    Reset,
    RoomMade,
    Stored,
    StoreFailed,
    Tell,
    Ticked,
    Undo,
    Unfit,
)
from fedbus.combiner.slots import WINDOW_BYTES, Room, Slots
from fedbus.combiner.uploads import Standing, Upload, allowed_by, state_of, tell, verdict_of, weight_of
from fedbus.errors import BadUpdate
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.uploads import UploadBegin

STALL_S = 5.0
"""How often a sender that holds room must have made progress, where others wait."""

PROGRESS_BYTES = 2**20
"""Least progress in that time, or a window, or all that is left: 1.7 Mbit/s."""

DAMAGES_MAX = 16
"""Damaged chunks after which an upload is refused: bits that flip so often are not chance."""

EXCESS_MAX = 64
"""Chunks beyond the credit after which an upload is refused, or two windows of tiny ones: what a sender had under way
to an earlier self of ours is fewer."""

ANSWER_S = 1.0
"""Pause between two answers to what a sender may not send: a flood of chunks is no flood of answers."""

STRAYS_MAX = 10_000
"""Senders of what was not announced that are answered between two ticks."""

RECORDS_MAX = 200_000
"""Uploads that are remembered: no stranger's flood of announcements may fill the memory."""

REST_S = 600.0
"""How long a session rests before the room is given back that it keeps for its next round."""


class Phase(Enum):
    """Where a session's round stands in this combiner."""

    IDLE = "idle"
    PREPARING = "preparing"
    FOLDING = "folding"
    MERGED = "merged"


@dataclass(slots=True)
class Machine:
    """The decisions of one session in one combiner; ``room`` is shared with its other sessions."""

    session: str
    name: str
    incarnation: str
    room: Room = field(default_factory=Room)
    window_bytes: int = WINDOW_BYTES
    phase: Phase = Phase.IDLE
    order: Order | None = None
    base: Prepared | None = None
    uploads: dict[Key, Upload] = field(default_factory=dict)
    accepted: set[Key] = field(default_factory=set)
    allowed: frozenset[Key] = frozenset()
    verdicts: list[reports.Verdict] = field(default_factory=list)
    early: Early = field(default_factory=Early)
    strays: set[Peer] = field(default_factory=set)
    begun: int = 0
    is_news: bool = False
    """Whether an earlier life of ours may have left senders without an answer; until they are told that we are back."""
    noted: dict[Key, int] = field(default_factory=dict)
    notes: int = 0
    resting_since: float | None = None
    slots: Slots = field(init=False)
    closing: Closing = field(init=False)

    def __post_init__(self) -> None:
        self.slots = Slots(self.session, self.room, self.window_bytes)
        self.closing = Closing(self.session, self.name)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of an event; returns what is to be done."""
        return _TABLE[type(event)](self, event, now)

    def flush(self) -> list[Effect]:
        """Report the verdicts gathered since the last time, together."""
        if not self.verdicts or self.order is None:
            return []
        size = reports.fitting([len(verdict.metrics) for verdict in self.verdicts])
        batch, self.verdicts = self.verdicts[:size], self.verdicts[size:]
        judged = reports.UpdatesJudged(
            session=self.session, round=self.order.round, incarnation=self.incarnation, verdicts=tuple(batch)
        )
        return [Report(judged), *self.flush()]

    def check(self) -> None:
        """Assert what must hold after every step."""
        self.slots.check()
        for key in self.slots.held:
            upload = self.uploads[key]
            assert upload.standing is Standing.RECEIVING
            assert upload.folded <= upload.next_chunk <= upload.granted <= upload.begin.chunks
            assert upload.next_chunk - upload.folded <= upload.window, "more under way than was granted"
        assert len(self.accepted) <= len(self.uploads) <= len(self.allowed)
        if self.phase is Phase.MERGED:
            assert len(self.accepted) == len(self.allowed), "merged without all that counts"

    # --- orders ---

    def _order_seen(self, event: OrderSeen, now: float) -> list[Effect]:
        order, known = event.order, self.order
        if order.incarnation != self.incarnation or (known is not None and order.revision < known.revision):
            return []
        self.order = order
        if order.state in ("rest", "ended"):
            if known is None or known.state not in ("rest", "ended"):
                self.resting_since = now  # and not anew with each repeat of the order
            return self._rest()
        self.resting_since = None
        allowed = allowed_by(order, self.name)
        if known is None or self.phase is Phase.IDLE or not _is_same_round(known, order):
            effects = self._rest()
            self.phase, self.allowed = Phase.PREPARING, allowed
            return [*effects, Prepare(order)]
        if allowed == self.allowed and known.state == order.state and known.merge == order.merge:
            return []
        return self._change(allowed, now)

    def _rest(self) -> list[Effect]:
        """Drop everything of the session."""
        effects = self.closing.stop()
        if self.phase is not Phase.IDLE:
            effects.append(Reset())
        self.phase, self.base, self.allowed = Phase.IDLE, None, frozenset()
        self.uploads, self.accepted, self.verdicts, self.noted = {}, set(), [], {}
        self.slots.clear()
        return effects

    def _change(self, allowed: frozenset[Key], now: float) -> list[Effect]:
        """The order changed within the round: undo what no longer counts, go on with the rest."""
        effects = self.closing.stop()
        if self.phase is Phase.MERGED:
            self.phase = Phase.FOLDING
        self.allowed = allowed
        for key in [key for key in self.uploads if key not in allowed]:
            effects += self._drop(key)
        return effects + self._fill_slots(now) + self._hear_early(now) + self._merge_if_complete()

    def _drop(self, key: Key) -> list[Effect]:
        """Forget an upload; what is folded of it, or on its way to be, is undone behind it."""
        upload = self.uploads.pop(key)
        self.accepted.discard(key)
        self.slots.leave(key)
        # Refused, it was undone then. Else always: the fold may know an upload of which it has no chunk (all damaged).
        return [] if upload.standing is Standing.REFUSED else [Undo(key)]

    def _prepared(self, event: Prepared, now: float) -> list[Effect]:
        if not self._is_prepared_for(event):
            return []
        self.phase, self.base = Phase.FOLDING, event
        effects = [effect for kept in event.kept for effect in self._take_up(kept)]
        effects += self._hear_early(now) + self._merge_if_complete()
        return effects + self._say_that_we_are_back()

    def _say_that_we_are_back(self) -> list[Effect]:
        """Tell senders that have asked nothing yet that they may: one that had no answer for long asks in 8 s only."""
        if not self.is_news:
            return []
        self.is_news = False
        return [tell(self.session, key) for key in sorted(self.allowed - self.uploads.keys())]

    def _take_up(self, kept: Kept) -> list[Effect]:
        """Go on with an update that an earlier life has judged, if it still counts."""
        key, begin = kept.key, kept.begin
        if kept.reason:
            self.noted[key], self.notes = kept.serial, max(self.notes, -kept.serial)
            if key in self.allowed:
                self.uploads[key] = upload = Upload(begin, Standing.REFUSED, reason=kept.reason)
                self.verdicts.append(verdict_of(key, upload, accepted=False, norm=0.0))
            return []
        self.begun = max(self.begun, kept.serial)
        if key not in self.allowed:
            return [Undo(key)]
        assert self.base is not None and self.order is not None
        every = begin.chunks
        try:
            weight = weight_of(self.base, self.order, key.sender, begin)
        except BadUpdate as error:  # an earlier version of ours may have taken what we do not
            self.uploads[key] = Upload(begin, Standing.REFUSED, reason=str(error))
            return [Undo(key), *self._judge(key, accepted=False)]
        self.uploads[key] = Upload(begin, Standing.KEPT, weight, every, credit=every, granted=every, serial=kept.serial)
        return [Refold(key, kept.serial, begin.nbytes, weight)]

    def _prepare_failed(self, event: PrepareFailed, now: float) -> list[Effect]:
        if not self._is_prepared_for(event):
            return []
        assert self.order is not None
        self.phase = Phase.IDLE  # the next order, perhaps of clients that are moved here, tries again
        merge = self.order.merge
        if merge is not None and (merge.root == self.name or merge.partials):
            return [self.closing.failed(self.order, event.reason)]
        clients = {key.sender.name: key.attempt for key in self.allowed if key.sender.role == "client"}
        self.verdicts += [
            reports.Verdict(client=name, attempt=attempt, accepted=False, reason=event.reason[:2000])
            for name, attempt in sorted(clients.items())
        ]
        return []

    def _is_prepared_for(self, event: Prepared | PrepareFailed) -> bool:
        """Whether the answer is to the order that stands now: another may have come, of another part of the model."""
        order = self.order
        if self.phase is not Phase.PREPARING or order is None:
            return False
        return (event.round, event.part, event.parts) == (order.round, order.part, order.parts)

    # --- uploads ---

    def _begun(self, event: Begun, now: float) -> list[Effect]:
        begin, order = event.begin, self.order
        key = Key(event.sender, begin.round, begin.attempt)
        if order is None or begin.round > order.round:
            return self._too_early(key, event, now)
        if begin.round < order.round or order.state in ("rest", "ended"):
            under_way = f"; round {order.round} is under way" if begin.round < order.round else ""
            return [self._refusal(key, f"round {begin.round} is closed{under_way}")]
        if self.phase in (Phase.IDLE, Phase.PREPARING):
            return self._too_early(key, event, now)
        if key not in self.allowed:
            return self._begun_not_allowed(key, order, event, now)
        return self._begun_allowed(key, order, event, now)

    def _begun_allowed(self, key: Key, order: Order, event: Begun, now: float) -> list[Effect]:
        """Say how a known upload stands; fold, or let wait, what is new; refuse what cannot be folded."""
        begin = event.begin
        if event.bare:
            return [tell(self.session, key, resend=True)]  # we had no room to keep what came with it
        known = self.uploads.get(key)
        if event.flaw and known is not None and known.standing is not Standing.REFUSED:
            return []  # whoever has sent this, it is not the one whose upload we know
        is_whole = bool(begin.inline) or not begin.chunks
        if known is not None and known.begin.digest == begin.digest:
            if not is_whole or known.is_settled or known.standing in (Standing.WHOLE, Standing.KEPT):
                return [state_of(self.session, key, known, resend=not is_whole, answers=begin.number)]
        elif known is not None and known.standing in (Standing.KEPT, Standing.ACCEPTED):
            # The client was restarted and trained again, not bit for bit the same: the first one counts.
            return [state_of(self.session, key, known)]
        effects = self._drop(key) if known is not None else []
        try:
            weight = self._admit(order, event.sender, begin, event.flaw)
        except BadUpdate as error:
            self.uploads[key] = Upload(bare(begin), Standing.REFUSED, reason=str(error))
            return effects + self._judge(key, accepted=False)
        self.begun += 1
        since = now if event.since_at is None else event.since_at
        if is_whole:
            short = bare(begin)
            self.uploads[key] = Upload(
                short, Standing.WHOLE, weight, next_chunk=begin.chunks, serial=self.begun, since_at=since
            )
            return [*effects, FoldWhole(key, self.begun, begin.inline, weight, short)]
        self.uploads[key] = Upload(begin, weight=weight, serial=self.begun, since_at=since)
        self.slots.wait(key)
        effects += self._fill_slots(now)
        return effects if key in self.slots.held else [*effects, tell(self.session, key)]

    def _admit(self, order: Order, sender: Peer, begin: UploadBegin, flaw: str) -> float:
        """Return the weight with which a new upload is folded; `BadUpdate` says why it is not."""
        if flaw:
            raise BadUpdate(flaw)
        assert self.base is not None
        weight = weight_of(self.base, order, sender, begin)
        if len(self.uploads) >= RECORDS_MAX:
            raise BadUpdate(f"this combiner holds {RECORDS_MAX} uploads already")
        return weight

    def _too_early(self, key: Key, event: Begun, now: float) -> list[Effect]:
        """Let a sender wait that knows more than we do yet; it is answered again when we do, not only when it asks."""
        self.early.keep(event, now)
        return [tell(self.session, key)]

    def _hear_early(self, now: float) -> list[Effect]:
        """Answer those who were too early, now that an order is here or the fold is ready."""
        return [effect for event in self.early.take() for effect in self._begun(event, now)]

    def _begun_not_allowed(self, key: Key, order: Order, event: Begun, now: float) -> list[Effect]:
        """Refuse what cannot be allowed any more; let wait what an order under way may allow."""
        attempts = [known.attempt for known in self.allowed if known.sender == key.sender]
        if attempts and key.attempt < attempts[0]:
            return [self._refusal(key, f"attempt {key.attempt} was replaced by attempt {attempts[0]}")]
        # A later attempt is of a client that was moved here: the order that allows it is on its way.
        fixed = order.merge is not None and key.attempt < order.merge.attempt
        if key.sender.role == "client" and fixed and not attempts:
            return [self._refusal(key, f"round {order.round} has closed without this update")]
        return self._too_early(key, event, now)

    def _chunk_arrived(self, event: ChunkArrived, now: float) -> list[Effect]:
        sender, _, round_, attempt, chunk, digest = event.address
        key = Key(sender, round_, attempt)
        upload = self.uploads.get(key)
        if upload is None:
            return self._stray(key)
        expected = chunk == upload.next_chunk and chunk < upload.credit and upload.standing is Standing.RECEIVING
        if not expected and not self._came_late(upload, chunk):
            return self._unexpected(key, upload, chunk, now)
        upload.next_chunk += 1
        begin = upload.begin
        last = upload.next_chunk == begin.chunks
        about = begin if last else None
        return [
            Fold(key, upload.serial, chunk, event.data, digest, upload.weight, last, about, begin.nbytes, begin.packed)
        ]

    def _came_late(self, upload: Upload, chunk: int) -> bool:
        """Whether a chunk is the next one, of a sender that lost its place while it was under way.

        It is here, so it is taken: where a chunk takes longer than a turn, nothing would ever be.
        """
        is_next = chunk == upload.next_chunk == upload.folded and chunk < upload.granted
        return upload.standing is Standing.QUEUED and is_next

    def _unexpected(self, key: Key, upload: Upload, chunk: int, now: float) -> list[Effect]:
        """Ignore a chunk that is not the next one, and say why; ask for the one that is missing."""
        if upload.is_settled:
            return self._remind(key, upload, now, "")
        if chunk >= upload.granted:
            upload.excess += 1
            beyond = f"chunk {chunk} is beyond its credit of {upload.granted} chunks"
            if upload.excess > max(EXCESS_MAX, 2 * self._window(key)):
                return self._refuse(key, f"{upload.excess} chunks came without credit; {beyond}", now)
            return self._remind(key, upload, now, beyond)
        if upload.standing is not Standing.RECEIVING:
            return []  # it was under way when its sender lost its place
        if chunk < upload.next_chunk:
            return self._remind(key, upload, now, f"chunk {chunk} came twice, expected is chunk {upload.next_chunk}")
        if upload.gap_told == upload.next_chunk:
            return []
        upload.gap_told = upload.next_chunk
        missing = f"chunk {chunk} came, expected is chunk {upload.next_chunk}"
        return [state_of(self.session, key, upload, resend=True, reason=missing)]

    def _remind(self, key: Key, upload: Upload, now: float, reason: str) -> list[Effect]:
        """Say how things stand, and why, unless that was said just now."""
        if now < upload.answered_at + ANSWER_S:
            return []
        upload.answered_at = now
        return [state_of(self.session, key, upload, reason=reason)]

    def _stray(self, key: Key) -> list[Effect]:
        """Answer who sends what it has not announced to us, once between two ticks."""
        if key.sender in self.strays or len(self.strays) >= STRAYS_MAX or self.order is None:
            return []
        self.strays.add(key.sender)
        if key.round != self.order.round:
            reason = f"a chunk of round {key.round} came; round {self.order.round} is under way"
        else:
            reason = f"a chunk came of an update (attempt {key.attempt}) that was not announced, or does not count"
        return [tell(self.session, key, reason=reason)]

    def _folded(self, event: Folded, now: float) -> list[Effect]:
        upload = self._under_way(event.key, event.serial)
        if upload is None:
            return []
        upload.folded = event.chunk + 1
        if upload.folded >= upload.begin.chunks:
            return self._complete(event, upload, now)
        return self._extend(event.key, upload)

    def _under_way(self, key: Key, serial: int) -> Upload | None:
        """Return the upload that a result of the fold belongs to, if it is still being received."""
        upload = self.uploads.get(key)
        return None if upload is None or upload.serial != serial or upload.is_settled else upload

    def _complete(self, event: Folded, upload: Upload, now: float) -> list[Effect]:
        """Accept an upload of which everything is folded, if it is what was announced."""
        if event.digest != upload.begin.digest:
            return self._refuse(event.key, f"expected the digest {upload.begin.digest}, got {event.digest}", now)
        upload.standing = Standing.ACCEPTED
        self.accepted.add(event.key)
        self.slots.leave(event.key)
        effects = self._judge(event.key, accepted=True, norm=event.norm, now=now)
        return effects + self._fill_slots(now) + self._merge_if_complete()

    def _damaged(self, event: Damaged, now: float) -> list[Effect]:
        upload = self._under_way(event.key, event.serial)
        if upload is None or event.chunk >= upload.next_chunk:
            return []
        upload.damages += 1
        if upload.damages > DAMAGES_MAX:
            return self._refuse(
                event.key, f"{upload.damages} chunks arrived damaged, the last was chunk {event.chunk}", now
            )
        upload.next_chunk = event.chunk
        return [state_of(self.session, event.key, upload, resend=True, reason=f"chunk {event.chunk} was damaged")]

    def _unfit_chunk(self, event: Unfit, now: float) -> list[Effect]:
        upload = self._under_way(event.key, event.serial)
        if upload is None:
            return []
        return self._refuse(event.key, event.reason, now)

    def _refuse(self, key: Key, reason: str, now: float) -> list[Effect]:
        """Refuse an upload that was being received: it is undone whole."""
        upload = self.uploads[key]
        upload.standing, upload.reason = Standing.REFUSED, reason[:2000]
        self.slots.leave(key)
        return [Undo(key), *self._judge(key, accepted=False), *self._fill_slots(now)]

    def _judge(self, key: Key, *, accepted: bool, norm: float = 0.0, now: float | None = None) -> list[Effect]:
        """Tell the sender, and note for the coordinator."""
        upload = self.uploads[key]
        told = state_of(self.session, key, upload)
        if key.sender.role == "client":
            self.verdicts.append(verdict_of(key, upload, accepted=accepted, norm=norm, now=now))
        if accepted:
            return [told]
        if key not in self.noted:
            self.notes += 1
            self.noted[key] = -self.notes  # uploads have the numbers above 0
        return [Note(key, self.noted[key], upload.begin, upload.reason), replace(told, is_news=True)]

    # --- room and leases ---

    def _room_made(self, event: RoomMade, now: float) -> list[Effect]:
        return self._fill_slots(now)

    def _fill_slots(self, now: float) -> list[Effect]:
        """Give free room to those who wait longest."""
        effects: list[Effect] = []
        while self.base is not None and (key := self.slots.first()) is not None:
            upload, chunk_bytes = self.uploads[key], self.base.chunk_bytes_of(key.sender.role)
            window = self.slots.window(chunk_bytes)
            chunks = min(window, upload.begin.chunks - upload.folded)
            if not self.slots.take(key, chunks, chunk_bytes, upload.begin.nbytes):
                break
            upload.receive(window, now)
            effects.append(state_of(self.session, key, upload, resend=True))
        return effects

    def _window(self, key: Key) -> int:
        """Chunks of one upload that may be under way now."""
        return self.slots.window(self.base.chunk_bytes_of(key.sender.role)) if self.base is not None else 0

    def _extend(self, key: Key, upload: Upload) -> list[Effect]:
        """Grant more as chunks are folded; say so each half window, not for each chunk."""
        if upload.standing is not Standing.RECEIVING or not upload.extend():
            return []
        return [state_of(self.session, key, upload)]

    def _ticked(self, event: Ticked, now: float) -> list[Effect]:
        """Look at the leases, and give back what a session keeps that rests for long."""
        self.strays.clear()
        if self.resting_since is not None and now > self.resting_since + REST_S:
            self.resting_since = None
            return [Release()]
        effects: list[Effect] = []
        for key in list(self.slots.held):
            if key in self.slots.held and now > self.uploads[key].lease_at + STALL_S:
                effects += self._look_at_lease(key, self.uploads[key], now)
        return effects

    def _look_at_lease(self, key: Key, upload: Upload, now: float) -> list[Effect]:
        """Take the place of a sender that made too little of it, if somebody waits."""
        assert self.base is not None
        progress = PROGRESS_BYTES // self.base.chunk_bytes_of(key.sender.role)
        least = min(progress, upload.window, upload.begin.chunks - upload.lease_chunk)
        if self.slots.only_slow_wait():
            least = 1  # to give the place from one slow sender to another wins nothing, and loses what is under way
        made = upload.next_chunk - upload.lease_chunk
        if made >= max(1, least) or upload.folded < upload.next_chunk:  # or it is the fold that is slow
            upload.renew(now)
            return []
        if not self.slots.is_wanted():
            return []
        self.slots.leave(key)
        upload.standing, upload.credit = Standing.QUEUED, upload.folded
        self.slots.wait(key, slow=True)
        slow = (
            f"{max(0, made)} chunks in {STALL_S:g} s, expected {max(1, least)}; others wait, so it goes on in its turn"
        )
        return [state_of(self.session, key, upload, reason=slow), *self._fill_slots(now)]

    # --- closing ---

    def _merge_if_complete(self) -> list[Effect]:
        """All that counts is folded and nothing else: close our part of the round, once."""
        order = self.order
        if self.phase is not Phase.FOLDING or order is None or order.merge is None or order.state != "merge":
            return []
        if len(self.accepted) < len(self.allowed):
            return []
        self.phase = Phase.MERGED
        return self.closing.begin(order)

    def _partial_sent(self, event: PartialSent, now: float) -> list[Effect]:
        return self.closing.partial_sent(event, self.order)

    def _stored(self, event: Stored, now: float) -> list[Effect]:
        return self.closing.stored(event, self.order)

    def _store_failed(self, event: StoreFailed, now: float) -> list[Effect]:
        return self.closing.store_failed(event, self.order)

    def _refusal(self, key: Key, reason: str) -> Tell:
        return tell(self.session, key, verdict="refused", reason=reason)


def _is_same_round(known: Order, order: Order) -> bool:
    """Whether an order goes on with what another began."""
    return known.state not in ("rest", "ended") and (known.round, known.part, known.parts) == (
        order.round,
        order.part,
        order.parts,
    )


_TABLE: dict[type[Event], Callable[..., list[Effect]]] = {
    OrderSeen: Machine._order_seen,
    Prepared: Machine._prepared,
    PrepareFailed: Machine._prepare_failed,
    Begun: Machine._begun,
    ChunkArrived: Machine._chunk_arrived,
    Folded: Machine._folded,
    Damaged: Machine._damaged,
    Unfit: Machine._unfit_chunk,
    PartialSent: Machine._partial_sent,
    Stored: Machine._stored,
    StoreFailed: Machine._store_failed,
    RoomMade: Machine._room_made,
    Ticked: Machine._ticked,
}
