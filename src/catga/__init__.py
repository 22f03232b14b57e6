"""catga: a typed mediator that goes from one process to a cluster by changing one URL."""

from catga._version import __version__
from catga.cluster import (
    DistributedMediator,
    add_cluster,
    add_nats_cluster,
    add_redis_cluster,
    current_cluster,
)
from catga.errors import CatgaError
from catga.mediator import Mediator, context, current, current_message
from catga.messages import Event, Request, message
from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo
from catga.result import CatgaResult, Failure, Success
from catga.routing import ConsistentHash, LoadBased, LocalFirst, Random, RoundRobin

__all__ = [
    "CatgaError",
    "CatgaResult",
    "ConsistentHash",
    "DistributedMediator",
    "Event",
    "Failure",
    "LoadBased",
    "LocalFirst",
    "Mediator",
    "NodeChangeEvent",
    "NodeChangeType",
    "NodeInfo",
    "Random",
    "Request",
    "RoundRobin",
    "Success",
    "__version__",
    "add_cluster",
    "add_nats_cluster",
    "add_redis_cluster",
    "context",
    "current",
    "current_cluster",
    "current_message",
    "message",
]
