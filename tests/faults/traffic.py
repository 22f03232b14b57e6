"""What the processes of a simulated cluster send each other."""

import msgspec
from histories import Cluster
from simulated_calls import ENOUGH, Job, Order, QuickOrder, QuickWork, Work

ANY: tuple[type[Job], ...] = (Work, Work, QuickWork, Order, QuickOrder)


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Requests around a fault.

    Attributes:
        count: so many, each from a process picked at random.
        spread: seconds over which they are sent.
        kinds: of what class each is, one of these.
        burns: seconds that a handler computes, one of these.
        waits: seconds that it waits then, one of these.
        timeouts: seconds, one of these.
    """

    count: int
    spread: float
    kinds: tuple[type[Job], ...] = ANY
    burns: tuple[float, ...] = (0.0,)
    waits: tuple[float, ...] = (0.0,)
    timeouts: tuple[float, ...] = (0.3, 1.0, 3.0, 8.0, 15.0)

    def begin(self, cluster: Cluster) -> None:
        """Let them be sent from now on."""
        for _ in range(self.count):
            cluster.world.after(cluster.world.random.uniform(0.0, self.spread), self._send, cluster)

    def _send(self, cluster: Cluster) -> None:
        pick = cluster.world.random.choice
        cluster.calls.send(pick(self.kinds), pick(self.timeouts), burn=pick(self.burns), wait=pick(self.waits))


NONE = Traffic(count=0, spread=0.0)
THIN = Traffic(count=8, spread=8.0, waits=(0.0, 0.01, 0.1, 0.5))
"""Some requests, now and then."""
LONG = Traffic(count=4, spread=4.0, kinds=(Order,), waits=(2.0, 6.0), timeouts=(3.0, 15.0))
"""Handlers that wait for as long as a fault takes."""
BURST = Traffic(count=16, spread=0.05, burns=(0.0, 0.0, 0.02), waits=(0.0, 0.05, 0.2))
"""More than small nodes can take."""
BUSY = Traffic(count=40, spread=0.02, burns=(0.02, 0.05), timeouts=(2.0, ENOUGH, 15.0))
"""More than a moment's work, which is all computing."""
TRAFFIC = (NONE, NONE, THIN, THIN, LONG, BURST, BURST, BUSY)
