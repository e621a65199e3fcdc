"""Feed a target by coverage: ``python -m tests.fuzz.run TARGET [--runs N]``, with atheris (the extra ``fuzz``).

It begins with the seeds in ``tests/data/fuzz/TARGET``, and what it finds on its way goes into a directory of its own.
An input that breaks the target is written beside that, and ends the run. ``all`` as a target runs each in a process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SEEDS = HERE.parent / "data" / "fuzz"

INPUT_BYTES_MAX = 2048
"""Longest input: what decoders do wrong they do with less, and each run is quicker."""

INPUT_S_MAX = 5
MEMORY_MB_MAX = 1024
"""Of the whole process; no input is longer than `INPUT_BYTES_MAX`."""


def main() -> None:
    """Run the fuzzer; exit code 77 is an input that broke the target."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.splitlines()[0])
    options.add_argument("target")
    options.add_argument("--runs", type=int, default=100_000)
    options.add_argument("--corpus", type=Path, help="where what is found is kept; default: nowhere")
    options.add_argument("--seed", type=int, default=0, help="0: another one each time")
    given = options.parse_args()
    sys.path.insert(0, str(HERE))
    if given.target == "all":
        from targets import TARGETS

        command = [sys.executable, "-m", "tests.fuzz.run", "--runs", str(given.runs), "--seed", str(given.seed)]
        sys.exit(max(subprocess.run([*command, name], check=False).returncode for name in TARGETS))
    _fuzz(given)


def _fuzz(given: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=["fedbus"]):
        from targets import TARGETS, feed

    if given.target not in TARGETS:
        sys.exit(f"no target {given.target!r}; there are {', '.join(TARGETS)}")
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="fedbus-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = SEEDS / given.target
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            *([str(seeds)] if seeds.is_dir() else []),
            f"-runs={given.runs}",
            f"-seed={given.seed}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={INPUT_S_MAX}",
            f"-rss_limit_mb={MEMORY_MB_MAX}",
            f"-artifact_prefix={corpus}-",
            "-print_final_stats=1",
        ],
        lambda data: feed(given.target, data) and None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
