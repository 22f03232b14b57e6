"""`Queue`: whichever node the broker picks."""

import random
from collections.abc import Sequence

from catga.errors import refused
from catga.node import NodeInfo


class Queue:
    """One of the nodes that take this request from its queue: the broker's choice, not this node's.

    NATS and Redis draw one at random, memory takes each in turn. The members need not be known, so it works for a
    node whose view is empty, and sees nothing that the view knows: neither load nor latency nor a node that hangs.
    Nodes take from queues if they are made with ``add_cluster(..., queues=True)``.

    Events are for each service, which the view knows: of its nodes it picks any.
    """

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """Any of them, where the view chooses."""
        return random.choice(nodes)

    def check(self, message_type: type) -> None:
        """Raise InvalidMessageError: it is asked as a part of another strategy, whose choice no broker knows."""
        raise refused(
            f"Queue() cannot be a part of another strategy (for {message_type.__qualname__}): the broker picks"
        )

    def __repr__(self) -> str:
        return "Queue()"
