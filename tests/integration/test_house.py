"""Every contract of the linter is broken once, in a house of straw: a check that cannot fail is a defect."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports_command as run; sys.argv[1:] = ['--no-cache']; run()"
ROOMS = [
    "__main__.py",
    "testing/__init__.py",
    "cli/__init__.py",
    "gateway/__init__.py",
    "client/__init__.py",
    "client/machine.py",
    "combiner/__init__.py",
    "combiner/machine.py",
    "coordinator/__init__.py",
    "coordinator/machine.py",
    "sinks/__init__.py",
    "access/__init__.py",
    "store/__init__.py",
    "store/upload/__init__.py",
    "store/upload/machine.py",
    "bus/__init__.py",
    "aggregation/__init__.py",
    "aggregation/mean.py",
    "codecs/__init__.py",
    "privacy/__init__.py",
    "selection/__init__.py",
    "messages/__init__.py",
    "config/__init__.py",
    "tensors/__init__.py",
    "algorithms/__init__.py",
    "planning.py",
    "clock.py",
    "crash.py",
    "errors.py",
    "foreign.py",
    "plugins.py",
    "together.py",
    "version.py",
    "workers.py",
]
DOORS = {
    "telemetry/__init__.py": "import opentelemetry",
    "telemetry/scrape.py": "import opentelemetry.sdk, prometheus_client",
    "gateway/server.py": "import aiohttp",
    "bus/nats/__init__.py": "import nats",
    "bus/nats/frames.py": "import nats.aio.client",
    "bus/nats/identity.py": "import nkeys",
    "access/keys.py": "import nkeys, nacl.signing",
    "store/sealing.py": "import cryptography",
}
LAYERS = "Imports point downwards only"
PURE = "What decides, computes or names does not act"


def lint(house, **files):
    """Build a house with these files, and return the linter's exit code and words."""
    package = house / "fedbus"
    shutil.copy(ROOT / "pyproject.toml", house)
    package.mkdir()
    for name, text in (dict.fromkeys(["__init__.py", *ROOMS], "") | DOORS | files).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text + "\n")
    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=house,
        env={"PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_house_in_order_passes(tmp_path):
    """With every import where it belongs no contract is broken."""
    code, words = lint(
        tmp_path,
        **{
            "cli/__init__.py": "import asyncio, fedbus.coordinator",
            "client/machine.py": "import fedbus.messages",
            "client/service.py": "import asyncio, fedbus.client.machine, fedbus.bus.nats, fedbus.telemetry",
        },
    )
    assert code == 0, words


@pytest.mark.parametrize(
    ("where", "what", "contract"),
    [
        ("bus/base.py", "import fedbus.client", LAYERS),
        ("clock.py", "import fedbus.config", LAYERS),
        ("client/service.py", "import fedbus.combiner", LAYERS),
        ("gateway/rest.py", "from fedbus.coordinator import machine", LAYERS),
        ("store/journal.py", "def late():\n    import fedbus.access", LAYERS),
        ("tensors/spec.py", "from fedbus import messages", LAYERS),
        ("store/archivist.py", "import fedbus.sinks", LAYERS),
        ("sinks/tracking.py", "import fedbus.gateway", LAYERS),
        ("utils.py", "", LAYERS),
        ("tensors/chunks.py", "import asyncio", PURE),
        ("aggregation/mean.py", "import random", PURE),
        ("codecs/mine.py", "import random", PURE),
        ("selection/mine.py", "import time", PURE),
        ("planning.py", "import asyncio", PURE),
        ("planning.py", "import fedbus.bus", LAYERS),
        ("codecs/mine.py", "import fedbus.store", LAYERS),
        ("aggregation/mean.py", "import os.path", PURE),
        ("messages/ids.py", "from secrets import token_hex", PURE),
        ("messages/ids.py", "import fedbus.config.now", PURE),
        ("client/machine.py", "import time", PURE),
        ("coordinator/machine.py", "from datetime import datetime", PURE),
        ("store/upload/machine.py", "import asyncio", PURE),
        ("combiner/machine.py", "import numpy as np", "Machines decide about words"),
        ("combiner/machine.py", "import logging", "Machines decide about words"),
        ("client/service.py", "import nats", "One door to nats-py"),
        ("bus/memory.py", "from nats.js import api", "One door to nats-py"),
        ("cli/up.py", "def late():\n    import aiohttp.web", "One door to aiohttp"),
        ("client/service.py", "from opentelemetry import trace", "One door to OpenTelemetry"),
        ("client/service.py", "from nacl import signing", "Keys are held in few hands"),
        ("store/models.py", "import cryptography.fernet", "Keys are held in few hands"),
        ("gateway/metrics.py", "import prometheus_client", "One door to OpenTelemetry"),
    ],
)
def test_each_contract_can_fail(tmp_path, where, what, contract):
    """One import in the wrong room breaks the contract that forbids it, and no other."""
    also = {"config/now.py": "import time"}
    code, words = lint(tmp_path, **(also | {where: what}))
    broken = [line for line in words.splitlines() if " BROKEN" in line]
    assert code == 1, words
    assert len(broken) == 1, words
    assert broken[0].startswith(contract)
