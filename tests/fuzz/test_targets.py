"""What `run` does for hours, in seconds: every seed, thousands of mutations of seeds, and how much memory they take."""

from __future__ import annotations

import ast
import logging
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.errors import FedbusError

ROOT = Path(__file__).parents[2]
SEEDS = ROOT / "tests" / "data" / "fuzz"
SEEDS_BYTES_MAX = 300_000

MEMORY_BYTES_MAX = 4 * 2**20
MEMORY_FACTOR_MAX = 64
"""Most memory of a target while it looks at an input: so much for itself, and so many times the input."""

NAMES = sorted(path.name for path in SEEDS.iterdir())


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Targets silence the log; whoever comes after them in this process needs it."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def targets(quiet):
    """The targets; they import every decoder, so not before they are needed."""
    import targets

    logging.disable(logging.CRITICAL)
    return targets


def seeds(name):
    """Return the files of a target."""
    return sorted((SEEDS / name).iterdir())


def test_every_target_has_a_seed_and_every_seed_a_target(targets):
    """A target without one would begin with nothing; all seeds together are small."""
    assert sorted(targets.TARGETS) == NAMES
    assert sum(path.stat().st_size for name in NAMES for path in seeds(name)) < SEEDS_BYTES_MAX


@pytest.mark.parametrize("name", NAMES)
def test_seeds_break_nothing(name, targets):
    """Every input that is kept, also those that once broke something, ends as it should; one at least is taken."""
    taken = [targets.feed(name, path.read_bytes()) for path in seeds(name)]
    assert any(taken), f"no seed of {name} is taken: what lies behind its checks is never reached"


@pytest.mark.parametrize("name", NAMES)
def test_mutations_break_nothing(name, targets):
    """Seeds with bytes changed, cut out, put in, repeated and mixed: a few hundred of each target."""
    known = [path.read_bytes() for path in seeds(name)]
    rng = random.Random(f"{name}-1")
    for _ in range(200):
        targets.feed(name, mutated(rng, known))


def mutated(rng, known):
    """One input, of another or two."""
    data = bytearray(rng.choice(known))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] = rng.randrange(256)
            case 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del data[at : at + rng.randint(1, 16)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 64)] * rng.randint(1, 40)
            case _:
                data[at:] = rng.choice(known)[at:]
    return bytes(data[:4096])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, database=None, derandomize=True)
@given(data=st.data())
def test_anything_breaks_nothing(name, targets, data):
    """Bytes and texts that Hypothesis thinks of, alone or in front of a seed."""
    head = data.draw(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode()))
    rest = data.draw(st.sampled_from([b"", *(path.read_bytes()[:2000] for path in seeds(name))]))
    targets.feed(name, head + rest)


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_in_proportion(name, targets):
    """No input makes a decoder take memory that it has not sent: the peak over seeds and what is made of them."""
    rng = random.Random(f"{name}-2")
    known = [path.read_bytes() for path in seeds(name)]
    for data in [*known, *(mutated(rng, known) for _ in range(20))]:
        targets.feed(name, data)  # what is made once and kept is not the input's
        tracemalloc.start()
        try:
            targets.feed(name, data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MEMORY_BYTES_MAX + MEMORY_FACTOR_MAX * len(data), f"{peak} bytes for {len(data)}"


def test_a_target_that_breaks_is_seen(targets, monkeypatch):
    """An error that is not of fedbus comes through; one that is does not."""

    def broken(data):
        raise ValueError if data else FedbusError

    monkeypatch.setattr(targets, "TARGETS", {"broken": broken})
    assert targets.feed("broken", b"") is False
    with pytest.raises(ValueError):
        targets.feed("broken", b"x")


def test_the_runner_names_its_modules():
    """`run` begins without pytest and without atheris: only when it fuzzes is that imported."""
    tree = ast.parse((Path(__file__).parent / "run.py").read_text())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert top == {"argparse", "subprocess", "sys", "tempfile"}
