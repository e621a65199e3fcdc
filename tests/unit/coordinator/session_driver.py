"""Plays the service around a coordinator's machine: appends what it decides, keeps the boards, lets time pass."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from fedbus.config.session import SessionConfig
from fedbus.coordinator import events
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.sightings import Sighting
from fedbus.coordinator.state import Phase
from fedbus.messages import orders, records, reports, tasks
from fedbus.messages.envelope import ENVELOPE_BYTES_MAX, Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.planning import plan_of

DIGEST = "ab" * 32
DEFAULTS = {"rounds": 1, "clients_min": 2, "evaluate_every": 0}


@dataclass
class Driver:
    """One session, its journal and its boards."""

    machine: Machine = field(default_factory=lambda: Machine("s"))
    now: float = 1000.0
    journal: list[records.Entry] = field(default_factory=list)
    tasks: dict[str, tasks.Task] = field(default_factory=dict)
    orders: dict[str, orders.Order] = field(default_factory=dict)
    catalogue: list[records.ModelPublished] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    taken: list[tuple[str, str]] = field(default_factory=list)
    clients: dict[str, str] = field(default_factory=dict)
    combiners: dict[str, str] = field(default_factory=dict)
    client_regions: dict[str, str] = field(default_factory=dict)
    combiner_regions: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    seen: dict[str, Sighting] = field(default_factory=dict)
    posts: list[tuple[int, str, str]] = field(default_factory=list)
    said: int = 0
    read_again: int = 0

    @property
    def state(self):
        """What the journal says."""
        return self.machine.state

    @property
    def phase(self):
        """Where the session stands."""
        return self.state.phase

    @property
    def round(self):
        """The round under way."""
        return self.state.open_round

    def facts(self, kind=None):
        """All records so far, or those of a kind."""
        found = [record for entry in self.journal for record in entry.unpack()]
        return [record for record in found if kind is None or isinstance(record, kind)]

    def tell(self, event):
        """Hand in an event, without deciding."""
        before = copy.deepcopy(self.state)
        self._do(self.machine.handle(event, self.now))
        assert self.state == before, "an event changed the state without a record"

    def decide(self):
        """Let the machine decide until nothing more becomes true."""
        for _ in range(100):
            effects = self.machine.decide(self.now)
            if not effects:
                return
            self._do(effects)
        raise AssertionError("the machine decides for ever")

    def step(self, *told):
        """Events, then decisions."""
        for event in told:
            self.tell(event)
        self.decide()

    def after(self, seconds):
        """Time passes."""
        self.now += seconds
        self.decide()

    def _do(self, effects):
        for effect in effects:
            match effect:
                case events.Append(decided, expected):
                    assert expected == len(self.journal), "an append behind another entry than the last"
                    entry = records.Entry.of(self.now, "epoch", decided)
                    assert len(encode(Envelope("i", "w", "c", entry))) <= ENVELOPE_BYTES_MAX
                    self.journal.append(entry)
                    self._do(self.machine.handle(events.Appended(decided, self.now, len(self.journal)), self.now))
                    self.machine.check()
                    self._check_waits()
                case events.PostTask(client, task):
                    assert task.revision == len(self.journal)
                    self.tasks[client] = task
                    self.posts.append((task.revision, "task", client))
                case events.PostOrder(combiner, order):
                    assert order.revision == len(self.journal)
                    self.orders[combiner] = order
                    self.posts.append((order.revision, "order", combiner))
                case events.Catalogue(model):
                    self.catalogue.append(model)
                case events.Discard(blob):
                    self.discarded.append(blob)
                case events.Expire(model):
                    self.discarded.append(model.blob)
                case events.Acknowledge(peer, ids):
                    self.taken += [(peer.name, id_) for id_ in ids]
                case events.ReadAgain():
                    self.read_again += 1
                case _:
                    raise AssertionError(effect)
        self.machine.check()

    def _check_waits(self):
        waits = self.machine.waits()
        assert len(waits) == (self.phase not in (Phase.NEW, Phase.ENDED))
        for wait in waits:
            assert wait.what and wait.then and wait.session == "s"
            assert wait.since_at <= self.now + 1e-6 and wait.since_at < wait.until_at < float("inf")

    # --- people ---

    def start(self, plan=None, **settings):
        """Somebody starts the session; ``plan``: what its strategy asks of the rounds, if it is another one."""
        config = SessionConfig(**(DEFAULTS | settings))
        self.step(events.StartAsked(config, "blob-0", DIGEST, 12, "eve", plan=plan or plan_of(config)))
        return self

    def present(self, clients=None, combiners=None):
        """Who is there now: names, each with its incarnation."""
        self.clients = self.clients if clients is None else dict(clients)
        self.combiners = self.combiners if combiners is None else dict(combiners)
        self.step(self.roster())
        return self

    def roster(self):
        """Return who is there, and where."""
        regions = (
            {name: region for name, region in self.client_regions.items() if name in self.clients},
            {name: region for name, region in self.combiner_regions.items() if name in self.combiners},
        )
        return events.RosterChanged(
            self.clients,
            self.combiners,
            *regions,
            left=dict(self.left),
            client_attributes=dict(self.attributes),
            sight=self.sight,
        )

    def sight(self, client):
        """What was seen of a client: what the test says, else what follows from who is there and who left."""
        here, left = client in self.clients, self.left.get(client)
        return self.seen.get(client) or Sighting(here=here, seen_at=left or 0.0, left=left is not None and not here)

    def regions(self, clients, combiners):
        """Who is where; those that are not named are nowhere special. Told with the next `present`."""
        self.client_regions, self.combiner_regions = dict(clients), dict(combiners)
        return self

    def kinds(self, index=-1):
        """The kinds of records of an entry."""
        return [record.kind for record in self.journal[index].unpack()]

    def stop(self, reason="enough"):
        """Somebody stops the session."""
        self.step(events.StopAsked(reason))

    def report(self, role, name, body):
        """A report arrives; returns its id."""
        self.said += 1
        id_ = f"r{self.said}"
        self.step(events.Reported(Peer(role, name), id_, body))
        return id_

    def verdict(self, client, *, accepted=True, combiner=None, attempt=None, incarnation=None, round_=None, **fields):
        """A combiner's verdict; by default of what the client was last asked for."""
        current = self.state.round
        combiner = combiner or (current.places.get(client, "k0") if current else "k0")
        attempt = attempt if attempt is not None else (current.attempts.get(client, 0) if current else 0)
        body = reports.UpdatesJudged(
            session="s",
            round=round_ or self.state.rounds_closed + 1,
            incarnation=incarnation or self.combiners.get(combiner, "gone"),
            verdicts=(
                reports.Verdict(
                    client=client,
                    attempt=attempt,
                    accepted=accepted,
                    **({"weight": 2.0, "nbytes": 10, "fetched": 20, "digest": DIGEST} | fields),
                ),
            ),
        )
        return self.report("combiner", combiner, body)

    def failure(self, client, *, round_=None, attempt=None, stage="train", reason="ValueError: no"):
        """A client cannot do its task."""
        current = self.state.round
        attempt = attempt if attempt is not None else (current.attempts.get(client, 0) if current else 0)
        body = reports.TaskFailed(
            session="s", round=round_ or self.state.rounds_closed + 1, attempt=attempt, stage=stage, reason=reason
        )
        return self.report("client", client, body)

    def stored(self, *, revision=None, blob=None, combiner=None, round_=None, digest=DIGEST):
        """The root has stored the model that the round's closing asks for."""
        closing = self.state.round.closing if self.state.round else None
        revision = revision if revision is not None else closing.attempt
        body = reports.ModelStored(
            session="s",
            round=round_ or self.state.rounds_closed + 1,
            revision=revision,
            blob=blob or f"s-{self.state.rounds_closed + 1}-{revision}",
            digest=digest,
            nbytes=12,
        )
        return self.report("combiner", combiner or (closing.root if closing else "k0"), body)

    def evaluated(self, client, metrics, weight=1.0, version=None):
        """A client reports its metrics."""
        version = version or f"s-{self.state.rounds_closed}"
        body = reports.Evaluated(
            session="s", round=self.state.rounds_closed, version=version, weight=weight, metrics=metrics
        )
        return self.report("client", client, body)

    def replayed(self):
        """Return a fresh driver whose machine has read this one's journal."""
        again = Driver(now=self.now, journal=list(self.journal))
        for sequence, entry in enumerate(self.journal, 1):
            again.machine.handle(events.Replayed(entry, sequence), entry.at)
        again.clients, again.combiners = dict(self.clients), dict(self.combiners)
        again.attributes = dict(self.attributes)
        again.client_regions, again.combiner_regions = dict(self.client_regions), dict(self.combiner_regions)
        again.machine.handle(again.roster(), self.now)
        again._do(again.machine.handle(events.Recovered(), self.now))
        return again


def training(clients=("a", "b"), combiners=("k0",), *, regions=({}, {}), **settings):
    """A session whose first round is open; ``regions``: of clients, and of combiners."""
    driver = Driver().start(**settings).regions(*regions)
    driver.present({c: f"{c}-1" for c in clients}, {k: f"{k}-1" for k in combiners})
    assert driver.phase is Phase.TRAINING
    return driver


def closing(clients=("a", "b"), combiners=("k0",), **settings):
    """A session whose first round is being merged."""
    driver = training(clients, combiners, **settings)
    for client in sorted(driver.round.places):
        driver.verdict(client)
    assert driver.phase is Phase.CLOSING
    return driver


def evaluating(clients=("a", "b"), **settings):
    """A session whose first round is closed and being evaluated."""
    driver = closing(clients, **({"evaluate_every": 1} | settings))
    driver.stored()
    assert driver.phase is Phase.EVALUATING
    return driver
