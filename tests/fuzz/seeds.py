"""Write the seeds of the fuzz targets: small valid inputs, made by our own encoders. ``python -m tests.fuzz.seeds``

What fuzzing has found lies beside them under names that begin with ``found-``: these are not written anew.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import decompress

import msgpack
import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit" / "messages")]

import message_samples  # noqa: E402
from targets import BASE, BASE_ARRAYS, CODINGS, DOWNS, KINDS, LAYOUT, PROVIDER, SEAL  # noqa: E402

from fedbus.access.chain import line_of, recorded  # noqa: E402
from fedbus.access.claims import user_jwt  # noqa: E402
from fedbus.access.credentials import Credentials, Trust, format_credentials  # noqa: E402
from fedbus.access.keys import Key  # noqa: E402
from fedbus.access.tokens import JOIN, JoinToken  # noqa: E402
from fedbus.algorithms.trees import Tree, pack  # noqa: E402
from fedbus.exchange import packing  # noqa: E402
from fedbus.messages import envelope  # noqa: E402
from fedbus.messages.records import ModelPublished  # noqa: E402
from fedbus.messages.subjects import Subjects  # noqa: E402
from fedbus.store.archive import Contents, JournalFile, Version  # noqa: E402
from fedbus.store.objects.records import record_of  # noqa: E402
from fedbus.store.sealing import sealed  # noqa: E402
from fedbus.tensors import files  # noqa: E402

SEEDS = Path(__file__).parents[1] / "data" / "fuzz"

SAMPLES = {sample.kind: sample for sample in message_samples.SAMPLES}


def _messages() -> Iterator[tuple[str, str, bytes]]:
    for number, kind in enumerate(KINDS):
        sample = SAMPLES[kind]
        yield "body", kind, bytes([number]) + msgpack.packb(sample.model_dump(mode="python"))
        if kind in {"Task", "UploadBegin", "Hello", "Member", "AuditEntry"}:
            yield "envelope", kind, envelope.encode(envelope.Envelope("id", "ws", "client/a", sample))
    said = SAMPLES["Evaluated"]
    signed = envelope.Signed(envelope.pack_body(said), bytes(range(64)), "a.b.c", b"\1" * 33)
    yield "envelope", "signed", envelope.encode(envelope.Envelope("id", "ws", "client/a", said, signed))
    for number, text in enumerate(
        (
            "fb.ws.chunk.c1.client.a.s.1.0.7.0123456789abcdef",
            "fb.ws.report.client.site-1",
            "ws/version-1.safetensors",
            "confusion[10,10]",
            "../../etc/passwd",
            "a\0b",
        )
    ):
        yield "subject", str(number), text.encode()
    yield "session_config", "config", message_samples.CONFIG.model_dump_json().encode()
    yield "session_config", "chain", b'{"strategy":"norm_clipping+fedadam","strategy_options":{"max":1},"rounds":3}'


def _tensors() -> Iterator[tuple[str, str, bytes]]:
    wire = BASE.to_wire()
    yield "spec", "mixed", msgpack.packb(LAYOUT.spec.to_wire())
    yield "manifest", "mixed", msgpack.packb(wire)
    yield "manifest", "down", msgpack.packb({**wire, "down": DOWNS[0].head()})
    small = {"w": np.arange(6, dtype="<f4").reshape(2, 3), "c": np.ones(2, "<c8"), "n": np.empty(0, "<i8")}
    whole = files.to_bytes(small)
    length = int.from_bytes(whole[:8], "little")
    yield "safetensors_head", "small", whole[8 : 8 + length]
    yield "safetensors_whole", "small", whole
    yield "safetensors_pieces", "small", b"\x10\x00" + whole
    for name, arrays in (("plain", {"w": small["w"]}), ("fortran", {"w": np.asfortranarray(small["w"])})):
        for save in (np.savez, np.savez_compressed):
            out = io.BytesIO()
            save(out, **arrays)
            yield "npz", f"{name}-{save.__name__}", out.getvalue()
            yield "npz_file", f"{name}-{save.__name__}", out.getvalue()


def _codecs() -> Iterator[tuple[str, str, bytes]]:
    chunk = b"".join(value.tobytes() for value in BASE_ARRAYS.values())[: LAYOUT.size(0)]
    for number, coding in enumerate(CODINGS):
        encoded = bytes(coding.encode(0, chunk, 7))
        yield "codec", f"{number}-{coding.codec.name}", bytes([2 * number, 0]) + encoded
    yield "downlink", "int8", bytes([0, 0]) + bytes(DOWNS[0].size(0))
    for number, options in enumerate(({"fraction": 0.1}, {"block": 64}, {"bits": 3}, {"values": "fp16"})):
        yield "codec_options", str(number), bytes([number]) + json.dumps(options).encode()
    yield "packed", "zeros", (500).to_bytes(2, "little") + bytes(packing.pack(bytes(500)))
    tree = Tree(
        left=np.array([1, -1, -1], np.int32),
        right=np.array([2, -1, -1], np.int32),
        feature=np.array([0, 0, 0], np.int32),
        threshold=np.array([0.5, 0, 0]),
        missing_left=np.zeros(3, np.uint8),
        value=np.array([[0.0, 1], [1, 0], [0.5, 0.5]]),
        features=2,
        classes=(3, 5),
    )
    yield "decision_trees", "one", pack([tree])


def _stores() -> Iterator[tuple[str, str, bytes]]:
    yield "object_head", "head", msgpack.packb(("ws/v.safetensors", "g1", 12, 1.5))
    published = next(sample for sample in message_samples.SAMPLES if isinstance(sample, ModelPublished))
    yield "record", "record", record_of(published)
    state = {
        "strategy": "fedadam",
        "spec": LAYOUT.spec.digest,
        "chunk_bytes": LAYOUT.chunk_bytes,
        "vectors": ["m", "v"],
        "scalars": {"t": 1.0},
    }
    yield "state", "head", msgpack.packb(state)
    yield "state", "piece", struct.pack("<16d", *range(16))
    spool = [("incarnation", "boot", None), (1, 10, b"\0" * 8, b"\0" * 8, 5, b"entry"), (1,)]
    yield "spool_index", "index", b"\xff".join(msgpack.packb(one) for one in spool)
    yield "backup_frames", "two", b"\xff".join(msgpack.packb((n, "manifest", b"data")) for n in (1, 2))
    contents = Contents(
        workspace="ws",
        journals=(
            JournalFile(
                session="s",
                file="journals/s.1.journal",
                versions=(Version(version="s-1", blob="s-1", digest=message_samples.DIGEST),),
                versions_kept=1,
            ),
        ),
        catalogue="catalogue.1",
    )
    yield "backup_contents", "contents", contents.model_dump_json().encode()
    spec = msgpack.packb(["spec", LAYOUT.spec.digest, LAYOUT.spec.to_wire()])
    about = msgpack.packb(
        {
            "round": 1,
            "base": "v",
            "chunk_bytes": 256,
            "chunks": b"\0" * 8 * LAYOUT.count,
            "parts": [[0, 1, "d"]],
            "weight": 1.0,
            "metrics": {},
            "fetched": 0,
        }
    )
    saved = msgpack.packb(["saved", 1, "client", "s", 0, 64, 1e10, LAYOUT.spec.digest, about])
    kept = msgpack.packb(["kept", "client", "s", 0, 64, 1e10, LAYOUT.spec.digest, 0, 7])
    yield "client_index", "saved", b"\xff".join((spec, saved))
    yield "client_index", "kept", b"\xff".join((spec, kept, msgpack.packb(["left", 1])))


def _access() -> Iterator[tuple[str, str, bytes]]:
    signer, account, key = (Key.new(kind) for kind in ("account", "account", "user"))
    jwt = user_jwt(
        signer, account.public, workspace="ws", role="client", name="a", key=key.public, issued_at=1, expires_at=2
    )
    trust = Trust("ws", account.public, {"client": signer.public}, urls=("nats://127.0.0.1:4222",))
    middle = jwt.split(".")[1]
    yield "jwt", "client", jwt.encode()
    yield "jwt_claims", "client", base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))
    token = JoinToken("ws", "t1", "s" * 32, jwt, ("nats://127.0.0.1:4222",), "client", "a").text()
    packed = token.removeprefix(JOIN)
    yield "join_token", "text", token.encode()
    yield "join_token", "packed", decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    hands = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
    yield "broker_websocket", "answer", hands
    yield "broker_websocket", "frame", b"\x82\x7e\x01\x00abc"
    yield "proxy_answer", "tunnel", b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"
    yield (
        "proxy_answer",
        "who",
        b"HTTP/1.0 407 Who?\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
    )
    claims = {"iss": "https://issuer.example", "aud": "client", "sub": "a", "nonce": "nonce", "iat": 990, "exp": 2000}
    yield "id_token", "claims", json.dumps(claims).encode()
    yield "id_token", "keys", json.dumps({"keys": [PROVIDER.as_dict(private=False)]}).encode()
    yield "cookie", "proof", json.dumps(["id", "p", "", ["viewer"], 0, 9e9, 0, 0, True]).encode()
    entry = envelope.encode(envelope.Envelope("1", "ws", "gateway/g1", SAMPLES["AuditEntry"]))
    found = recorded(Subjects("ws"), "fb.ws.audit.gateway.g1", 1, entry)
    yield "audit_lines", "line", line_of(found).encode()
    yield "policy", "example", (Path(__file__).parents[2] / "examples" / "policy.toml").read_bytes()[:4000]
    yield "sealed_chunk", "sealed", sealed(SEAL, "blob", 0, b"a chunk")
    yield "credentials", "trust", trust.to_json().encode()
    yield "credentials", "file", format_credentials(Credentials(jwt, key.seed, trust, {"seal": "00" * 32})).encode()


def _gateway() -> Iterator[tuple[str, str, bytes]]:
    wire = b"INFO {}\r\nPING\r\nMSG a.b 1 5\r\nhello\r\nHMSG a 2 12 17\r\nNATS/1.0\r\n\r\nhello\r\n-ERR 'x'\r\n"
    yield "broker_frames", "words", wire
    told = {
        "subject": "fb.ws.lead",
        "seq": 3,
        "data": "aGVsbG8=",
        "hdrs": base64.b64encode(b"NATS/1.0\r\na: b").decode(),
    }
    yield "broker_message", "message", json.dumps(told).encode()
    for number, text in enumerate(
        (b'{"config":{"rounds":3}}', b'{"reason":"stop"}', b'{"note":"a"}', b"{}", b'{"a":[[]]}')
    ):
        yield "rest_body", str(number), bytes([number]) + text
    for number, text in enumerate(
        (b"limit=3&cursor=WyJhIl0", b"kind=RoundOpened&kind=RoundClosed", b"since=1.5&until=2")
    ):
        yield "rest_query", str(number), bytes([number]) + text
    lines = (
        b"example:8080",
        b"bytes=0-99",
        b'W/"abc", "def"',
        b"17.0",
        b"gzip;q=0.5, br",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01",
    )
    for number, text in enumerate(lines):
        yield "rest_headers", str(number), text
    for number, text in enumerate(("reason\nforged line", "\x1b[2J\x1b]0;title\x07", "ü\u202eabc\u2028\x85", "plain")):
        yield "log_line", str(number), text.encode()
        yield "terminal", str(number), text.encode()


def main() -> None:
    """Write them all."""
    for part in (_messages, _tensors, _codecs, _stores, _access, _gateway):
        for target, name, data in part():
            place = SEEDS / target
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)


if __name__ == "__main__":
    main()
