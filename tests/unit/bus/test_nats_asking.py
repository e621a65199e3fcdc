"""What is asked of a cluster: asked again when its answer is lost, streams changed step by step, answers of leaders."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

from fedbus.bus.base import Message, Placement, Storage, StreamSpec
from fedbus.bus.nats.jetstream import JetStream, NotReady, raise_refusal
from fedbus.bus.nats.requests import Requests
from fedbus.errors import BusFull, BusUnavailable, ConfigError

SPEC = StreamSpec("s", ("s.>",), Storage.FILE)


class Wire:
    """A connection whose other side answers with what is in the script, one for each that was sent; None: no answer."""

    connected = True
    received_bytes = 0
    waiting_bytes = 0

    def __init__(self, script):
        self.listeners = []
        self.sent = []
        self._script = iter(script)

    def inbox(self):
        return "_INBOX.x"

    async def receive(self, patterns, handler):
        self._handler = handler

    async def send(self, subject, data, *, reply="", headers=None):
        self.sent.append((subject, data, reply, headers))
        answer = next(self._script)
        if answer is not None:
            self._handler(SimpleNamespace(subject=reply, data=answer, headers=None))

    def unavailable(self, what):
        return BusUnavailable(what)


async def asking(script):
    """Return a wire, and requests over it."""
    wire = Wire(script)
    requests = Requests(wire)
    await requests.open()
    return wire, requests


async def test_an_answer_that_does_not_come_is_asked_for_again(monkeypatch):
    """Two are lost, with whoever had them: the same is sent a third time, word by word, and its answer taken."""
    monkeypatch.setattr("fedbus.bus.nats.requests.AGAIN_S", 0.001)
    monkeypatch.setattr("fedbus.bus.nats.requests.AGAIN_SHARE", 0.0)
    wire, requests = await asking([None, None, b"yes"])
    answer = await requests.call("a", b"b", deadline_s=30, what="x", headers={"Nats-Msg-Id": "1"})
    assert answer.data == b"yes"
    assert wire.sent == [("a", b"b", "_INBOX.x.1", {"Nats-Msg-Id": "1"})] * 3


async def test_what_may_not_be_repeated_is_sent_once(monkeypatch):
    """A plain request reaches its receiver at most once: it ends at its deadline."""
    monkeypatch.setattr("fedbus.bus.nats.requests.AGAIN_S", 0.001)
    monkeypatch.setattr("fedbus.bus.nats.requests.AGAIN_SHARE", 0.0)
    wire, requests = await asking([None, b"too late"])
    with pytest.raises(BusUnavailable, match=r"x: no answer within 0\.01 s"):
        await requests.call("a", b"b", deadline_s=0.01, what="x", repeat=False)
    assert len(wire.sent) == 1


async def test_while_disconnected_nothing_is_added(monkeypatch):
    """The outgoing buffer of a connection that is away is not filled with repetitions: it sends all again by itself."""
    monkeypatch.setattr("fedbus.bus.nats.requests.AGAIN_S", 0.001)
    monkeypatch.setattr("fedbus.bus.nats.requests.AGAIN_SHARE", 0.0)
    wire, requests = await asking([None])
    wire.connected = False
    with pytest.raises(BusUnavailable):
        await requests.call("a", b"b", deadline_s=0.02, what="x")
    assert len(wire.sent) == 1


class Api(JetStream):
    """An API that says that the stream is there with another description, and notes how it is updated."""

    def __init__(self, there):
        self.updates = []
        self._there = there

    async def api(self, path, body, *, deadline_s, what):
        verb = path.split(".")[1]
        if verb == "CREATE":
            raise_refusal({"error": {"code": 400, "err_code": 10058, "description": "in use"}}, what)
        if verb == "UPDATE":
            self.updates.append((body["num_replicas"], (body.get("placement") or {}).get("tags")))
        return {"config": self._there}


@pytest.mark.parametrize(
    ("replicas", "placement", "updates"),
    [
        (0, None, [(3, ["old"])]),
        (5, None, [(5, ["old"])]),
        (0, ("new",), [(3, ["new"])]),
        (5, ("new",), [(3, ["new"]), (5, ["new"])]),
        (1, ("new",), [(1, ["old"]), (1, ["new"])]),
    ],
)
async def test_a_stream_moves_while_it_has_few_replicas(replicas, placement, updates):
    """The broker refuses to move and to scale at once: it moves before it grows, and after it shrinks; what is not said
    stays.
    """
    api = Api({"num_replicas": 3, "placement": {"tags": ["old"]}})
    place = None if placement is None else Placement(tags=placement)
    await api.ensure(StreamSpec("s", ("s.>",), Storage.FILE, replicas=replicas, placement=place), 1)
    assert [(count, tags) for count, tags in api.updates] == updates


async def test_without_an_old_place_a_stream_shrinks_without_one():
    """A stream that stood anywhere is not moved by the step that only shrinks it."""
    api = Api({"num_replicas": 3})
    await api.ensure(StreamSpec("s", ("s.>",), Storage.FILE, replicas=1, placement=Placement(tags=("new",))), 1)
    assert api.updates == [(1, None), (1, ["new"])]


@pytest.mark.parametrize("code", [10005, 10124, 10226])
def test_what_passes_is_asked_again(code):
    """Servers that are still missing, or a move under way, are no final answer."""
    with pytest.raises(NotReady):
        raise_refusal({"error": {"code": 400, "err_code": code, "description": "d"}}, "x")


async def test_a_cluster_without_room_is_full():
    """Servers that are there and have no memory left are told apart from servers that are missing."""

    class Full(JetStream):
        def __init__(self):
            pass

        async def api(self, path, body, *, deadline_s, what):
            text = "no suitable peers for placement, insufficient storage"
            raise_refusal({"error": {"code": 400, "err_code": 10005, "description": text}}, what)

    with pytest.raises(BusFull, match="3 servers"):
        await Full().ensure(StreamSpec("s", ("s.>",), Storage.MEMORY, replicas=3), 1)


def test_a_server_that_is_alone_says_what_to_do():
    """Replicas without a cluster are a ConfigError that names the command."""
    with pytest.raises(ConfigError, match="fedbus broker settings --kind cluster"):
        raise_refusal({"error": {"code": 500, "err_code": 10074, "description": "replicas > 1"}}, "x")


async def test_a_message_of_the_leader_is_the_message():
    """Bytes, headers, id and sequence come out of the JSON of the plain API as they went in; the broker's own headers
    do not.
    """
    headers = b"NATS/1.0\r\nNats-Msg-Id: id-1\r\nNats-Expected-Stream: s\r\na: b:c\r\n\r\n"
    stored = {
        "subject": "s.a",
        "seq": 7,
        "hdrs": base64.b64encode(headers).decode(),
        "data": base64.b64encode(b"\x00\xff").decode(),
    }

    class Leader(JetStream):
        async def api(self, path, body, *, deadline_s, what):
            assert (path, body) == ("STREAM.MSG.GET.s", {"last_by_subj": "s.a"})
            return {"message": stored}

    found = await Leader(None, None).last_of_leader("s", "s.a", 1)
    assert found == (Message("s.a", b"\x00\xff", {"a": "b:c"}, 7), "id-1")
    del stored["hdrs"], stored["data"]
    assert await Leader(None, None).last_of_leader("s", "s.a", 1) == (Message("s.a", b"", {}, 7), "")
