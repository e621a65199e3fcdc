"""A combiner of a secured workspace folds what its members have signed; all else is refused, the round unharmed."""

from __future__ import annotations

import numpy as np
import pytest
from rig import OURS, Rig, variant

from fedbus.access.signing import OPEN
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.tensors import model_digest
from fedbus.testing.loop import run_virtual
from fedbus.testing.members import Workspace

MODEL = {"w": np.zeros(60, np.float32), "b": np.ones(3)}
CLIENTS = ["a", "b", "c"]


async def played(rig, tree, updates, **how):
    """Play a round; returns the new model's digest."""
    await rig.store.put("m-0", MODEL, chunk_bytes=32)
    await rig.start(*tree)
    blob = await rig.round(1, "m-0", updates, tree, **how)
    return model_digest((await rig.store.read(blob)).arrays)


def updates():
    """What three clients have made, each with its weight."""
    return {name: (variant(MODEL, name, 1), 1.0 + index) for index, name in enumerate(CLIENTS)}


@pytest.mark.parametrize("tree", [{"k0": (CLIENTS, "")}, {"k0": (["a"], ""), "k1": (["b", "c"], "k0")}])
def test_signed_rounds_are_the_same_to_the_bit(tree):
    """Updates, and partials between combiners, are signed and taken; the model is that of an open workspace."""

    async def main(members):
        async with Rig(members=members) as rig:
            return await played(rig, tree, updates())

    assert run_virtual(main(Workspace("default"))) == run_virtual(main(None))


class Impostors(Workspace):
    """A workspace in which some have no identity, or one of another workspace."""

    def __init__(self, **how):
        super().__init__("default")
        self.how, self.other = how, Workspace("default")

    def signing(self, role, name):
        """Return what somebody signs with."""
        match self.how.get(name):
            case "none":
                return OPEN
            case "other":
                return self.other.signing(role, name)
            case str(whose):
                return super().signing(role, whose)
            case _:
                return super().signing(role, name)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("none", "not signed"), ("other", "no member here"), ("a", "signed by client a, not by client bad")],
)
@pytest.mark.parametrize("size", [4, 20_000])
def test_who_is_no_member_is_refused_and_the_others_go_on(how, reason, size):
    """Sent at once or in chunks: the coordinator hears of the refusal with its reason, the round counts the others."""

    async def main():
        model = {"w": np.zeros(size, np.float32)}
        async with Rig(members=Impostors(bad=how)) as rig:
            await rig.store.put("m-0", model, chunk_bytes=16_384)
            await rig.start("k0")
            await rig.order("k0", "fold", round=1, blob="m-0", uploads={"a": 1, "bad": 1})
            (refused,) = await rig.send(
                "bad", variant(model, "bad", 1), 1.0, ["k0"], round_=1, attempt=1, chunk_bytes=16_384
            )
            assert not refused.accepted and reason in refused.reason
            (taken,) = await rig.send("a", variant(model, "a", 1), 1.0, ["k0"], round_=1, attempt=1, chunk_bytes=16_384)
            assert taken.accepted
            async with rig.news:
                await rig.news.wait_for(lambda: set(rig.verdicts) == {"a", "bad"})
            assert rig.verdicts["a"].accepted and not rig.verdicts["bad"].accepted
            assert reason in rig.verdicts["bad"].reason

    run_virtual(main())


def test_what_was_heard_of_another_is_of_no_use():
    """Replayed under another name, in another round, with another weight, an announcement does no harm to anybody."""

    async def main():
        members = Workspace("default")
        async with Rig(members=members) as rig:
            await rig.store.put("m-0", MODEL, chunk_bytes=32)
            await rig.start("k0")
            heard = await rig.bus.subscribe(OURS.up("k0"))
            own = {"a": 1, "eve": 1}
            await rig.order("k0", "fold", round=1, blob="m-0", uploads=own)
            (sent,) = await rig.send("a", variant(MODEL, "a", 1), 2.0, ["k0"], round_=1, attempt=1, chunk_bytes=32)
            assert sent.accepted
            begin = decode((await anext(heard)).data, "up").body
            assert begin.signature and begin.identity
            told = await rig.bus.subscribe(OURS.down(Peer("client", "*")))

            async def say(name, **changes):
                body = begin.model_copy(update=changes)
                data = encode(Envelope("x", "default", name, body))
                await rig.bus.publish(OURS.up("k0", Peer("client", name)), data)

            await say("a", weight=9.0)  # whoever can speak as a: the accepted update stands, and nobody is answered
            await say("eve")
            answer = decode((await anext(told)).data, "down")
            assert answer.body.verdict == "refused" and "signed by client a" in answer.body.reason
            await rig.order("k0", "fold", round=2, blob="m-0", uploads=own)
            await say("a", round=2)
            answer = decode((await anext(told)).data, "down")
            while answer.body.verdict == "pending":
                answer = decode((await anext(told)).data, "down")
            assert (answer.body.round, answer.body.verdict) == (2, "refused")
            assert "its signature is not one, by the key of its sender" in answer.body.reason
            async with rig.news:
                await rig.news.wait_for(lambda: not rig.verdicts["a"].accepted)

    run_virtual(main())


def test_an_order_that_a_broker_makes_up_is_not_followed(caplog):
    """One that leaves out a client, not signed or of another workspace, changes nothing: the round counts all."""

    async def main():
        async with Rig(members=Workspace("default")) as rig:
            members = rig.members

            async def told(uploads):
                rig.members = members
                await rig.order("k0", "fold", round=1, blob="m-0", uploads=uploads)

            await rig.store.put("m-0", MODEL, chunk_bytes=32)
            await rig.start("k0")
            await told({"a": 1, "b": 1})
            for forger in (None, Workspace("default")):
                rig.members = forger
                await rig.order("k0", "fold", round=1, blob="m-0", uploads={"a": 1})
            rig.members = members
            for name in ("a", "b"):
                (sent,) = await rig.send(
                    name, variant(MODEL, name, 1), 1.0, ["k0"], round_=1, attempt=1, chunk_bytes=32
                )
                assert sent.accepted, sent.reason

    run_virtual(main())
    assert "this is not signed" in caplog.text and "its signature is not one by the key of workspace" in caplog.text
