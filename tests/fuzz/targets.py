"""Every decoder of bytes that somebody else may have made, as a function of bytes: what `run` and the tests feed.

A target ends for any input, by returning or by an error of fedbus (`FedbusError`): anything else is a defect. It ends
within a time, and takes memory, in proportion to what it was fed (`test_targets` measures the memory). Where a checksum
stands before what is decoded, the target computes it, as somebody who means harm would. What is decoded without an
error is looked at: encoded again it has to be the same, decoded numbers have to be finite, lines have to be lines.

To add one: write a function, put it into `TARGETS`, and give it a seed in `seeds`.
"""

from __future__ import annotations

import atexit
import hmac
import io
import json
import logging
import math
import struct
import sys
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any
from zlib import compress, crc32

import msgpack
import numpy as np
from joserfc import jwk, jws
from multidict import CIMultiDict
from nats.errors import ProtocolError
from pydantic import ValidationError
from yarl import URL

sys.path.append(str(Path(__file__).parents[1] / "unit" / "messages"))

import message_samples

from fedbus.access.chain import verify_lines
from fedbus.access.claims import claims_of, read_user
from fedbus.access.credentials import Trust, parse_credentials
from fedbus.access.keys import Key, verify
from fedbus.access.tokens import JOIN, JoinToken
from fedbus.algorithms import trees
from fedbus.bus import tunnel
from fedbus.bus.nats import websocket
from fedbus.bus.nats.client import _info
from fedbus.bus.nats.frames import Frames, headers_from
from fedbus.bus.nats.jetstream import _message_of_leader
from fedbus.bus.proxy import Proxy, ProxyProblem
from fedbus.cli.output import metrics_text, plain_table
from fedbus.client.directory import Directory
from fedbus.codecs import Coding, Downlink, find
from fedbus.combiner import carried
from fedbus.config.policy import parse as parse_policy
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, FedbusError
from fedbus.exchange import packing
from fedbus.federation.cards import escaped
from fedbus.gateway import asking, content, idtoken
from fedbus.gateway.answers import is_known
from fedbus.gateway.cookies import Cookies
from fedbus.gateway.events import position_of
from fedbus.gateway.files import takes_gzip
from fedbus.gateway.hosts import Hosts
from fedbus.gateway.operations import NAMES
from fedbus.gateway.paging import parts_of
from fedbus.gateway.problems import invalid, problem_of
from fedbus.gateway.table import OPERATIONS
from fedbus.messages import envelope
from fedbus.messages.ids import Peer, check_name, is_name
from fedbus.messages.subjects import Subjects
from fedbus.messages.sums import name_and_shape
from fedbus.store import archive, index
from fedbus.store.models import _opened
from fedbus.store.objects.base import check_key
from fedbus.store.objects.jetstream import _head
from fedbus.store.objects.records import entry_of
from fedbus.store.sealing import WorkspaceSeal, opened
from fedbus.telemetry.context import context_of, passed_on
from fedbus.telemetry.logs import _Json, _Text
from fedbus.tensors import Layout, Manifest, ModelSpec, files
from fedbus.tensors.digest import chunk_digest
from fedbus.tensors.heads import spec_of
from fedbus.tensors.incoming import NpzFile, SafetensorsCutter

Target = Callable[[bytes], object]

logging.disable(logging.CRITICAL)  # a line for each refusal would be most of the time; lines have a target of their own

SUBJECTS = Subjects("ws")
KINDS = sorted(sample.kind for sample in message_samples.SAMPLES)
PLACE = Path(tempfile.mkdtemp(prefix="fedbus-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
"""Where decoders of files find theirs: in memory, where the system has that."""
atexit.register(rmtree, PLACE, ignore_errors=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- messages ---


def envelope_(data: bytes) -> None:
    """An envelope; what is one can be encoded again, and says the same then."""
    envelope.is_envelope(data)
    _same(envelope.decode(data, "fuzz"))


def _same(found: envelope.Envelope) -> None:
    with suppress(AssertionError):  # of ours: what was decoded to defaults may pass the longest envelope
        again = envelope.decode(envelope.encode(found), "fuzz")
        if "nan" not in repr(found):
            assert again == found, "an envelope that says something else when it is encoded again"


def body(data: bytes) -> None:
    """A body of any kind, chosen by the first byte; the envelope around it is sound."""
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    head = {"v": envelope.PROTOCOL, "id": "a", "ws": "ws", "from": "client/a", "kind": kind}
    packed: bytes = msgpack.packb(head)
    found = envelope.decode(b"\x86" + packed[1:] + b"\xa4body" + data[1:], "fuzz")
    repr(found)
    _same(found)


def subject(data: bytes) -> None:
    """A subject: who has sent, which chunk, which tokens; and every kind of name."""
    text = _text(data)
    for read in (
        lambda: SUBJECTS.address(text),
        lambda: SUBJECTS.sender(text, "report", 2, 0),
        lambda: SUBJECTS.tokens(text, "down", 3),
        lambda: SUBJECTS.check_inbox(text),
        lambda: check_name("name", text),
        lambda: check_key(text),
        lambda: name_and_shape(text, len(text)),
        lambda: Subjects(text),
    ):
        with suppress(FedbusError):
            read()
    if is_name(text):
        assert (PLACE / text).resolve().parent == PLACE.resolve(), "a name that leads out of its directory"
        assert text.isprintable() and text.isascii()
    with suppress(FedbusError):
        key = check_key(text)
        assert PLACE.resolve() in (PLACE / key).resolve().parents, "a key that leads out of its store"


def session_config(data: bytes) -> None:
    """Settings of a session, as JSON."""
    with suppress(ValidationError):
        SessionConfig.model_validate_json(data)


# --- tensors ---


def spec(data: bytes) -> None:
    """What a model is made of, as it travels."""
    value = _unpacked(data)
    found = ModelSpec.from_wire(value)
    assert ModelSpec.from_wire(found.to_wire()) == found


def _unpacked(data: bytes) -> object:
    try:
        return msgpack.unpackb(data, max_array_len=len(data), max_map_len=len(data))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise BadMessage("not msgpack") from error


def manifest(data: bytes) -> None:
    """A manifest as it stands in the stream of models, and the way down that it tells of."""
    found, inner, down = _opened("blob", data)
    layout = found.layout
    if layout.count:
        for chunk in {0, layout.count - 1}:
            layout.segments(chunk)
            with suppress(BadMessage):
                found.check_chunk(chunk, b"" if inner is None else inner[:16])
    if found.spec.nbytes < 2**16:
        Downlink.of(found, down)
    assert Manifest.from_wire(found.to_wire()) == found


def safetensors_head(data: bytes) -> None:
    """The head of a safetensors file; its length is that of the input."""
    spec_of(len(data).to_bytes(8, "little") + data)


def safetensors_whole(data: bytes) -> None:
    """A whole safetensors file from a peer, and from a disk."""
    with suppress(BadMessage):
        files.from_bytes(data)
    path = PLACE / "model.safetensors"
    path.write_bytes(data)
    for name, array in files.read(path).items():
        assert isinstance(name, str)
        array.tobytes()


def safetensors_pieces(data: bytes) -> None:
    """A safetensors file as it comes in over HTTP, in pieces; its first two bytes say of what size."""
    step = 1 + int.from_bytes(data[:2], "little") % 4096
    cutter = SafetensorsCutter(chunk_bytes=64)
    for at in range(2, len(data), step):
        cutter.feed(data[at : at + step])
    cutter.finish()


def npz(data: bytes) -> None:
    """An ``.npz`` file as it comes in over HTTP."""
    found = NpzFile(io.BytesIO(data))
    came = 0
    for piece in found.pieces():
        came += len(piece)
        assert came <= found.spec.nbytes
        if came > 2**20:
            return  # a bomb is read in pieces: how many are taken, the import bounds (`import_bytes_max`)


def npz_file(data: bytes) -> None:
    """An ``.npz`` file on a disk."""
    path = PLACE / "model.npz"
    path.write_bytes(data)
    files.read(path)


# --- codecs ---

LAYOUT = Layout(
    ModelSpec.from_wire(
        [["a", "<f4", [7, 9]], ["b", "<i4", [3]], ["c", "<f8", [11]], ["d", "<f2", [5]], ["e", "<c8", [2]]]
    ),
    256,
)
BASE_ARRAYS = {array.name: np.ones(array.shape, array.numpy) for array in LAYOUT.spec.arrays}
BASE = Manifest.of(BASE_ARRAYS, 256)
CODINGS = [
    Coding(LAYOUT, name, options)
    for name, options in (
        ("none", {}),
        ("fp16", {}),
        ("bf16", {}),
        ("int8", {}),
        ("int8", {"block": 8}),
        ("int4", {}),
        ("int4", {"block": 8}),
        ("top_k", {"fraction": 0.1}),
        ("top_k", {"fraction": 0.5, "values": "fp16"}),
        ("random_k", {"fraction": 0.1}),
        ("subsample", {"fraction": 0.3, "values": "fp16"}),
        ("drive", {}),
        ("eden", {}),
        ("eden", {"bits": 3}),
    )
]


def codec(data: bytes) -> None:
    """A chunk of an encoded update: first byte the codec and its options, second the chunk, then its bytes.

    They are as long as they have to be where the first byte is even: others are refused before anything is read.
    """
    if len(data) < 2:
        return
    coding = CODINGS[(data[0] >> 1) % len(CODINGS)]
    chunk = data[1] % LAYOUT.count
    encoded = data[2:]
    if not data[0] % 2:
        encoded = encoded[: coding.size(chunk)].ljust(coding.size(chunk), b"\0")
    found = coding.decode(chunk, encoded)
    assert memoryview(found).nbytes == LAYOUT.size(chunk)
    if not coding.is_plain:
        for run in coding.cuts[chunk].floats:
            assert np.isfinite(run.view(found)).all(), "a codec that gives what is not finite"


DOWNS = [Downlink(BASE, "int8"), Downlink(BASE, "fp16"), Downlink(BASE, "eden")]


def downlink(data: bytes) -> None:
    """A chunk of the way from a version to the next."""
    if len(data) < 2:
        return
    way, chunk = DOWNS[data[0] % len(DOWNS)], data[1] % LAYOUT.count
    encoded = data[2 : 2 + way.size(chunk)].ljust(way.size(chunk), b"\0")
    start, stop = LAYOUT.bounds(chunk)
    way.decode(chunk, BASE_BYTES[start:stop], encoded)


BASE_BYTES = b"".join(value.tobytes() for value in BASE_ARRAYS.values())


def codec_options(data: bytes) -> None:
    """Options of a codec as a manifest or a task names them: first byte the codec, then JSON."""
    names = ("fp16", "int8", "int4", "top_k", "random_k", "drive", "eden")
    try:
        options = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    if isinstance(options, dict):
        find(names[data[0] % len(names)]).parse(options)


def packed(data: bytes) -> None:
    """A zstd frame in place of a chunk: the first two bytes say how long that is."""
    size = int.from_bytes(data[:2], "little")
    assert len(packing.unpack(data[2:], size)) == size


def decision_trees(data: bytes) -> None:
    """Decision trees as a payload; those that are sound are asked."""
    for tree in trees.unpack(data):
        if tree.features < 1000:
            assert np.isfinite(tree.values(np.zeros((2, tree.features)))).all()


# --- what lies in streams, stores and files ---


def object_head(data: bytes) -> None:
    """The head of an object in a store on the bus."""
    found = _head(data)
    check_key(found.key)


def record(data: bytes) -> None:
    """A version's record in a store."""
    entry_of("ws/v.json", data)


def state(data: bytes) -> None:
    """The state of a server's step, as it lies in a blob."""
    aggregator = SimpleNamespace(name="fedadam", state_names=("m", "v"), scalar_names=("t",), carried=True)
    parts = SimpleNamespace(layout=LAYOUT, edges=tuple(range(0, 8 * (LAYOUT.count + 1), 8)))
    found = carried.Carried(aggregator, parts)
    checked = chunk_digest(data).to_bytes(carried.SUM_BYTES, "little") + data
    with suppress(BadMessage):
        found.load(checked)
    found._is_zero = False
    found.read(0, [checked])


def spool_index(data: bytes) -> None:
    """The index of a combiner's spool: the input is cut into entries, each with its checksum."""
    path = PLACE / "spool.index"
    path.write_bytes(index.MAGIC + b"".join(struct.pack("<II", len(one), crc32(one)) + one for one in _cut(data)))
    with suppress(index.Torn):
        index.read(path)


def _cut(data: bytes) -> list[bytes]:
    """Cut an input at every 0xFF."""
    return data.split(b"\xff")


def backup_frames(data: bytes) -> None:
    """The frames of a backup's file, each with its checksum."""
    raw = b"".join(len(one).to_bytes(4, "little") + chunk_digest(one).to_bytes(8, "little") + one for one in _cut(data))
    (PLACE / "catalogue.1").write_bytes(raw)
    for frame in archive.Archive(PLACE).frames("catalogue.1", len(raw)):
        assert isinstance(frame.data, bytes) and isinstance(frame.part, str) and isinstance(frame.sequence, int)
        assert all(map(is_name, frame.part.split(".")))


def backup_contents(data: bytes) -> None:
    """What a backup says that it holds: no file of it lies outside of it."""
    (PLACE / archive.MANIFEST).write_bytes(data)
    found = archive.Archive(PLACE).load()
    named = [one.file for one in (*found.journals, *found.blobs)] + [found.catalogue, found.registry]
    for file in named:
        assert PLACE.resolve() in ((PLACE / file).resolve(), *(PLACE / file).resolve().parents), file
    repr([journal.wanted for journal in found.journals])


def client_index(data: bytes) -> None:
    """The index of a client's state directory, each entry with its checksum; what it names is looked for."""
    peer = Peer("client", "fuzz")
    place = PLACE / "client-fuzz"
    place.mkdir(exist_ok=True)
    first: bytes = msgpack.packb(["fedbus state", 1])
    (place / "index").write_bytes(
        b"".join(struct.pack("<IQ", len(one), chunk_digest(one)) + one for one in (first, *_cut(data)))
    )
    for name in ("updates", "kept"):
        (place / name).write_bytes(b"x" * 64)
    Directory(PLACE).open(peer).close()


# --- who somebody is ---

SIGNER = Key.new("account")


def jwt(data: bytes) -> None:
    """A user's JWT: nobody's word is taken for another's; and a public key with a signature."""
    text = data.decode("utf-8", "replace")
    with suppress(FedbusError):
        claims_of(text)
    with suppress(FedbusError):
        read_user(text, {"client": SIGNER.public})
        raise AssertionError("a JWT that nobody has signed was taken")
    assert not verify(text[:56], b"data", data[:64]), "a signature that nobody has made was taken"


def jwt_claims(data: bytes) -> None:
    """A JWT whose middle part is the input, with a sound signature."""
    text = f"e30.{_base64(data)}"
    with suppress(FedbusError):
        read_user(f"{text}.{_base64(SIGNER.sign(text.encode()))}", {"client": SIGNER.public})


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def credentials(data: bytes) -> None:
    """A credentials file, and what a workspace trusts."""
    text = data.decode("utf-8", "replace")
    with suppress(FedbusError):
        Trust.from_json(text)
    parse_credentials(text, "fuzz")


def join_token(data: bytes) -> None:
    """A token to join with, as somebody pastes it; and what such a token holds, packed as it should be."""
    with suppress(FedbusError):
        JoinToken.read(data.decode("utf-8", "replace"))
    with suppress(FedbusError):
        JoinToken.read(JOIN + _base64(data))
    JoinToken.read(JOIN + _base64(compress(data)))


COOKIES = Cookies(b"0" * 32, "ws")


def cookie(data: bytes) -> None:
    """A cookie of who has signed in: what no gateway has made lets nobody in; and one whose middle is the input."""
    text = data.decode("utf-8", "replace")
    assert COOKIES.read(text, 0.0) is None, "a cookie that nobody has made was taken"
    body = f"2.{_base64(data)}"
    COOKIES.read(f"{body}.{_base64(hmac.digest(COOKIES._key, body.encode(), 'sha256'))}", 0.0)


def audit_lines(data: bytes) -> None:
    """An exported audit log, which its reader verifies."""
    repr(verify_lines(data.decode("utf-8", "replace").split("\n")))


def policy(data: bytes) -> None:
    """A data owner's policy, as TOML."""
    parse_policy(data.decode("utf-8", "replace"), "fuzz")


SEAL = WorkspaceSeal("00" * 32)


def sealed_chunk(data: bytes) -> None:
    """A sealed chunk: what nobody with the workspace's secret has sealed, here, is not opened."""
    with suppress(FedbusError):
        opened(SEAL, "another", 0, data)
        raise AssertionError("something was opened that nobody has sealed there")
    assert opened(SEAL, "blob", 0, data) == b"a chunk", "something was opened that nobody has sealed"


# --- the broker ---


class _Sink:
    def on_message(self, sid: int, subject: str, reply: str, headers: bytes, data: bytes | memoryview) -> None:
        headers_from(headers)
        len(data)

    def on_ping(self) -> None:
        pass

    def on_word(self, word: bytes, rest: bytes) -> None:
        if word == b"INFO":
            _info(rest)


def broker_frames(data: bytes) -> None:
    """What a broker says, byte by byte as the kernel gives it."""
    frames = Frames(_Sink())
    at = 0
    with suppress(ProtocolError):
        while at < len(data):
            room = frames.room()
            some = data[at : at + min(len(room), 1 + at % 997)]
            room[: len(some)] = some
            at += len(some)
            frames.received(len(some))


def broker_websocket(data: bytes) -> None:
    """What a broker says over a websocket: its answer to our question, and heads of frames."""
    for read in (lambda: websocket._check_answer(data, b"key"), lambda: websocket._head_of(memoryview(data))):
        with suppress(ProtocolError, websocket.WebsocketRefused):
            read()


PROXY = Proxy.of("http://proxy.example:3128")


def proxy_answer(data: bytes) -> None:
    """What a proxy answers to who wants to go through it: a tunnel, or words for a person, in one line."""
    told = ""
    try:
        tunnel._check(PROXY, "broker.example:443", data)
    except ProxyProblem as problem:
        told = str(problem)
    assert told.isprintable() and len(told) < 1000


def broker_message(data: bytes) -> None:
    """A stored message as a broker's plain API tells it."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(told, dict):
        _message_of_leader(told)


# --- an OIDC provider ---

PROVIDER = jwk.OKPKey.generate_key("Ed25519", {"kid": "1"})
EXPECTED = idtoken.Expected("https://issuer.example", "client", "nonce")


def id_token(data: bytes) -> None:
    """An ID token: as it comes; with the input as its claims, signed by the provider; and the input as its keys."""
    keys = idtoken.keys_of({"keys": [PROVIDER.as_dict(private=False)]})
    with suppress(FedbusError):
        idtoken.claims_of(data.decode("utf-8", "replace"), keys, EXPECTED, 1000.0)
        raise AssertionError("a token that nobody has signed was taken")
    with suppress(FedbusError):
        signed = jws.serialize_compact({"alg": "Ed25519", "kid": "1"}, data, PROVIDER, algorithms=["Ed25519"])
        idtoken.claims_of(signed, keys, EXPECTED, 1000.0)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    idtoken.keys_of(document)


# --- REST ---

BODIES = [operation for operation in OPERATIONS if operation.body is not None]
QUERIES = [operation for operation in OPERATIONS if operation.query is not None]


def rest_body(data: bytes) -> None:
    """A JSON body: the first byte says of which operation."""
    operation = BODIES[data[0] % len(BODIES)] if data else BODIES[0]
    asking._check_json(data[1:])
    try:
        operation.body.model_validate_json(data[1:], strict=True)
    except ValidationError as error:
        raise _told(invalid(error, "body")) from error


def _told(refused: Any) -> Any:
    problem_of(refused, "id")
    return refused


def rest_query(data: bytes) -> None:
    """A query: the first byte says of which operation; and the cursor that it may hold."""
    operation = QUERIES[data[0] % len(QUERIES)] if data else QUERIES[0]
    try:
        given = URL.build(path="/", query_string=_text(data[1:]), encoded=True).query
    except ValueError:
        return
    try:
        found = asking.query_of(operation.query, given)
    except FedbusError as error:
        raise _told(error) from error
    cursor = getattr(found, "cursor", None)
    if cursor is not None:
        for kinds in ((str,), (int, int), (float, str)):
            with suppress(FedbusError):
                parts_of(cursor, *kinds)


def rest_headers(data: bytes) -> None:
    """Headers and names of a request: whatever they are, they are answered or refused."""
    text = data.decode("latin-1")
    headers = CIMultiDict({"Host": text, "If-None-Match": text, "Idempotency-Key": text})
    request = SimpleNamespace(headers=headers)
    Hosts("0.0.0.0", ["a.example"]).has(text)
    is_known(request, '"x"')
    takes_gzip(text)
    context_of(text)
    passed_on({"traceparent": text, "tracestate": text})
    with suppress(FedbusError):
        asking.key_of(BODIES[0], request)
    with suppress(FedbusError):
        position_of(text)
    with suppress(FedbusError):
        content.span_of(text, 1000)
    for name in NAMES:
        with suppress(FedbusError):
            asking.names_in(OPERATIONS[0], {name: text})
            assert text.isprintable()
            assert not {"/", "\\"} & set(text)
            assert name == "person" or text not in {".", ".."}


# --- what people read ---

FORMS: Mapping[str, logging.Formatter] = {"text": _Text("client a"), "json": _Json("client", "a", "ws")}


def log_line(data: bytes) -> None:
    """A line of the log with a stranger's words in it: one line, with nothing that a terminal obeys."""
    text = _text(data)
    for form in FORMS.values():
        line = form.format(logging.LogRecord("fedbus", logging.WARNING, "", 0, "refused: %s", (text,), None))
        line.encode("utf-8", "backslashreplace")
        # a tab moves within its line
        assert not any(char != "\t" and (ord(char) < 32 or 127 <= ord(char) < 160) for char in line), repr(line)
        assert len(line.splitlines()) == 1


def terminal(data: bytes) -> None:
    """A table in a terminal with a stranger's words in it: as many lines as there are rows."""
    text = _text(data)
    lines = plain_table(("name", "what"), [(text, text), ("b", text)])
    assert len("\n".join(lines).splitlines()) == 3
    for line in (*lines, metrics_text({text: math.nan}), escaped(text)):
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line), repr(line)


TARGETS: Mapping[str, Target] = {
    "envelope": envelope_,
    "body": body,
    "subject": subject,
    "session_config": session_config,
    "spec": spec,
    "manifest": manifest,
    "safetensors_head": safetensors_head,
    "safetensors_whole": safetensors_whole,
    "safetensors_pieces": safetensors_pieces,
    "npz": npz,
    "npz_file": npz_file,
    "codec": codec,
    "downlink": downlink,
    "codec_options": codec_options,
    "packed": packed,
    "decision_trees": decision_trees,
    "object_head": object_head,
    "record": record,
    "state": state,
    "spool_index": spool_index,
    "backup_frames": backup_frames,
    "backup_contents": backup_contents,
    "client_index": client_index,
    "jwt": jwt,
    "jwt_claims": jwt_claims,
    "credentials": credentials,
    "join_token": join_token,
    "cookie": cookie,
    "audit_lines": audit_lines,
    "policy": policy,
    "sealed_chunk": sealed_chunk,
    "broker_frames": broker_frames,
    "broker_message": broker_message,
    "broker_websocket": broker_websocket,
    "proxy_answer": proxy_answer,
    "id_token": id_token,
    "rest_body": rest_body,
    "rest_query": rest_query,
    "rest_headers": rest_headers,
    "log_line": log_line,
    "terminal": terminal,
}
"""By name, which is also that of the directory with its seeds."""


def feed(name: str, data: bytes) -> bool:
    """Feed a target; whether it took the input. Whatever is raised but an error of fedbus is a defect."""
    try:
        TARGETS[name](data)
    except FedbusError:
        return False
    return True
