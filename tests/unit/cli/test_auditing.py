"""An export is verified without a broker; what strangers wrote is shown without doing anything to a terminal."""

from __future__ import annotations

import json

import pytest

from fedbus.access.chain import line_of, recorded
from fedbus.cli import auditing
from fedbus.cli.roles import Place
from fedbus.cli.tree import run
from fedbus.messages.access import AuditEntry
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

OURS = Subjects("default")


def chain(count):
    """Return a chain of deeds, as they are read."""
    found, before = [], ""
    for number in range(1, count + 1):
        entry = AuditEntry.model_construct(
            number=number, at=1.0 * number, by="eve", origin="bus", action="token.create", target="t\x1b[2J\n\u202ex",
            result="done", reason="", details={}, before=before,
        )  # fmt: skip
        data = encode(Envelope(f"i-{number}", "default", "gateway/g", entry))
        found.append(recorded(OURS, OURS.audit(Peer("gateway", "g")), number, data))
        before = found[-1].digest
    return found


@pytest.fixture
def deeds():
    """Five deeds."""
    return chain(5)


def test_an_export_is_verified_and_faults_are_told(deeds, tmp_path, capsys):
    """Whole: exit code 0 and the head; a deed left out, or an end cut before a head: 1, and where."""
    file = tmp_path / "audit.jsonl"
    file.write_text("\n".join(map(line_of, deeds)) + "\n")
    assert run(["audit", "verify", str(file)]) == 0
    out, err = capsys.readouterr()
    assert f"head {deeds[-1].digest}" in out and "whole: 5 deeds" in out and "note the head" in err
    assert run(["audit", "verify", str(file), "--head", deeds[2].digest, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pinned_at"], told["whole"], told["faults"]) == (3, True, [])
    file.write_text("\n".join(map(line_of, [*deeds[:2], *deeds[3:]])))
    assert run(["audit", "verify", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "missing" in out and "number 3 of the chain" in out and "not whole: 1 faults in 4 deeds" in err
    file.write_text("\n".join(map(line_of, deeds[:4])))
    assert run(["audit", "verify", str(file), "--head", deeds[-1].digest]) == 1
    assert "the end of the chain was cut" in capsys.readouterr().out


def test_what_is_no_export_is_an_error_and_takes_no_memory(tmp_path, capsys):
    """Another file, one without line ends, none at all, a head that is none: refused in a line."""
    file = tmp_path / "x"
    for content in ("{}\n", "x" * 3_000_000):
        file.write_text(content)
        assert run(["audit", "verify", str(file)]) == 1
        assert "expected a line of `fedbus audit export`" in capsys.readouterr().err
    assert run(["audit", "verify", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert run(["audit", "verify", str(file), "--head", "abc"]) == 2
    assert run(["audit", "list", "--result", "maybe"]) == 2


class Reading:
    """An audit to be read."""

    def __init__(self, deeds):
        self.deeds = deeds

    async def read(self, *, newest_first=True, fits=lambda _: True):
        """Yield what fits."""
        for one in reversed(self.deeds) if newest_first else self.deeds:
            if fits(one):
                yield one


@pytest.fixture
def at_hand(deeds, monkeypatch):
    """Let the commands read these deeds."""

    class Near:
        async def __aenter__(self):
            return Reading(deeds)

        async def __aexit__(self, *_):
            return None

    monkeypatch.setattr(auditing, "audit_of", lambda place: Near())


async def test_a_listing_moves_no_cursor(at_hand, capsys):
    """Line ends, escapes and turned writing in a text are shown as signs, in one line; JSON escapes them."""
    await auditing.list_deeds(Place("nats://x"), lambda found: found.sequence > 1, last=2, json=False)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3 and all(line.isprintable() for line in out.splitlines())
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["5", "4"]
    await auditing.list_deeds(Place("nats://x"), lambda _: True, last=9, json=True)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 and "\x1b" not in out
    assert [one["number"] for one in json.loads(out)] == [5, 4, 3, 2, 1]


async def test_an_export_is_written_whole_or_not_at_all(at_hand, deeds, tmp_path, capsys, monkeypatch):
    """To a file under its name when all is there, or to standard output; a failure leaves what was there."""
    file = tmp_path / "audit.jsonl"
    await auditing.export(Place("nats://x"), file)
    assert file.read_text().splitlines() == [line_of(one) for one in deeds]
    await auditing.export(Place("nats://x"), None)
    assert capsys.readouterr().out == file.read_text()

    def fail(found):
        raise RuntimeError("disk")

    monkeypatch.setattr(auditing, "line_of", fail)
    with pytest.raises(RuntimeError):
        await auditing.export(Place("nats://x"), file)
    assert [path.name for path in tmp_path.iterdir()] == ["audit.jsonl"] and len(file.read_text().splitlines()) == 5
