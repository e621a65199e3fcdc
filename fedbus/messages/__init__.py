"""The words that travel: one class each, msgpack on the bus, JSON at the gateway."""
