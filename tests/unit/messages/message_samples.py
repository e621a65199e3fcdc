"""One body of every kind, with every field set: what all tests of messages are put through."""

from __future__ import annotations

import importlib
import math
import pkgutil

import fedbus.messages
from fedbus.config.session import SessionConfig
from fedbus.messages import (
    access,
    commands,
    envelope,
    ids,
    orders,
    plans,
    presence,
    queries,
    records,
    registry,
    reports,
    spans,
    tasks,
    uploads,
)

for module in pkgutil.iter_modules(fedbus.messages.__path__):
    importlib.import_module(f"fedbus.messages.{module.name}")

SPENT = ids.Spent(0.5, 1.5, 20.0, 2.5)
DIGEST = "0123456789abcdef" * 4
USER_KEY = "U" + "A2" * 27 + "A"
CONFIG = SessionConfig(train_config={"lr": 0.1, "layers": [1, 2], "note": "ü", "none": None}, seed=2**62)
METRICS = {"loss": math.inf, "accuracy": 0.5}
ENCODING = plans.Encoding(form="difference", codec="int8", options={"block": 64}, packed=True)
PLAN = plans.Plan(
    whole=True,
    single=True,
    uniform=True,
    metrics=("local_steps",),
    divided_by="local_steps",
    updates_min=7,
    updates_why="n >= 2f + 3",
    buffer=10,
    stale=(1.0, 0.5),
    encoding=ENCODING,
    downlink=ENCODING,
)
SUMS = {"confusion": (1.0, 0.0, 2.0, 3.0)}

SPAN_EVENT = spans.SpanEvent(name="RoundOpened", at=1.5, attributes={"fedbus.wait": "waiting for 3"})
SPAN = spans.SpanEnded(
    span_id=DIGEST[:16],
    parent_id=DIGEST[1:17],
    name="train",
    span_kind="producer",
    start_at=1.5,
    end_at=2.5,
    error="no data",
    attributes={"fedbus.round": 3, "weight": 0.5, "is": True, "who": "ü", "all": ["a", "b"]},
    events=(SPAN_EVENT,),
    links=(f"{DIGEST[:32]}-{DIGEST[:16]}",),
)

TRAIN = tasks.Train(
    round=3,
    attempt=2,
    version="s-2",
    blob="s-2-1",
    combiner="k-1",
    config={"a": [1]},
    seed=7,
    deadline_at=1.5,
    weight_max=2.0,
    shards=("k-1", "k-0"),
    stale_max=2,
    stale_weight=0.5,
    encoding=ENCODING,
    key=b"k" * 32,
    digest=DIGEST,
    signature=b"s" * 64,
)
EVALUATE = tasks.Evaluate(
    round=3,
    version="s-2",
    blob="b",
    config={"a": {}},
    seed=2**52,
    deadline_at=2.5,
    queries=({"column": "age"},),
    aside=True,
    key=b"k" * 32,
    digest=DIGEST,
    signature=b"s" * 64,
)
RECEIPT = tasks.Receipt(round=2, counted=False, reason="late", late=True, settled=1)
CARD = tasks.SessionCard(
    purpose="research/readmission",
    description="Who comes back within 30 days.",
    by="eve",
    strategy="norm_clipping+fedadam",
    codec="int8",
    rounds=10,
    version="s-2",
    nbytes=2**40,
    clients_min=5,
    updates_min=4,
    answers_min=3,
    reveal="sums",
    residency="require",
    metrics=("loss",),
    evaluates=True,
    queries=2,
)
MERGE = orders.Merge(
    root="k-0",
    parent="k-2",
    attempt=4,
    counted={"c-1": 2},
    partials={"k-1": 4},
    weight_sum=3.5,
    publish="s-3-4",
    given_sum=7.0,
    updates=2,
    population=9,
    means={"local_steps": 2.5},
)
ACCEPTED = records.AcceptedUpdate(
    client="c-1",
    attempt=2,
    weight=1.5,
    nbytes=10,
    fetched=9,
    norm=0.25,
    digest=DIGEST,
    metrics=METRICS,
    stale=1,
    spent=SPENT,
)
REFUSED = records.RefusedUpdate(
    client="c-2", by="c-2", stage="policy", reason="not at night", policy=DIGEST, until_at=7.5
)
MISSING = records.Missing(
    training=("c-3",), sending=("c-4",), there=("c-5",), left={"c-6": 7}, silent={"c-7": 12}, unheard=("c-8",)
)
MEASURED = records.Measured(client="c-1", weight=2.0, metrics=METRICS, fetched=5)
VERDICT = reports.Verdict(
    client="c-1",
    attempt=1,
    accepted=True,
    reason="r",
    weight=2.0,
    nbytes=3,
    fetched=4,
    norm=0.5,
    digest=DIGEST,
    metrics=METRICS,
    update=DIGEST,
    stale=1,
    spent=SPENT,
)
SIGN_IN = access.SignIn(at=1.0, until=2.0, origin="192.0.2.1", by="token t-1", agent="a browser")
ARCHIVING = presence.Archiving(
    store="s3://b/p",
    archived=1,
    waiting=2,
    waiting_bytes=3,
    since_at=4.0,
    error="away",
    error_at=5.0,
    refused={"s-1": "another digest"},
)
SEEN = queries.Seen(
    role="client",
    name="c-1",
    incarnation="i",
    attributes={"site": "Köln"},
    version="1",
    doing="x",
    since_at=1.0,
    seen_at=2.0,
    members=7,
    first=14,
    crowd="sim",
    archive=ARCHIVING,
)
WAIT = queries.Wait(
    session="s",
    round=1,
    what="w",
    on=("c-1", "c-2"),
    missing=2,
    since_at=1.0,
    until_at=2.0,
    then="it fails",
    doing={"c-2": "training"},
    away={"c-1": 0.5},
    away_count=1,
)
MODEL = records.ModelPublished(
    round=1, version="s-1", parent="s-0", session="s", blob="s-1-2", digest=DIGEST, nbytes=12, at=3.0,
    removed_at=4.0, removed_why="eve: too old", signature="5a" * 64,
)  # fmt: skip
PROMOTED = registry.Promoted(version="s-1", blob="s-1-2", at=3.0, by="eve", reason="best so far")
STAGE = registry.Stage(held=(PROMOTED,))
RETIRED = registry.Retired(version="s-0", blob="s-0-x", at=1.0, until_at=601.0, by="eve", reason="old", purging=True)
IMPORTING = registry.Importing(version="bert", blob="import-1", at=1.0, by="eve")

SAMPLES: list[envelope.Body] = [
    commands.StartSession(
        session="s", config=CONFIG, blob="s-0-x", digest=DIGEST, nbytes=2**52, base="s-9", by="ana@x"
    ),
    commands.StopSession(session="s", reason="enough", by="ana@x"),
    orders.Order(
        session="s",
        revision=9,
        incarnation="k-0-1",
        state="merge",
        round=3,
        version="s-2",
        blob="b",
        weight_max=8.0,
        value_floor=64.0,
        headroom=64.0,
        strategy="fedavg",
        options={"x": 1},
        uploads={"c-1": 2},
        merge=MERGE,
        stale_max=2,
        plan=PLAN,
        part=1,
        parts=2,
    ),
    MERGE,
    ENCODING,
    PLAN,
    PROMOTED,
    STAGE,
    RETIRED,
    IMPORTING,
    registry.RegistryState(
        stages={"production": STAGE}, retired=(RETIRED,), imports=(IMPORTING,), keep_last=3, at=4.0, by="eve", what="x"
    ),
    registry.VersionNote(version="s-1", note="# good", at=2.0, by="eve"),
    presence.Hello(
        incarnation="i",
        heartbeat_s=2.0,
        attributes={"gpu": "yes"},
        version="0.1",
        doing="idle",
        members=7,
        first=14,
        archive=ARCHIVING,
        policy=DIGEST,
    ),
    ARCHIVING,
    presence.Bye(incarnation="i"),
    presence.WhoIsThere(spread_s=0.5),
    presence.NameIsTaken(incarnation="i", since_at=1.5),
    presence.Lease(holder="coordinator", incarnation="i", term=3, ttl_s=2.5, at=1.5),
    queries.Ask(),
    SEEN,
    queries.Roster(peers=(SEEN,), at=1_767_225_600.5),
    WAIT,
    queries.Waits(waits=(WAIT,), at=1_767_225_600.5),
    queries.Refused(reason="no", status="busy"),
    records.SessionStarted(
        config=CONFIG, version="s-0", blob="b", digest=DIGEST, nbytes=1, by="eve", plan=PLAN, base="t-9"
    ),
    records.RoundOpened(
        round=1,
        attempt=1,
        version="s-0",
        blob="b",
        clients={"c-1": "k-0"},
        incarnations={"k-0": "i"},
        target=1,
        deadline_at=5.0,
        traceparent="00-ab",
        shards=("k-0",),
    ),
    ACCEPTED,
    REFUSED,
    records.UpdatesRecorded(round=1, accepted=(ACCEPTED,), refused=(REFUSED,), withdrawn=(REFUSED,)),
    records.ClientsMoved(
        round=1, attempt=2, moves={"c-1": "k-1"}, incarnations={"k-1": "i"}, reason="lost", shards=("k-1",)
    ),
    records.RoundClosing(
        round=1,
        attempt=3,
        counted=("c-1",),
        root="k-1",
        publish="s-1-3",
        reason="enough",
        deadline_at=9.0,
        parents={"k-2": "k-0"},
        missing=MISSING,
    ),
    records.RoundFailed(round=1, attempt=3, reason="quorum", missing=MISSING),
    MISSING,
    MODEL,
    records.RoundClosed(
        round=1, counted=1, metrics=METRICS, bytes_up=3, bytes_down=4, opened_at=1.0, not_counted={"c-2": "NaN"}
    ),
    records.EvaluationOpened(round=1, version="s-1", blob="b", clients=("c-1",), deadline_at=9.0),
    MEASURED,
    records.RoundEvaluated(
        round=1,
        version="s-1",
        metrics=METRICS,
        clients=(MEASURED,),
        missing={"c-2": "left"},
        sums=SUMS,
        answered=1,
        reason="1 answers where 2 are the least",
        declined=(REFUSED,),
    ),
    records.SessionEnded(outcome="completed", reason="done", version="s-1", digest=DIGEST),
    records.Typed(type="RoundFailed", data={"round": 1}),
    records.Entry.of(1.5, "epoch-1", (MODEL, REFUSED), term=2),
    VERDICT,
    reports.UpdatesJudged(session="s", round=1, incarnation="i", verdicts=(VERDICT,)),
    reports.ModelStored(session="s", round=1, revision=3, blob="b", digest=DIGEST, nbytes=4, bytes_up=5),
    reports.MergeFailed(session="s", round=1, revision=3, reason="disk"),
    reports.Evaluated(session="s", round=1, version="s-1", weight=2.0, metrics=METRICS, fetched=5, sums=SUMS),
    reports.TaskFailed(
        session="s", round=1, attempt=2, stage="policy", reason="not at night", policy=DIGEST, until_at=7.5
    ),
    reports.Withdrawn(session="s", round=1, attempt=2, reason="its owner withdrew", policy=DIGEST),
    reports.ReportTaken(reports=("i-r1", "i-r2")),
    TRAIN,
    EVALUATE,
    RECEIPT,
    CARD,
    tasks.Task(session="s", revision=4, state="train", train=TRAIN, evaluate=EVALUATE, receipt=RECEIPT, card=CARD),
    uploads.UploadBegin(
        session="s",
        round=1,
        attempt=2,
        spec=DIGEST,
        digest=DIGEST,
        nbytes=8,
        chunks=1,
        weight=1.5,
        metrics=METRICS,
        fetched=3,
        inline=b"abcdefgh",
        update=DIGEST,
        stale=1,
        number=2,
        packed=True,
        spent=SPENT,
        signature=b"s" * 64,
        identity="aa.bb.cc",
    ),
    uploads.UploadState(
        session="s",
        round=1,
        attempt=2,
        next_chunk=3,
        credit=8,
        resend=True,
        answers=2,
        verdict="refused",
        reason="NaN",
    ),
    SPAN_EVENT,
    SPAN,
    spans.SpansEnded(trace_id=DIGEST[:32], spans=(SPAN,), dropped=3),
    access.TokenState(
        id="t-1",
        what="join",
        role="client",
        name="c-1",
        digest=DIGEST,
        at=1.0,
        by="eve",
        expires_at=2.0,
        uses_max=3,
        used_by=(USER_KEY,),
        approval="ask",
        owner="anna@clinic.example",
        jwt="e30.e30.c2ln",
        revoked_at=3.0,
        reason="lost",
    ),
    access.Member(
        role="client",
        name="c-1",
        key=USER_KEY,
        state="suspended",
        at=1.0,
        by="eve",
        reason="asked for it",
        attributes={"site": "Ulm"},
        owner="anna@clinic.example",
        token="t-1",
        jwt="e30.e30.c2ln",
        issued_at=1.0,
        expires_at=2.0,
        revoked={USER_KEY: 0.5},
    ),
    SIGN_IN,
    access.Person(
        name="anna",
        roles=("engineer", "auditor"),
        state="suspended",
        subjects=("https://i#1",),
        at=1.0,
        by="eve",
        since=0.5,
        signed_in={"beef": SIGN_IN},
        ended={"f00d": 9.0},
    ),
    access.WorkspaceBounds(clients_max=3, sessions_max=2, bytes_max=10, approval="ask", at=1.0, by="eve"),
    access.JoinAsked(
        token="t-1", secret="s", role="client", name="c-1", key=USER_KEY, proof=b"p" * 64, attributes={"site": "Ulm"}
    ),
    access.JoinAnswered(state="refused", jwt="e30.e30.c2ln", sealed=b"s", trust="{}", reason="expired"),
    access.RenewAsked(new_key=USER_KEY, proof=b"p" * 64, taken=True),
    access.BoardAsked(after=3),
    access.BoardFound(tasks=(("fb.w.task.c-1.s", b"x", 7),), more=True),
    access.AuditEntry(
        number=3,
        at=1.5,
        by="gateway/g-1",
        origin="192.0.2.1",
        action="token.create",
        target="t-1",
        result="refused",
        reason="no",
        details={"role": "client"},
        before=DIGEST,
    ),
]
