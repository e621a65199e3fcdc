"""A nats-server of our own beside us: found, checked, configured, started, watched, stopped.

    async with EmbeddedBroker("fedbus-data/broker") as broker:
        bus = await connect(broker.url, name="coordinator")

It ends with us, however we end, and leaves its store for the next start.
"""

from fedbus.bus.embedded.broker import EmbeddedBroker
from fedbus.bus.embedded.settings import BrokerSecurity, BrokerSettings, BrokerTls

__all__ = ["BrokerSecurity", "BrokerSettings", "BrokerTls", "EmbeddedBroker"]
