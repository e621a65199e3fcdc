"""The bus over NATS: the one door to nats-py.

    async with await connect("nats://127.0.0.1:4222", name="coordinator") as bus: ...

``identity`` says who we are, ``connection`` holds the nats-py client and turns its errors into ours; ``requests`` waits
for answers; ``jetstream`` speaks the JSON API of streams; ``follow`` reads a stream whatever happens to the broker;
``bus`` puts them together.
"""

from fedbus.bus.nats.bus import NatsBus, connect
from fedbus.bus.nats.identity import Identity

__all__ = ["Identity", "NatsBus", "connect"]
