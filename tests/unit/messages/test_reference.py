"""docs/reference/subjects.md and sessions.md name every subject, stream, record and setting as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedbus.config.session import SessionConfig
from fedbus.messages import subjects
from fedbus.messages.ids import Peer
from fedbus.messages.records import RECORDS
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import streams_of

DOCS = Path(__file__).parents[3] / "docs" / "reference"
SUBJECTS = (DOCS / "subjects.md").read_text()
SESSIONS = (DOCS / "sessions.md").read_text()


def test_every_subject_stands_in_the_page():
    """Each family of subjects that `Subjects` builds is a row of the page, and each row is such a family."""
    built = Subjects("w")
    peer = Peer("client", "c")
    patterns = [
        built.journal(), built.command(), built.task(), built.order(), built.blob(), built.model(), built.lead(),
        built.registry(), built.objects(), built.span(), built.access(), built.audit(),
        built.join(), built.renew(), built.board(),
        built.presence(), built.whois(), built.up("k"), built.chunks("k"), built.down(peer),
        built.report(), built.ack(peer), built.query(),
    ]  # fmt: skip
    families = {pattern.split(".")[2] for pattern in patterns}
    methods = [name for name, value in vars(Subjects).items() if not name.startswith("_") and callable(value)]
    helpers = {"stream", "tokens", "sender", "address", "check", "check_inbox", "chunk"}
    helpers |= {"registry_state", "registry_note", "access_token", "access_member", "access_person", "access_bounds"}
    assert {name.rstrip("s") for name in set(methods) - helpers} == {family.rstrip("s") for family in families}
    table = SUBJECTS.split("## The envelope")[0]
    assert set(re.findall(r"^\| `([a-z]+)[.`]", table, re.MULTILINE)) == families
    assert all(f"``{family}" in (subjects.__doc__ or "") for family in families)


def test_every_stream_stands_in_the_page():
    """The page names each stream of a workspace."""
    for spec in streams_of(Subjects("w")):
        assert (
            f"`-{spec.name.removeprefix('fb-w-')}`" in SUBJECTS
            or f"`{spec.name.replace('-w-', '-<workspace>-')}`" in SUBJECTS
        )


@pytest.mark.parametrize("name", SessionConfig.model_fields)
def test_every_setting_stands_in_the_page_with_its_default(name):
    """A setting's row has its true default and its description."""
    field = SessionConfig.model_fields[name]
    (row,) = re.findall(rf"^\| `{name}` \| .*$", SESSIONS, re.MULTILINE)
    default = {} if field.default_factory else field.default
    shown = str(default) if default is None or not isinstance(default, str) else json.dumps(default)
    assert f"| `{shown}` |" in row
    assert " ".join((field.description or "").split()).replace("``", "`") in row


def test_every_record_stands_in_the_page():
    """The page lists the records of the journal, all of them and no other."""
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", SESSIONS, re.MULTILINE)) == set(RECORDS)
