"""A mediator in a cluster: verbs, failover, routing table, lifecycle."""

from catga.cluster.add import add_cluster, add_nats_cluster, add_redis_cluster
from catga.cluster.mediator import Broadcast, DistributedMediator

__all__ = ["Broadcast", "DistributedMediator", "add_cluster", "add_nats_cluster", "add_redis_cluster"]
