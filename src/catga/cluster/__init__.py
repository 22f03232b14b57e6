"""A mediator in a cluster: verbs, failover, routing table, lifecycle."""

from catga.cluster.add import add_cluster, add_nats_cluster, add_redis_cluster
from catga.cluster.explain import Explanation, LeftOut
from catga.cluster.mediator import DistributedMediator, current_cluster
from catga.cluster.outliers import OutlierEjection
from catga.cluster.scatter import Broadcast, Gathered

__all__ = [
    "Broadcast",
    "DistributedMediator",
    "Explanation",
    "Gathered",
    "LeftOut",
    "OutlierEjection",
    "add_cluster",
    "add_nats_cluster",
    "add_redis_cluster",
    "current_cluster",
]
