"""What clients gave, over journals written by hand: sums, single contributions, what combiners have to do, bounds."""

from __future__ import annotations

from fedbus.config.session import SessionConfig
from fedbus.federation.contributions import HISTORY_OF_CLIENT, Contributions, Load, newest_first
from fedbus.federation.versions import VersionFacts, Versions
from fedbus.messages import records

DIGEST = "0" * 64


def started(version="s-0", **settings):
    """A session begins."""
    config = SessionConfig(**({"rounds": 9} | settings))
    return records.SessionStarted(config=config, version=version, blob="b", digest=DIGEST, nbytes=8)


def opened(clients, round_=1):
    """A round of some clients, the first at combiner k, the others at l."""
    places = {client: "k" if client == clients[0] else "l" for client in clients}
    return records.RoundOpened(
        round=round_, attempt=1, version="s-0", blob="b", clients=places, incarnations={}, target=9, deadline_at=160.0
    )


def took(*accepted, refused=(), round_=1):
    """What became of some updates."""
    yes = tuple(
        records.AcceptedUpdate(
            client=client, attempt=1, weight=2.0, nbytes=70, fetched=80, norm=1.0, digest=DIGEST, metrics={"loss": 0.5}
        )
        for client in accepted
    )
    no = tuple(records.RefusedUpdate(client=c, by="k", stage="update", reason="not finite") for c in refused)
    return records.UpdatesRecorded(round=round_, accepted=yes, refused=no)


def closing(*counted, round_=1):
    """Whose updates count."""
    return records.RoundClosing(
        round=round_, attempt=2, counted=counted, root="k", publish="p", reason="r", deadline_at=900.0
    )


def closed(counted, round_=1):
    """A round is over."""
    return records.RoundClosed(round=round_, counted=counted, opened_at=100.0, metrics={"loss": 0.5})


def told(contributions, session, *happened):
    """The same, told of records with their times."""
    for at, record in happened:
        contributions.take(session, record, at)
    return contributions


def test_a_round_is_settled_when_it_ends_and_once():
    """Who counted, who was refused, who missed it; nothing before the end, nothing twice."""
    found = told(
        Contributions(), "s", (90.0, started()), (100.0, opened("abc")), (104.0, took("a", refused="b")),
        (160.0, closing("a")),
    )  # fmt: skip
    assert found.tallies == {}
    told(found, "s", (161.0, closed(1)), (170.0, records.SessionEnded(outcome="completed", reason="r")))
    a, b, c = (found.tallies[name] for name in "abc")
    assert (a.sessions, a.asked, a.counted, a.refused, a.weight, a.bytes_up, a.bytes_down) == (1, 1, 1, 0, 2.0, 70, 80)
    assert (b.asked, b.counted, b.refused, b.weight) == (1, 0, 1, 0.0)
    assert (c.asked, c.counted, c.refused, c.last_at) == (1, 0, 0, 0.0)
    assert a.last_at == 104.0
    (one,) = newest_first(a)
    assert (one.session, one.round, one.outcome, one.at, one.nbytes) == ("s", 1, "counted", 161.0, 70)
    assert one.metrics == {"loss": 0.5}
    assert [x.outcome for x in newest_first(b)] == ["refused"]
    assert [x.outcome for x in newest_first(c)] == ["missed"]


def test_an_attempt_that_failed_is_an_attempt():
    """Each attempt at a round asks; a session that ends in the middle of a round settles it, too."""
    found = told(
        Contributions(), "s", (90.0, started()), (100.0, opened("ab")), (104.0, took("a")),
        (160.0, records.RoundFailed(round=1, attempt=2, reason="no quorum")),
        (161.0, opened("ab")), (165.0, took("a")),
        (170.0, records.SessionEnded(outcome="stopped", reason="enough")),
    )  # fmt: skip
    assert (found.tallies["a"].asked, found.tallies["a"].counted, found.tallies["a"].sessions) == (2, 0, 1)
    assert [one.outcome for one in newest_first(found.tallies["a"])] == ["accepted", "accepted"]


def test_sessions_are_counted_once_each():
    """Two rounds of one session and one of another are two sessions."""
    found = Contributions()
    for session, rounds in (("s", (1, 2)), ("t", (1,))):
        told(found, session, (90.0, started()))
        for round_ in rounds:
            told(
                found,
                session,
                (100.0, opened("a", round_)),
                (110.0, closing(round_=round_)),
                (111.0, closed(0, round_)),
            )
    assert (found.tallies["a"].sessions, found.tallies["a"].asked) == (2, 3)


def test_combiners_have_what_is_open_and_nothing_else():
    """Clients that are to send, updates and bytes that came; nothing of a round that is over."""
    found = told(Contributions(), "s", (90.0, started()), (100.0, opened("abc")), (104.0, took("a", "b")))
    assert found.loads() == {"k": Load(1, 1, 70), "l": Load(2, 1, 70)}
    assert found.report("s").asked == 3
    told(found, "s", (160.0, closing("a", "b")), (161.0, closed(2)))
    assert found.loads() == {}
    told(found, "s", (170.0, records.SessionEnded(outcome="completed", reason="r")))
    assert found.report("s") is None


def rounds_of(found, client, session, numbers):
    """Some rounds of one client."""
    told(found, session, (90.0, started()))
    for round_ in numbers:
        told(
            found, session, (100.0, opened([client], round_)), (110.0, closing(round_=round_)),
            (111.0 + round_, closed(0, round_)),
        )  # fmt: skip


def test_the_newest_contributions_of_a_client_are_kept():
    """At most `HISTORY_OF_CLIENT`, its sums are of all."""
    found = Contributions()
    rounds_of(found, "a", "s", range(1, HISTORY_OF_CLIENT + 11))
    tally = found.tallies["a"]
    assert tally.asked == HISTORY_OF_CLIENT + 10
    assert [one.round for one in newest_first(tally)] == [*range(HISTORY_OF_CLIENT + 10, 10, -1)]


def test_the_oldest_contributions_of_all_clients_go_first():
    """What is kept of all together is bounded; who has lost some to its own bound does not lose others for it."""
    found = Contributions(history_max=HISTORY_OF_CLIENT + 20)
    rounds_of(found, "a", "s", range(1, HISTORY_OF_CLIENT + 11))
    rounds_of(found, "b", "t", range(1, 16))
    kept = [[one.round for one in newest_first(found.tallies[name])] for name in "ab"]
    assert kept == [[*range(HISTORY_OF_CLIENT + 10, 10, -1)], [*range(15, 0, -1)]]
    rounds_of(found, "c", "u", range(1, 31))
    kept = {name: [one.round for one in newest_first(found.tallies[name])] for name in "abc"}
    assert sum(map(len, kept.values())) == HISTORY_OF_CLIENT + 20
    assert kept["a"][-1] == 36 and kept["b"][-1] == 1 and kept["c"][-1] == 1


def test_sums_are_kept_of_a_bounded_number_of_clients():
    """Who came first goes first."""
    found = Contributions(clients_max=2)
    told(found, "s", (90.0, started()), (100.0, opened("abc")), (110.0, closing()), (111.0, closed(0)))
    assert len(found.tallies) == 2 and "a" not in found.tallies


def test_versions_are_known_with_who_made_them_and_what_was_measured():
    """Of training until an evaluation says better; a bound on how many."""
    versions = Versions(versions_max=2)

    def published(number):
        return records.ModelPublished(
            round=number, version=f"s-{number}", parent="", session="s", blob="b", digest=DIGEST, nbytes=8
        )

    for record in (started(strategy="fedadam"), published(1), closed(3)):
        versions.take("s", record)
    assert versions.get("s-0") == VersionFacts("s", 0, "fedadam")
    assert versions.get("s-1") == VersionFacts("s", 1, "fedadam", 3, {"loss": 0.5})
    versions.take("s", records.RoundEvaluated(round=1, version="s-1", metrics={"accuracy": 0.9}))
    assert versions.get("s-1").metrics == {"accuracy": 0.9}
    versions.take("s", published(2))
    assert versions.get("s-0") is None and versions.get("s-2").participants == 0
