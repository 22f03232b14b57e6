"""Prometheus: durations and failures of every message, and the state of the node.

mediator.use(Prometheus())         # on each node
observe_cluster(cluster)           # metrics of the node itself
"""

import time
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from catga.abc import Forward, Handle
from catga.cluster import DistributedMediator
from catga.mediator.pipeline import as_catga_error
from catga.messages import wire_name
from catga.result import CatgaResult, Failure

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Prometheus:
    """An interceptor: the histograms ``catga_sent_seconds`` and ``catga_handled_seconds``, by message and outcome
    (``ok``, ``cancelled``, or the error's code). One for each registry.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        labels = ("message", "outcome")
        self._sent = Histogram(
            "catga_sent_seconds", "Messages, as their senders see them.", labels, registry=registry, buckets=BUCKETS
        )
        self._handled = Histogram(
            "catga_handled_seconds", "Messages, as their handlers see them.", labels, registry=registry, buckets=BUCKETS
        )

    async def sending(self, message: object, headers: dict[str, str], forward: Forward) -> Any:
        """Observe the whole way."""
        return await _observed(self._sent, message, forward(message, headers))

    async def handling(self, message: object, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        """Observe behaviors and handlers."""
        result: CatgaResult[Any] = await _observed(self._handled, message, handle(message))
        return result


def observe_cluster(cluster: DistributedMediator, registry: CollectorRegistry = REGISTRY) -> None:
    """Members by state, load, and counters of one node, read at each scrape."""
    registry.register(_Node(cluster))


class _Node:
    """A collector."""

    def __init__(self, cluster: DistributedMediator) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Metric]:
        nodes = GaugeMetricFamily("catga_cluster_nodes", "Members in this node's view.", labels=("node_id", "state"))
        load = GaugeMetricFamily("catga_node_load", "0 idle, 1 full.", labels=("node_id",))
        events = GaugeMetricFamily("catga_node_events", "Counters of this node.", labels=("node_id", "event"))
        ready = GaugeMetricFamily("catga_node_ready", "1 while the node is ready.", labels=("node_id",))
        me = self._cluster.node_id
        is_ready = self._cluster.not_ready is None
        ready.add_metric((me,), float(is_ready))
        if is_ready:
            states = [node.state.value for node in self._cluster.get_nodes()]
            for state in sorted(set(states)):
                nodes.add_metric((me, state), states.count(state))
            load.add_metric((me,), self._cluster.current_node.load)
            for name, count in self._cluster.counters.items():
                events.add_metric((me, name), count)
        return nodes, load, events, ready


async def _observed(histogram: Histogram, message: object, call: Awaitable[Any]) -> Any:
    started = time.perf_counter()
    outcome = "cancelled"
    try:
        result = await call
        outcome = result.error.code if isinstance(result, Failure) else "ok"
    except Exception as error:  # of an interceptor inside
        outcome = as_catga_error(error).code
        raise
    finally:
        histogram.labels(wire_name(type(message)), outcome).observe(time.perf_counter() - started)
    return result
