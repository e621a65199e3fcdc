"""Clients that come and go, as processes of the command line that are killed, stopped, cut off, and started twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fedbus
from fedbus.bus.embedded.child import die_with
from fedbus.bus.nats import connect
from fedbus.client.directory import Directory
from fedbus.combiner.slots import WINDOW_BYTES
from fedbus.messages import records
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.tensors import model_digest
from fedbus.testing.proxy import Line, Proxy

OURS = Subjects("default")
MODEL = {"w": np.zeros((6, 1024, 1024), np.float32), "b": np.zeros(10, np.float64)}
"""24 MB: 49 chunks, six windows."""

CHUNK_BYTES = 512 * 1024
PACE_BYTES_S = 8_000_000
CONFIG = {"rounds": 2, "clients_min": 2, "evaluate_every": 0, "seed": 3}


class Site:
    """A client as a process; ``asked``: for which rounds its app was called, in all its lives."""

    def __init__(self, directory, url, name="site-1"):
        self.name = name
        self.url = url
        self.directory = directory
        self.state = directory / "state"
        self.process = None
        self._asked = directory / f"asked-{name}"
        self._log = directory / f"{name}.log"

    async def start(self, *, pause_s=0.0, state=True):
        """Start it."""
        command = [sys.executable, "-m", "fedbus", "client", "run", "client_app:app", "--name", self.name]
        command += ["--nats", self.url, *(["--state-dir", str(self.state)] if state else [])]
        env = {"ASKED": str(self._asked), "PAUSE_S": str(pause_s), "HURRY": str(self.directory / "hurry")}
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                stderr=log,
                cwd=Path(__file__).parent,
                env=os.environ | env,
                preexec_fn=die_with(os.getpid()),
            )

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    async def kill(self):
        """Kill it as with -9."""
        self.process.kill()
        await self.process.wait()

    def forget(self):
        """Begin to count anew."""
        self._asked.unlink()

    @property
    def asked(self):
        """For which rounds its app was called."""
        return [int(line) for line in self._asked.read_text().split()] if self._asked.exists() else []

    @property
    def log(self):
        """What it wrote."""
        return self._log.read_text()


@pytest.fixture
async def sites(tmp_path, broker):
    """``sites(name, url)``: a client that is killed after the test, if it still lives."""
    made = []

    def make(name="site-1", url=None):
        made.append(Site(tmp_path, url or broker.url, name))
        return made[-1]

    yield make
    for site in made:
        if site.process is not None and site.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                await site.kill()


@pytest.fixture
async def proxy(broker):
    """A line to the broker on which an upload takes some seconds."""
    async with Proxy("127.0.0.1", broker.port, up=Line(bytes_s=PACE_BYTES_S)) as proxy:
        yield proxy


@pytest.fixture
async def chunks(broker):
    """Chunks that were sent, by (client, round, index), and an event for each that comes."""
    seen, news = Counter(), asyncio.Event()

    async def hear(messages):
        async for message in messages:
            address = OURS.address(message.subject)
            seen[address.sender.name, address.round, address.chunk] += 1
            news.set()

    async with connect_ear(broker.url) as messages:
        hearing = asyncio.create_task(hear(messages))
        yield seen, news
        hearing.cancel()
        await asyncio.wait([hearing])


@contextlib.asynccontextmanager
async def connect_ear(url):
    """Hear all chunks."""
    async with await connect(url, name="ear") as bus:
        yield await bus.subscribe(OURS.chunks("*"))


def other_app(pause_s=0.0):
    """The app of the other client, in this process."""
    app = fedbus.ClientApp()

    @app.train
    async def train(model, task):
        await asyncio.sleep(pause_s)
        rng = np.random.default_rng((task.round, 0))
        arrays = {name: array + rng.normal(size=array.shape).astype(array.dtype) for name, array in model.items()}
        return fedbus.Update(arrays, weight=1.0)

    return app


@pytest.fixture
async def house_of_two(house):
    """The operator's side, and the client site-0."""
    await house.operate(1)
    await house.client("site-0", other_app())
    return house


@pytest.fixture(scope="module")
def known():
    """The digest of the undisturbed session, once it is known: the same in every house."""
    return {}


async def until_chunks(chunks, count, name="site-1", round_=1, within_s=60.0):
    """Wait until so many chunks of a client's update have passed."""
    seen, news = chunks
    async with asyncio.timeout(within_s):
        while sum(1 for key in seen if key[:2] == (name, round_)) < count:
            news.clear()
            await news.wait()


async def session(house, name, within_s=60.0, model=MODEL, **config):
    """Run a session; returns its digest, how many counted in each round, and the result."""
    result, facts, arrays = await house.run(model, name=name, within_s=within_s, **(CONFIG | config))
    assert model_digest(arrays) == result.digest
    closed = [fact for fact in facts if isinstance(fact, records.RoundClosed)]
    return result.digest, [fact.counted for fact in closed]


@pytest.fixture
async def expected(house_of_two, sites, known):
    """What a session gives in which nobody is disturbed: its digest, and how many counted in each round."""
    if not known:
        site = sites()
        await site.start(state=False)
        await house_of_two.present(2)
        known["result"] = await session(house_of_two, "undisturbed")
        await site.kill()
        site.forget()
    digest, counted = known["result"]
    assert counted == [2, 2]
    return digest, counted


def sent(chunks, name="site-1", round_=1):
    """How many chunks of an update were sent, and how many of them more than once."""
    of_it = {key[2]: count for key, count in chunks[0].items() if key[:2] == (name, round_)}
    return len(of_it), sum(of_it.values()) - len(of_it)


@pytest.mark.slow
async def test_killed_in_mid_upload_it_goes_on_at_the_chunk(expected, house_of_two, sites, proxy, chunks):
    """-9 when a third of the update is there: not trained again, at most one window sent twice, the same digest."""
    site = sites(url=proxy.url)
    await site.start()
    await house_of_two.present(2)
    running = asyncio.create_task(session(house_of_two, "disturbed"))
    await until_chunks(chunks, 16)
    await site.kill()
    assert sent(chunks)[0] < 40, "the upload was over before the kill"
    await site.start()
    assert await running == expected
    assert site.asked == [1, 2], site.log
    count, again = sent(chunks)
    assert count == 49 and again <= WINDOW_BYTES // CHUNK_BYTES
    site.signal(signal.SIGTERM)
    assert await site.process.wait() == 0
    kept = Directory(site.state).open(Peer("client", "site-1"))
    assert not kept.found, "receipts came for all that was saved"
    kept.close()


@pytest.mark.slow
async def test_killed_in_mid_training_it_is_asked_again(expected, house_of_two, sites, eventually):
    """What was not made is made anew; with the same digest, for it is asked with the same seed."""
    site = sites()
    await site.start(pause_s=30.0)
    await house_of_two.present(2)
    running = asyncio.create_task(session(house_of_two, "disturbed"))
    await eventually(lambda: site.asked)
    await site.kill()
    (site.directory / "hurry").touch()
    await site.start(pause_s=30.0)
    assert await running == expected
    assert site.asked == [1, 1, 2]


@pytest.mark.slow
async def test_offline_for_two_rounds_it_gets_the_current_task(house_of_two, sites, eventually):
    """Rounds go on without it; back, it is asked for the round of now, and for none that it missed."""
    await house_of_two.client("site-2", other_app(0.1))
    site = sites()
    await site.start()
    await house_of_two.present(3)
    small = {"w": np.zeros(10, np.float32)}
    async with fedbus.connect(house_of_two.url) as federation, asyncio.timeout(60):
        config = fedbus.SessionConfig(**(CONFIG | {"rounds": 60, "quorum": 2, "round_deadline_s": 2.0}))
        running = await federation.start_session(config, model=small, name="long")
        await eventually(lambda: site.asked)
        site.signal(signal.SIGTERM)
        assert await site.process.wait() == 0
        left = site.asked[-1]
        before = await closed_rounds(running, left + 3)
        await site.start()
        await eventually(lambda: site.asked[-1] > left)
        back = next(round_ for round_ in site.asked if round_ > left)
        assert back > before
        result = await running.wait()
    assert result.outcome == "completed"
    assert len(site.asked) == len(set(site.asked)), "asked twice for a round"


async def closed_rounds(running, at_least):
    """Wait until a round is closed; returns its number."""
    async for event in running.events():
        if isinstance(event.data, records.RoundClosed) and event.data.round >= at_least:
            return event.data.round
    raise AssertionError("the session ended before")


@pytest.mark.slow
async def test_two_processes_of_one_name(expected, house_of_two, sites, eventually):
    """The later one is told, and ends with 1; the other goes on, and the digest is as ever."""
    first, second = sites(), sites()
    second.state = second.directory / "another-state"
    second._log = second.directory / "second.log"
    await first.start(pause_s=30.0)
    await house_of_two.present(2)
    running = asyncio.create_task(session(house_of_two, "disturbed"))
    await eventually(lambda: first.asked)
    await second.start(pause_s=30.0)
    async with asyncio.timeout(60):
        assert await second.process.wait() == 1
    assert "client site-1: another process takes part under this name since" in second.log
    assert "Traceback" not in second.log
    (first.directory / "hurry").touch()
    assert await running == expected


@pytest.mark.slow
async def test_two_processes_of_one_state_directory(house_of_two, sites):
    """The second does not even begin: one sentence, exit code 1."""
    first, second = sites(), sites()
    second._log = second.directory / "second.log"
    await first.start()
    await house_of_two.present(2)
    await second.start()
    async with asyncio.timeout(60):
        assert await second.process.wait() == 1
    assert f"process {first.process.pid} has the state directory" in second.log and "Traceback" not in second.log
    assert first.process.returncode is None


@pytest.mark.slow
@pytest.mark.parametrize("line", ["alive", "dead"])
async def test_a_client_that_stood_still_goes_on(expected, house_of_two, sites, proxy, chunks, line):
    """Stopped for 15 s in mid-upload, as a laptop that sleeps; its old line may be dead when it wakes, without a word.

    It is back within seconds, and the round has its update.
    """
    site = sites(url=proxy.url)
    await site.start()
    await house_of_two.present(2)
    running = asyncio.create_task(session(house_of_two, "disturbed", round_deadline_s=120.0))
    await until_chunks(chunks, 16)
    site.signal(signal.SIGSTOP)
    await asyncio.sleep(15)
    woke = asyncio.get_running_loop().time()
    if line == "dead":
        gone = proxy.up, proxy.down
        proxy.up, proxy.down = Line(bytes_s=PACE_BYTES_S), Line()
        proxy.blackhole(gone)
    before = sent(chunks)[0]
    site.signal(signal.SIGCONT)
    await until_chunks(chunks, before + 12)
    assert asyncio.get_running_loop().time() - woke < 15
    assert await running == expected
    assert site.asked == [1, 2]
