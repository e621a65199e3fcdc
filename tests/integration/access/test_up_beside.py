"""`fedbus up` beside a broker of one's own: its operator's keys make the workspace, and the roles' credentials."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import fedbus
from fedbus.access import claims, known
from fedbus.access.authority import Authority
from fedbus.access.keys import Key
from fedbus.access.members import Members
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import Identity, connect
from fedbus.cli.roles import Place
from fedbus.cli.up import Up
from fedbus.clock import SystemClock
from fedbus.errors import BusDenied


async def taken_in(authority, url):
    """The accounts that a broker has taken in so far."""
    key = Key.new()
    jwt = claims.account_user_jwt(authority._system, "authority", key.public, time.time())
    async with await connect(url, name="authority", credentials=Identity(jwt, key.seed)) as bus:
        answer = await bus.request("$SYS.REQ.SERVER.PING.ACCOUNTZ", b"", deadline_s=10)
    return set(json.loads(bytes(answer.data))["data"]["accounts"])


async def test_a_broker_takes_accounts_in_before_anybody_comes(tmp_path):
    """At its start and when it is told: of several that come at once to one that is new it breaks what they make."""
    authority = Authority.open(tmp_path / "keys")
    names = ("default", "lab", "third")
    for workspace in names[:2]:
        authority.create_workspace(workspace)
    async with EmbeddedBroker(tmp_path / "store", security=authority.security) as broker:
        authority.create_workspace(names[2])
        ours = [authority.trust(workspace).account for workspace in names]
        assert [account in await taken_in(authority, broker.url) for account in ours] == [True, True, False]
        await authority.push(names[2], broker.url)
        assert {*ours} <= await taken_in(authority, broker.url)


async def test_a_workspace_is_made_at_a_broker_that_runs(tmp_path):
    """Another workspace than the broker began with: it is told of it, the roles come in, the admin finds herself, who
    is no member of that one does not; and what is known of it stays, as the broker does.
    """
    authority = Authority.open(tmp_path / "keys")
    authority.create_workspace("default")
    async with EmbeddedBroker(tmp_path / "store", security=authority.security) as broker:
        place = Place(broker.url, "lab")
        side = Up(place, tmp_path / "data", keys=authority.directory, combiners=1, quiet=True)
        try:
            async with (
                side.running(processes=False),
                fedbus.connect(broker.url, workspace="lab") as federation,
            ):
                assert [seen.name for seen in await federation.combiners()] == ["combiner-1"]
                members = Members(federation.bus, federation.subjects, SystemClock())
                await members.load()
                assert {one.role for one in members.all()} == {"coordinator", "combiner", "admin"}
                with pytest.raises(BusDenied):
                    await fedbus.connect(broker.url, workspace="default").__aenter__()
            found = known.find(broker.url, "lab")
            assert found is not None and Path(side.place.credentials) == found
        finally:
            known.forget(broker.url)
