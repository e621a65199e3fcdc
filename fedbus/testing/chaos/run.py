"""A federation put together, run undisturbed, then disturbed; and what came of it.

Everything lies in one directory, and ends with us: only processes that were started here are ended. What is a
violation: another digest than undisturbed, a round without a client, a session that does not complete, a federation
that does not move (`STALL_S_MAX`), an upload that is sent again as it was though it was accepted, a traceback in a log,
a process that ends by itself, memory that grows without bound, a fault that takes too long to be overcome.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect as connect_bus
from fedbus.cli.embedding import embedded
from fedbus.errors import BusUnavailable, ConfigError, FedbusError
from fedbus.federation.service import Federation, connect
from fedbus.testing.chaos.course import Course, Lesson
from fedbus.testing.chaos.faults import Done, Hand, Hung, Line
from fedbus.testing.chaos.lines import RoleLine
from fedbus.testing.chaos.members import Broker, Life, Member, Role
from fedbus.testing.chaos.namespaces import CABLE_KINDS, Namespaces
from fedbus.testing.chaos.plan import LINKS, Cast, Fault, Kind, Pace, faults
from fedbus.testing.chaos.witness import Tally, Witness
from fedbus.testing.proxy import Proxy
from fedbus.together import together

MIB = 2**20
READY_S_MAX = 60.0
STALL_S_MAX = 90.0
"""Without an entry in the journal, or for a round: three times the longest fault."""

BOARDS_S_MAX = 10.0
"""From the end of the last session until every client's task says so."""

RECOVERY_S_MAX = 10.0
"""From the restart, or the lifting, to the next entry of the journal."""

MEMORY_FACTOR = 2
MEMORY_SLACK_BYTES = 128 * MIB
"""A process may hold so many times what it holds undisturbed, and so much more, and no more than that."""

LOOK_S = 0.25
STORY_FAULTS = 8
VIOLATIONS_MAX = 20
STORIES_MAX = 5
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run: until ``count`` faults or for ``minutes``, whichever is given; ``seed`` makes the plan.

    ``netns``: each role has a network namespace of its own, and its cable is disturbed in place of a proxy's line.
    ``secured``: the broker lets in nobody whom it does not know, models are sealed, updates and models are signed; no
    role may hear what others send, so that what is sent twice is not counted.
    """

    seed: int = 0
    count: int | None = None
    minutes: float | None = None
    cast: Cast = field(default_factory=Cast)
    pace: Pace = field(default_factory=Pace)
    lesson: Lesson = field(default_factory=Lesson)
    recovery_s_max: float = RECOVERY_S_MAX
    netns: bool = False
    secured: bool = False

    def __post_init__(self) -> None:
        if self.netns and self.cast.brokers > 1:
            raise ConfigError("--netns goes with one broker")


@dataclass(slots=True)
class Result:
    """What came of a run. ``digests``: of (subject, round); ``peaks``: bytes by member; ``ends``: how members ended."""

    settings: Settings
    seconds: float = 0.0
    round_s: float = 0.0
    sessions: int = 0
    rounds: int = 0
    versions: int = 0
    digests: dict[tuple[int, int], str] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    missed: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    resent_because: dict[str, int] = field(default_factory=dict)
    trained: int = 0
    trained_again: int = 0
    lives: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)


class Chaos:
    """One run; ``told`` gets a line for people now and then.

    ``plan``: these faults in place of those that the seed makes.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        told: Callable[[str], None] = lambda _: None,
        *,
        plan: Iterable[Fault] | None = None,
    ) -> None:
        self._settings = settings
        self._given_plan = plan
        self._directory = directory
        self._told = told
        self._members: dict[str, Member] = {}
        self._lines: dict[str, Line] = {}
        self._hand: Hand | None = None
        self._began_at = time.monotonic()
        self._ending = False
        self._keys: Authority | None = None
        self.result = Result(settings)

    async def run(self) -> Result:
        """Run to the end, or to a violation after which nothing can be learned; returns what came of it."""
        try:
            async with self._federation() as federation:
                await self._disturbed(federation)
        except Hung as error:
            self._wrong(f"hung: {error}")
        self._search_logs()
        result = self.result
        result.seconds = time.monotonic() - self._began_at
        result.lives = {name: len(member.book.lives) for name, member in self._members.items()}
        return result

    # ---- the federation

    @asynccontextmanager
    async def _federation(self) -> AsyncIterator[Federation]:
        """Everybody is there inside the block."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._settings.secured:
            self._keys = Authority.open(self._directory / "keys")
            self._keys.create_workspace("default")
        async with AsyncExitStack() as stack:
            networks = await stack.enter_async_context(Namespaces()) if self._settings.netns else None
            url = await stack.enter_async_context(self._brokers(networks.address if networks else "127.0.0.1"))
            roles = []
            for role, name in self._names():
                if networks is not None:
                    cable = self._lines[name] = await networks.add()
                    roles.append(self._role(role, name, url, cable.prefix))
                else:
                    roles.append(self._role(role, name, await self._line(stack, name, url)))
            await stack.enter_async_context(self._kept(roles))
            credentials = self._credentials("engineer", "chaos") or ""
            federation = await stack.enter_async_context(connect(url, credentials=credentials, name="chaos"))
            await self._until_all_are_there(federation)
            yield federation
            self._ending = True

    def _names(self) -> list[tuple[str, str]]:
        names = self._settings.cast.names
        return [(role, name) for role, all_ in names.items() if role != "broker" for name in all_]

    @asynccontextmanager
    async def _brokers(self, host: str) -> AsyncIterator[str]:
        directory = self._directory / "brokers"
        security = self._keys.security if self._keys is not None else None
        if self._settings.netns:
            found = {"broker": EmbeddedBroker(directory, host=host, security=security)}
        else:
            found = embedded(directory, self._settings.cast.brokers, 0, security)
        names = self._settings.cast.names["broker"]
        members = [
            Broker(name, broker, self._directory / f"{name}.log")
            for name, broker in zip(names, found.values(), strict=True)
        ]
        async with self._kept(members):
            await found[next(iter(found))].wait_for_streams(READY_S_MAX)
            yield ",".join(broker.url for broker in found.values())

    @asynccontextmanager
    async def _kept(self, members: list[Member] | list[Broker] | list[Role]) -> AsyncIterator[None]:
        """Members live inside the block."""
        tasks = []
        try:
            for member in members:
                self._members[member.name] = member
                tasks.append(asyncio.create_task(member.keep(self._ended), name=member.name))
            async with asyncio.timeout(READY_S_MAX):
                await asyncio.gather(*(member.up.wait() for member in members))
            yield
        finally:
            self._ending = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _line(self, stack: AsyncExitStack, name: str, url: str) -> str:
        """Return where a role finds its broker: through a line of its own, where there is one broker."""
        if self._settings.cast.brokers > 1:
            return url
        (broker,) = (member.broker for member in self._members.values() if isinstance(member, Broker))
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", broker.port))
        self._lines[name] = RoleLine(proxy, seed=self._settings.seed + len(self._lines))
        return proxy.url

    def _role(self, role: str, name: str, url: str, before: Sequence[str] = ()) -> Role:
        states = str(self._directory / f"state-{name}")
        arguments = {
            "coordinator": ["coordinator", "--name", name],
            "combiner": ["combiner", "--name", name, "--data-dir", str(self._directory)],
            "client": ["client", "run", "fedbus.testing.chaos.learner:app", "--name", name, "--state-dir", states],
        }[role]
        if role == "coordinator" and self._settings.cast.brokers > 1:
            arguments += ["--replicas", str(self._settings.cast.brokers)]
        env = {"FEDBUS_URL": url}
        if (credentials := self._credentials(role, name)) is not None:
            env["FEDBUS_CREDENTIALS"] = credentials
        return Role(role, name, self._directory / f"{name}.log", arguments, env, before)

    def _credentials(self, role: str, name: str) -> str | None:
        """Return where a member's credentials are, which are made now; None where nobody needs any."""
        if self._keys is None:
            return None
        path = self._directory / f"{role}-{name}.creds"
        write_credentials(path, self._keys.issue("default", role, name))
        return str(path)

    async def _until_all_are_there(self, federation: Federation) -> None:
        cast, end = self._settings.cast, time.monotonic() + READY_S_MAX
        while True:
            try:
                there = len(await federation.combiners()), len(await federation.clients())
            except BusUnavailable:
                there = 0, 0
            if there == (cast.combiners, cast.clients):
                return
            if time.monotonic() > end:
                raise FedbusError(f"{there} combiners and clients came within {READY_S_MAX:g} s: {self._tails()}")
            await asyncio.sleep(LOOK_S)

    # ---- the run

    async def _disturbed(self, federation: Federation) -> None:
        settings, result = self._settings, self.result
        course = Course(federation, settings.lesson, self._wrong)
        credentials = self._credentials("admin", "witness")
        async with await connect_bus(self._url(), name="witness", credentials=credentials) as bus:
            witness = Witness(bus, federation.subjects)
            course.hears.append(witness.hear_record)
            hand = self._hand = Hand(self._members, self._lines, course)
            try:
                async with together() as group:
                    works = [course.listen(), self._watch(course)]
                    works += [] if settings.secured else [witness.listen()]
                    tasks = [group.create_task(work) for work in works]
                    result.round_s = await course.undisturbed()
                    self._note_peaks(result.peaks)
                    self._told(f"undisturbed: {course.rounds} rounds, the longest {result.round_s:.1f} s")
                    await self._disturb(course, hand)
                    for task in tasks:
                        task.cancel()
            finally:
                self._collect(course, witness, hand)

    @property
    def _links(self) -> Collection[Kind]:
        """What can be done to the lines there are."""
        return CABLE_KINDS if self._settings.netns else LINKS if self._lines else ()

    def _url(self) -> str:
        return ",".join(member.broker.url for member in self._members.values() if isinstance(member, Broker))

    async def _disturb(self, course: Course, hand: Hand) -> None:
        enough = asyncio.Event()
        learning = asyncio.create_task(course.until(enough))
        try:
            await self._all_faults(hand)
            await hand.overcome(time.monotonic())
            enough.set()
            await learning
            hand.note()
            await self._check_boards(course)
        finally:
            learning.cancel()
            await asyncio.wait({learning})

    async def _check_boards(self, course: Course) -> None:
        """Whoever comes late must read that the sessions are over, not what was to be done in them."""
        left: list[str] = []
        end = time.monotonic() + BOARDS_S_MAX
        while time.monotonic() < end:
            left = await course.left_on_boards(self._settings.cast.names["client"])
            if not left:
                return
            await asyncio.sleep(LOOK_S)
        self._wrong(f"all is over, and clients are still asked: {left[:10]}")

    async def _all_faults(self, hand: Hand) -> None:
        settings = self._settings
        end = time.monotonic() + 60 * settings.minutes if settings.minutes is not None else None
        plan = faults(settings.seed, settings.cast, settings.pace, settings.count, links=self._links)
        for fault in plan if self._given_plan is None else self._given_plan:
            if end is not None and time.monotonic() > end:
                return
            done = await hand.carry_out(fault)
            self._told(done.text if done else f"nobody passed {fault.text}")

    async def _watch(self, course: Course) -> None:
        """End everything when nothing moves any more; keep the books on memory."""
        began_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for what, times in (("entry in the journal", course.beats.entries), ("round", course.beats.rounds)):
                if now - (times[-1] if times else began_at) > STALL_S_MAX:
                    raise Hung(f"no {what} for {STALL_S_MAX:g} s, in {course.now}")
            if len(self.result.violations) >= VIOLATIONS_MAX:
                raise Hung("there are so many violations that nothing is learned from more")
            for member in self._members.values():
                member.measure()

    def _ended(self, member: Member, life: Life) -> None:
        if not life.asked and not self._ending:
            self._unasked(member, life)

    def _unasked(self, member: Member, life: Life) -> None:
        self._wrong(f"{member.name} ended by itself ({life.how}): {' '.join(member.tail().splitlines()[-1:])}")

    # ---- what came of it

    def _wrong(self, what: str) -> None:
        """Note a violation, and its story."""
        self.result.violations.append(what)
        if len(self.result.stories) < STORIES_MAX:
            last = [done.text for done in (self._hand.done if self._hand else [])[-STORY_FAULTS:]]
            self.result.stories.append("\n".join([what, "last faults:", *last, "ends of the logs:", self._tails()]))
        self._told(f"VIOLATION: {what}")

    def _tails(self) -> str:
        return "\n".join(f"--- {name}\n{member.tail()}" for name, member in self._members.items())

    def _note_peaks(self, peaks: dict[str, int]) -> None:
        for name, member in self._members.items():
            peaks[name] = member.book.peak_bytes

    def _collect(self, course: Course, witness: Witness, hand: Hand) -> None:
        result = self.result
        result.sessions, result.rounds, result.versions = course.sessions, course.rounds, course.versions
        result.digests, result.resent_because = course.digests, course.resent_because
        result.done, result.missed, result.tally = hand.done, hand.missed, witness.tally
        for name, undisturbed in dict(result.peaks).items():
            peak = self._members[name].book.peak_bytes
            if peak > MEMORY_FACTOR * undisturbed + MEMORY_SLACK_BYTES:
                self._wrong(f"{name} held {peak // MIB} MiB, undisturbed {undisturbed // MIB} MiB")
        self._note_peaks(result.peaks)
        for done in result.done:
            if done.moved_s is not None and done.moved_s > self._settings.recovery_s_max:
                self._wrong(f"slow: {done.text}")
        if witness.tally.twice:
            self._wrong(f"sent again after it was accepted: {sorted(witness.tally.twice)}")

    def _search_logs(self) -> None:
        trained: Counter[tuple[str, ...]] = Counter()
        for name, member in self._members.items():
            text = member.log.read_text(errors="replace") if member.log.exists() else ""
            if (at := text.find(TRACEBACK)) >= 0:
                self._wrong(f"a traceback in the log of {name}:\n{text[at : at + 3000]}")
            for line in text.splitlines():
                _, found, what = line.partition(" trained ")
                if found and member.role == "client":
                    trained[(name, *what.split())] += 1
        self.result.trained = len(trained)
        self.result.trained_again = sum(trained.values()) - len(trained)


def counts_of(done: list[Done]) -> Mapping[str, int]:
    """Return how many faults there were of each kind."""
    return Counter(one.fault.kind.value for one in done)
