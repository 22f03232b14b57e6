"""What is the same on every broker: who this process is, from its environment, and the times of the cluster."""

import os

from catga import ConsistentHash
from catga.cluster.add import CommonOptions


def options(service: str) -> CommonOptions:
    """For `add_redis_cluster` and `add_nats_cluster`. Raises KeyError without CATGA_NODE_ID."""
    return {
        "node_id": os.environ["CATGA_NODE_ID"],
        "service": service,
        "routing": ConsistentHash(),
        "ttl": 30.0,
        "heartbeat_interval": 10.0,
        "drain_timeout": 20.0,  # less than stop_grace_period in compose.yaml, or SIGKILL comes first
    }
