"""Every role, every subject, every call of JetStream's API at a real broker: permitted or denied as the table says."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials
from fedbus.access.permissions import AT_THE_DOOR, ROLES, STREAMS, WITHOUT_ANSWER, contains, inbox_of, permissions
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.identity import Identity, identify_by
from fedbus.bus.patterns import matcher
from fedbus.errors import BusDenied, BusError
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import ChunkAddress, Subjects
from fedbus.store.streams import ensure_streams, streams_of

WORKSPACE = "ward"
OURS = Subjects(WORKSPACE)
ME, OTHER = "me", "other"

STREAM_CALLS = (
    "STREAM.CREATE.{0}",
    "STREAM.UPDATE.{0}",
    "STREAM.INFO.{0}",
    "STREAM.DELETE.{0}",
    "STREAM.PURGE.{0}",
    "STREAM.MSG.GET.{0}",
    "STREAM.MSG.DELETE.{0}",
    "STREAM.SNAPSHOT.{0}",
    "STREAM.RESTORE.{0}",
    "STREAM.LEADER.STEPDOWN.{0}",
    "DIRECT.GET.{0}",
    "DIRECT.GET.{0}.fb.ward.blob.b.0",
    "CONSUMER.CREATE.{0}",
    "CONSUMER.CREATE.{0}.c",
    "CONSUMER.CREATE.{0}.c.fb.ward.task.other.s",
    "CONSUMER.DURABLE.CREATE.{0}.c",
    "CONSUMER.DELETE.{0}.c",
    "CONSUMER.INFO.{0}.c",
    "CONSUMER.NAMES.{0}",
    "CONSUMER.LIST.{0}",
    "CONSUMER.MSG.NEXT.{0}.c",
    "CONSUMER.PAUSE.{0}.c",
)
"""Of each stream."""

CALLS = ("INFO", "STREAM.NAMES", "STREAM.LIST", "ACCOUNT.INFO", "META.LEADER.STEPDOWN", "SERVER.REMOVE")
"""Of no stream."""


def _peers(role: str) -> list[Peer]:
    """Whom a member of a role might try to speak as: itself, another of its role, and others."""
    return [
        Peer(role, ME),
        Peer(role, OTHER),
        Peer("client", OTHER),
        Peer("combiner", "k-1"),
        Peer("coordinator", "co"),
    ]


def _published(role: str) -> list[str]:
    """Every subject that is tried: each family of ours with own and foreign names, and the whole API."""
    tried = [OURS.journal("s"), OURS.lead(), OURS.whois(), OURS.query("clients"), OURS.access_bounds()]
    tried += [
        OURS.registry_state(),
        OURS.registry_note("v"),
        OURS.model("v"),
        OURS.blob("b", 0),
        OURS.object("o", "head"),
    ]
    tried += [OURS.order("k-1", "s"), OURS.access_token("t"), OURS.access_person("p"), OURS.join(ME), OURS.join(OTHER)]
    for peer in _peers(role):
        chunk = ChunkAddress(peer, "s", 1, 1, 0, 0)
        tried += [OURS.command(peer), OURS.task(peer.name, "s"), OURS.span(peer), OURS.presence(peer), OURS.renew(peer)]
        tried += [OURS.up("k-1", peer), OURS.chunk("k-1", chunk), OURS.down(peer, "k-1"), OURS.down(peer, ME)]
        tried += [OURS.report(peer), OURS.ack(peer), OURS.board(peer), OURS.audit(peer), OURS.access_member(peer)]
        tried += [f"{inbox_of(*peer)}.x.1"]
    calls = [call.format(OURS.stream(name)) for name in (*STREAMS, "other") for call in STREAM_CALLS]
    tried += [f"$JS.API.{call}" for call in (*calls, *CALLS)]
    tried += [
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.SERVER.PING",
        "$JS.ACK.x",
        "foreign",
        "fb.elsewhere.journal.s",
        "$KV.x.y",
    ]
    return list(dict.fromkeys(tried))


def _subscribed(role: str) -> list[str]:
    """Every pattern that is tried."""
    tried = [">", "fb.>", f"fb.{WORKSPACE}.>", "*.>", "_INBOX.>", "$SYS.>", "$JS.>", "fb.elsewhere.>", OURS.journal()]
    tried += [OURS.command(), OURS.task(), OURS.order(), OURS.blob(), OURS.model(), OURS.registry(), OURS.access()]
    tried += [OURS.audit(), OURS.lead(), OURS.span(), OURS.presence(), OURS.whois(), OURS.report(), OURS.query()]
    tried += [OURS.join(), OURS.renew(), OURS.board(), OURS.objects()]
    for peer in _peers(role):
        tried += [OURS.task(peer.name), OURS.order(peer.name), OURS.down(peer), OURS.ack(peer), OURS.up(peer.name)]
        tried += [OURS.chunks(peer.name), f"{inbox_of(*peer)}.>", OURS.up("*", peer), OURS.report(peer)]
    return list(dict.fromkeys(tried))


class _Denials:
    def __init__(self) -> None:
        self.found: set[tuple[str, str]] = set()

    def on_reconnected(self) -> None: ...

    def on_closed(self, reason: BusError) -> None: ...

    def on_denied(self, action: str, subject: str, reason: BusDenied) -> None:
        del reason
        self.found.add((action, subject))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Keys of an operator with one workspace."""
    authority = Authority.open(tmp_path_factory.mktemp("operator") / "keys")
    authority.create_workspace(WORKSPACE)
    return authority


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(keys, tmp_path_factory):
    """A broker that lets in whom these keys have signed."""
    async with EmbeddedBroker(tmp_path_factory.mktemp("broker"), security=keys.security) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def streams(broker, keys, tmp_path):
    """The workspace's streams, made by who may: a coordinator."""
    path = tmp_path / "coordinator.creds"
    write_credentials(path, keys.issue(WORKSPACE, "coordinator", "maker"))
    async with await connect(broker.url, name="maker", credentials=path) as bus:
        await ensure_streams(bus, OURS)
        yield bus


async def _denied(url: str, keys: Authority, role: str) -> set[tuple[str, str]]:
    """Return what the broker denies a member of a role of all that is tried."""
    issued = keys.issue(WORKSPACE, role, ME)
    connection, denials = Connection(url, role), _Denials()
    identify = identify_by(Identity(issued.jwt, issued.seed))
    await connection.open(identify=identify, tls=None, inbox_prefix="_INBOX", deadline_s=10)
    connection.listeners.append(denials)
    try:
        for pattern in _subscribed(role):
            await connection.ignore(await connection.receive((pattern,), lambda message: None))
        for subject in _published(role):
            # no reply: whatever is permitted is asked for in vain, with a body that is none
            await connection.send(subject, b"{")
        await connection.flush(10)
    finally:
        await connection.close()
    return denials.found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("role", ROLES)
async def test_the_broker_permits_a_role_what_the_table_says_and_nothing_else(role, broker, keys, streams):
    """Every subject and call, tried with a role's real credentials: denied unless the table says otherwise."""
    allowed = permissions(role, WORKSPACE, ME)
    said = {
        "publish": [matcher(pattern) for pattern in allowed.publish],
        "subscription": [_within(pattern) for pattern in allowed.subscribe],
    }
    tried = [("publish", subject) for subject in _published(role)]
    tried += [("subscription", pattern) for pattern in _subscribed(role)]
    expected = {(action, what.lower()) for action, what in tried if not any(fits(what) for fits in said[action])}
    assert await _denied(broker.url, keys, role) == expected
    assert len(expected) < len(tried)


def _within(permitted: str):
    """Return whether a pattern asks for no more than is permitted."""
    tokens = permitted.split(".")

    def fits(asked: str) -> bool:
        wanted = asked.split(".")
        for at, token in enumerate(tokens):
            if token == ">":
                return len(wanted) > at
            if at >= len(wanted) or wanted[at] == ">" or (token != "*" and wanted[at] != token):
                return False
        return len(wanted) == len(tokens)

    return fits


CLIENT_NEVER = {
    "publish as another client": OURS.report(Peer("client", OTHER)),
    "announce another's update": OURS.up("k-1", Peer("client", OTHER)),
    "send another's chunk": OURS.chunk("k-1", ChunkAddress(Peer("client", OTHER), "s", 1, 1, 0, 0)),
    "be there as another": OURS.presence(Peer("client", OTHER)),
    "give itself a task": OURS.task(ME, "s"),
    "write the journal": OURS.journal("s"),
    "command": OURS.command(Peer("client", ME)),
    "write the audit": OURS.audit(Peer("client", ME)),
    "read the journal": "$JS.API.DIRECT.GET.fb-ward-journal.fb.ward.journal.s",
    "read the board": "$JS.API.DIRECT.GET.fb-ward-board",
    "read another's task": "$JS.API.DIRECT.GET.fb-ward-board.fb.ward.task.other.s",
    "read by sequence": "$JS.API.DIRECT.GET.fb-ward-blob",
    "create a stream": "$JS.API.STREAM.CREATE.fb-ward-mine",
    "delete a stream": "$JS.API.STREAM.DELETE.fb-ward-journal",
    "purge a stream": "$JS.API.STREAM.PURGE.fb-ward-blob",
    "create a consumer": "$JS.API.CONSUMER.CREATE.fb-ward-board.c.fb.ward.task.me.s",
    "take from a consumer": "$JS.API.CONSUMER.MSG.NEXT.fb-ward-journal.c",
    "delete a consumer": "$JS.API.CONSUMER.DELETE.fb-ward-journal.c",
    "approve itself": OURS.access_member(Peer("client", ME)),
    "answer at another's inbox": f"{inbox_of('client', OTHER)}.x.1",
}
CLIENT_NEVER_HEARS = {
    "another's tasks": OURS.task(OTHER),
    "all tasks": OURS.task(),
    "updates": OURS.chunks("k-1"),
    "announcements": OURS.up("k-1"),
    "how another's update stands": OURS.down(Peer("client", OTHER)),
    "the journal": OURS.journal(),
    "reports": OURS.report(),
    "who is there": OURS.presence(),
    "another's inbox": f"{inbox_of('client', OTHER)}.>",
    "everything": ">",
}


@pytest.mark.parametrize("what", CLIENT_NEVER)
def test_a_client_is_never_permitted_to(what):
    """What a client must never do is denied by the table, whatever else changes in it."""
    assert not any(matcher(pattern)(CLIENT_NEVER[what]) for pattern in permissions("client", WORKSPACE, ME).publish)


@pytest.mark.parametrize("what", CLIENT_NEVER_HEARS)
def test_a_client_never_hears(what):
    """What a client must never hear is denied by the table, whatever else changes in it."""
    assert not any(_within(p)(CLIENT_NEVER_HEARS[what]) for p in permissions("client", WORKSPACE, ME).subscribe)


@pytest.mark.parametrize("role", ROLES)
def test_nobody_may_delete_a_stream_or_take_from_the_audit(role):
    """No role removes a stream, nor anything of the audit; only who makes streams may change what they are."""
    publish = [matcher(pattern) for pattern in permissions(role, WORKSPACE, ME).publish]
    for name in STREAMS:
        assert not any(fits(f"$JS.API.STREAM.DELETE.{OURS.stream(name)}") for fits in publish)
    for call in ("PURGE", "MSG.DELETE", "UPDATE"):  # a bound on age or count removes, too
        assert not any(fits(f"$JS.API.STREAM.{call}.{OURS.stream('audit')}") for fits in publish)


@pytest.mark.parametrize("role", ROLES)
def test_only_who_may_read_all_describes_streams(role):
    """A stream can be told to copy any other of its account: who may not read the audit may make and change none."""
    publish = [matcher(pattern) for pattern in permissions(role, WORKSPACE, ME).publish]
    made = {
        (call, name)
        for name in STREAMS
        for call in ("CREATE", "UPDATE")
        if any(fits(f"$JS.API.STREAM.{call}.{OURS.stream(name)}") for fits in publish)
    }
    assert bool(made) == (role in ("coordinator", "admin"))
    if made:
        assert {name for call, name in made if call == "CREATE"} == set(STREAMS)
    assert (("UPDATE", "access") in made) == (role == "admin"), "or it could copy boards of its own into there"


def test_no_stream_answers_what_is_only_said():
    """What passes a door as a stream keeps the reply that it names: a stream that answered would write there."""
    listening = [spec for spec in streams_of(OURS) if any(p.split(".")[2] in WITHOUT_ANSWER for p in spec.subjects)]
    assert [spec.name for spec in listening] == [OURS.stream("span")]
    assert not any(spec.answers for spec in listening)


def _asked_of_streams(role: str) -> list[str]:
    """What a role may ask JetStream: of each kind of call, of each stream."""
    may = permissions(role, WORKSPACE, ME).publish
    calls = [call.format(OURS.stream(name)) for name in STREAMS for call in STREAM_CALLS]
    kept = [f"$JS.API.{call}" for call in calls if "PURGE" not in call and "DELETE" not in call]
    kept += [f"$JS.API.DIRECT.GET.{OURS.stream('blob')}.{OURS.blob(blob, 0)}" for blob in ("there", "nowhere")]
    return [subject for subject in dict.fromkeys(kept) if any(contains(pattern, subject) for pattern in may)]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("role", [role for role in AT_THE_DOOR if role != "joiner"])
async def test_no_stream_takes_what_the_broker_answers_at_a_door(role, broker, keys, streams):
    """Neither a blob nor that there is none, nor what a stream is like: in no stream, under no name, whoever asks."""
    admin, asker = keys.issue(WORKSPACE, "admin", "ann"), keys.issue(WORKSPACE, role, ME)
    kept = [OURS.access_member(Peer("client", ME)), OURS.audit(Peer("admin", "ann")), OURS.journal("forged")]
    kept += [OURS.task(OTHER, "forged"), OURS.order("k-1", "forged"), OURS.blob("there", 0), OURS.model("forged")]
    kept += [OURS.registry_state(), OURS.command(Peer("engineer", ME)), OURS.lead(), OURS.object("forged", "head")]
    # also what others of the role may say, or the role itself: an answer is nobody's word
    kept += [OURS.audit(Peer(role, OTHER)), OURS.command(Peer(role, OTHER)), OURS.span(Peer(role, OTHER))]
    kept += [OURS.span(Peer(role, ME)), OURS.registry_note("forged"), OURS.presence(Peer(role, OTHER))]
    inbox, answers = f"{inbox_of(role, ME)}.x", []
    connection = Connection(broker.url, ME)
    asked = _asked_of_streams(role)
    async with await connect(broker.url, name="ann", credentials=Identity(admin.jwt, admin.seed)) as bus:
        await bus.append(OURS.stream("blob"), OURS.blob("there", 0), b"stored")
        before = {name: (await bus.usage(OURS.stream(name))).messages for name in STREAMS}
        await connection.open(
            identify=identify_by(Identity(asker.jwt, asker.seed)), tls=None, inbox_prefix=inbox, deadline_s=10
        )
        try:
            await connection.receive((inbox,), answers.append)
            for subject in asked:
                for reply in (*kept, inbox):
                    await connection.send(subject, b"{}", reply=reply)
            await connection.flush(10)
            async with asyncio.timeout(10):
                while len(answers) < len(asked):  # where answers may be heard, they come, and once
                    await connection.flush(10)
        finally:
            await connection.close()
        assert len(answers) == len(asked) > 0
        for name in STREAMS:  # asked behind it: what would have come is there
            assert (await bus.usage(OURS.stream(name))).messages == before[name], name
        assert bytes((await bus.last(OURS.stream("blob"), OURS.blob("there", 0))).data) == b"stored"


@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_goes_to_no_subject_of_ours(broker, keys, streams, tmp_path):
    """A client that names another's subject as its inbox has nobody say anything there in its place."""
    path = tmp_path / "c.creds"
    issued = keys.issue(WORKSPACE, "client", ME)
    write_credentials(path, issued)
    folder = keys.issue(WORKSPACE, "combiner", "k-1")
    async with await connect(broker.url, name="k-1", credentials=Identity(folder.jwt, folder.seed)) as combiner:
        await combiner.append(OURS.stream("blob"), OURS.blob("b", 0), b"stored")
    heard = await streams.subscribe(OURS.report())
    connection = Connection(broker.url, ME)
    await connection.open(identify=identify_by(path), tls=None, inbox_prefix="_INBOX", deadline_s=10)
    try:
        forged = OURS.report(Peer("client", OTHER))
        asked = f"$JS.API.DIRECT.GET.{OURS.stream('blob')}.{OURS.blob('b', 0)}"
        await connection.send(asked, b"", reply=forged)
        await connection.flush(10)
        own = OURS.report(Peer("client", ME))
        await connection.send(own, b"last")
        await connection.flush(10)
        async for message in heard:
            assert message.subject != forged, "the broker answered where the client may not publish"
            if message.subject == own:
                break
    finally:
        await connection.close()
        await heard.close()
