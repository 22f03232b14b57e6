"""Prometheus: durations and failures of every message, and the state of the node.

mediator.use(Prometheus())         # on each node
observe_cluster(cluster)           # metrics of the node itself
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from catga.abc import Forward, Handle
from catga.cluster import DistributedMediator
from catga.cluster.reading import Reading
from catga.integrations._telemetry import BUCKETS, HEALTHS, STATES, Observed, clean
from catga.mediator.pipeline import as_catga_error
from catga.messages import wire_name
from catga.result import CatgaResult, Failure

_lock = threading.Lock()


class Prometheus:
    """An interceptor: the histograms ``catga_sent_seconds`` and ``catga_handled_seconds``, by message and outcome
    (``ok``, ``cancelled``, or the error's code). Several with one registry share them.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._sent, self._handled = _histograms_of(registry)

    async def sending(self, message: object, headers: dict[str, str], forward: Forward) -> Any:
        """Observe the whole way."""
        return await _observed(self._sent, message, forward(message, headers))

    async def handling(self, message: object, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        """Observe behaviors and handlers."""
        result: CatgaResult[Any] = await _observed(self._handled, message, handle(message))
        return result


_histograms: "weakref.WeakKeyDictionary[CollectorRegistry, tuple[Histogram, Histogram]]" = weakref.WeakKeyDictionary()


def _histograms_of(registry: CollectorRegistry) -> tuple[Histogram, Histogram]:
    with _lock:
        found = _histograms.get(registry)
        if found is None:
            found = _histograms[registry] = (
                _histogram("catga_sent_seconds", "Messages, as their senders see them.", registry),
                _histogram("catga_handled_seconds", "Messages, as their handlers see them.", registry),
            )
        else:
            for histogram in found:
                with suppress(ValueError):  # it is there, unless somebody has taken it out
                    registry.register(histogram)
    return found


def _histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, ("message", "outcome"), registry=registry, buckets=BUCKETS)


_collectors: "weakref.WeakKeyDictionary[CollectorRegistry, _Nodes]" = weakref.WeakKeyDictionary()


def observe_cluster(cluster: DistributedMediator, registry: CollectorRegistry = REGISTRY) -> None:
    """Export metrics of one node, read at each scrape: whether it is ready, the members that it knows by state, its
    load, and its counters.

    Call it before the node starts or after, for each node of the process. The node is not kept alive; its metrics end
    some minutes after it has stopped.
    """
    with _lock:
        found = _collectors.get(registry)
        if found is None:
            found = _Nodes()
            registry.register(found)
            _collectors[registry] = found
        else:
            with suppress(ValueError):  # it is there, unless somebody has taken it out
                registry.register(found)
        found.observed.add(cluster)


class _Nodes:
    """The collector of all nodes of a registry. A page has each metric once, whatever their number."""

    def __init__(self) -> None:
        self.observed = Observed()

    def describe(self) -> Iterable[Metric]:
        """What `collect` returns, without values: the registry reserves the names, and finds them by name."""
        return _Page().metrics

    def collect(self) -> Iterable[Metric]:
        page = _Page()
        for reading in self.observed.read():
            page.add(reading)
        return page.metrics


class _Page:
    def __init__(self) -> None:
        self._ready = GaugeMetricFamily(
            "catga_node_ready", "1 while the node should get traffic, else 0.", labels=("node_id",)
        )
        self._health = GaugeMetricFamily(
            "catga_node_health", "1 for the state that the node is in, 0 for the others.", labels=("node_id", "health")
        )
        self._nodes = GaugeMetricFamily(
            "catga_cluster_nodes", "Members in this node's view.", labels=("node_id", "state")
        )
        self._load = GaugeMetricFamily("catga_node_load", "0 idle, 1 full.", labels=("node_id",))
        self._pending = GaugeMetricFamily(
            "catga_node_pending_calls", "Calls of this node that wait for an answer.", labels=("node_id",)
        )
        self._events = CounterMetricFamily(
            "catga_node_events", "How often what happened on this node, by name.", labels=("node_id", "event")
        )
        self.metrics: tuple[Metric, ...] = (
            self._ready,
            self._health,
            self._nodes,
            self._load,
            self._pending,
            self._events,
        )

    def add(self, reading: Reading) -> None:
        """Add the samples of a node."""
        me = reading.node_id
        self._ready.add_metric((me,), float(reading.is_ready))
        for health in HEALTHS:
            self._health.add_metric((me, health), float(reading.health == health))
        for name, count in reading.events.items():
            self._events.add_metric((me, name), count)
        if reading.phase == "ended":  # it knows nobody, and has no load
            return
        for state in STATES:
            self._nodes.add_metric((me, state.value), reading.nodes.get(state, 0))
        self._load.add_metric((me,), reading.load)
        self._pending.add_metric((me,), reading.pending_calls)


async def _observed(histogram: Histogram, message: object, call: Awaitable[Any]) -> Any:
    started = time.perf_counter()
    outcome = "ok"
    try:
        result = await call
        if isinstance(result, Failure):
            outcome = result.error.code
    except BaseException as error:  # of an interceptor inside, or a cancellation
        outcome = _outcome(error)
        raise
    finally:
        labels = clean(wire_name(type(message))), clean(outcome)
        histogram.labels(*labels).observe(time.perf_counter() - started)
    return result


def _outcome(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    # What is no `Exception` ends the program.
    return as_catga_error(error).code if isinstance(error, Exception) else type(error).__qualname__
