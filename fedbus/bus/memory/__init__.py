"""The bus inside one process, for tests and simulations: same seed, same loop, same run.

    broker = MemoryBroker(seed=7, faults=Faults(loss=0.1))
    async with MemoryBus(broker, "client-1") as bus: ...

`MemoryBroker` holds what a broker holds (streams, subscriptions) and is where misfortune is ordered: restarts, outages,
partitions, and by odds (`Faults`) loss, repetition, reordering, delay, lost appends and lost acknowledgements. It reads
no clock but the loop's own, starts no task or thread, and draws from one `random.Random`, so under a loop of virtual
time a world is a function of its seed.
"""

from fedbus.bus.memory.broker import MemoryBroker
from fedbus.bus.memory.bus import MemoryBus
from fedbus.bus.memory.link import Faults

__all__ = ["Faults", "MemoryBroker", "MemoryBus"]
