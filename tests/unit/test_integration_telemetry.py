"""Telemetry, proven with the in-memory exporters: one trace from the gateway to the nested send."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest

from catga import DistributedMediator, Event, Mediator, Request, add_cluster, context
from catga.integrations import otel, prometheus
from catga.mediator import MessageContext
from catga.mediator.behaviors import Logging
from catga.mediator.behaviors.logs import FAILED
from catga.testing import eventually


@dataclass(frozen=True)
class Place(Request[int]):
    sku: str


@dataclass(frozen=True)
class Reserve(Request[int]):
    sku: str


@dataclass(frozen=True)
class Hang(Request[int]):
    pass


@dataclass(frozen=True)
class Placed(Event):
    sku: str


class Telemetry:
    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meters = MeterProvider([self.reader])
        self.interceptor = otel.OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    def named(self, name: str, kind: SpanKind) -> ReadableSpan:
        (span,) = [s for s in self.spans.get_finished_spans() if s.name.endswith(name) and s.kind is kind]
        return span

    def points(self, metric: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return [p for m in metrics if m.name == metric for p in m.data.data_points]


@pytest.fixture(params=["memory", "nats"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Three nodes: a gateway, one that takes orders, one that has the stock."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    url = request.getfixturevalue("nats_url") if request.param == "nats" else f"memory://{prefix}"
    async with AsyncExitStack() as stack:

        async def start(**apps: Mediator) -> dict[str, DistributedMediator]:
            nodes = {name: add_cluster(app, url, node_id=name, prefix=prefix) for name, app in apps.items()}
            orders.extend(nodes.values())
            for node in nodes.values():
                await stack.enter_async_context(node)
            return nodes

        orders: list[DistributedMediator] = []
        yield start


def apps(use: Any) -> tuple[dict[str, Mediator], dict[str, DistributedMediator]]:
    gateway, orders, stock = Mediator(), Mediator(), Mediator()
    nodes: dict[str, DistributedMediator] = {}

    @orders.handler
    async def place(request: Place) -> int:
        left = (await nodes["orders"].send(Reserve(request.sku))).unwrap()
        await nodes["orders"].publish(Placed(request.sku))
        return left

    @stock.handler
    async def reserve(request: Reserve) -> int:
        if request.sku == "none":
            raise KeyError(request.sku)
        return 9

    @stock.handler
    async def placed(event: Placed) -> None:
        pass

    for app in (gateway, orders, stock):
        app.use(MessageContext())
        app.use(use)
    return {"gateway": gateway, "orders": orders, "stock": stock}, nodes


async def test_one_trace_spans_gateway_node_and_nested_send(cluster: Any) -> None:
    telemetry = Telemetry()
    mediators, nodes = apps(telemetry.interceptor)
    nodes |= await cluster(**mediators)
    assert (await nodes["gateway"].send(Place("tea"))).unwrap() == 9

    chain = [
        telemetry.named("Place", SpanKind.CLIENT),
        telemetry.named("Place", SpanKind.SERVER),
        telemetry.named("Reserve", SpanKind.CLIENT),
        telemetry.named("Reserve", SpanKind.SERVER),
    ]
    assert len({span.context.trace_id for span in telemetry.spans.get_finished_spans()}) == 1
    assert chain[0].parent is None
    for parent, child in pairwise(chain):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
    assert dict(chain[0].attributes or {})["rpc.method"].endswith("Place")  # type: ignore[union-attr]
    assert dict(chain[0].attributes or {})["catga.node_id"] == "orders"

    published = telemetry.named("Placed", SpanKind.PRODUCER)
    processed = telemetry.named("Placed", SpanKind.CONSUMER)
    assert published.name.startswith("publish ")
    assert processed.name.startswith("process ")
    assert processed.parent is not None
    assert processed.parent.span_id == published.context.span_id
    attributes = dict(processed.attributes or {})
    assert attributes["messaging.system"] == "catga"
    assert attributes["messaging.message.id"] == dict(published.attributes or {})["messaging.message.id"]


async def test_failures_are_errors_of_both_spans_and_metrics(cluster: Any) -> None:
    telemetry = Telemetry()
    mediators, nodes = apps(telemetry.interceptor)
    nodes |= await cluster(**mediators)
    assert not (await nodes["gateway"].send(Reserve("none"))).is_success
    for kind in (SpanKind.CLIENT, SpanKind.SERVER):
        span = telemetry.named("Reserve", kind)
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes or {})["error.type"] == "handler_error"
    for metric in ("rpc.client.call.duration", "rpc.server.call.duration"):
        (point,) = telemetry.points(metric)
        assert point.attributes["error.type"] == "handler_error"
        assert point.count == 1


async def test_metrics_of_the_node_are_read_when_exported(cluster: Any) -> None:
    telemetry = Telemetry()
    mediators, nodes = apps(telemetry.interceptor)
    nodes |= await cluster(**mediators)
    otel.observe_cluster(nodes["gateway"], meter_provider=telemetry.meters)
    await nodes["gateway"].send(Place("tea"))
    members = {p.attributes["catga.node.state"]: p.value for p in telemetry.points("catga.cluster.nodes")}
    assert members == {"alive": 3, "suspect": 0, "draining": 0}
    assert telemetry.points("catga.node.load")
    counters = {p.attributes["catga.counter"]: p.value for p in telemetry.points("catga.node.events")}
    assert counters["batches"] >= 1
    assert counters["failovers"] == 0
    assert "heartbeats" in counters
    assert sum(p.count for p in telemetry.points("messaging.process.duration")) == 1
    assert sum(p.count for p in telemetry.points("messaging.client.operation.duration")) == 1


async def test_prometheus_has_the_same_through_the_same_hooks(cluster: Any) -> None:
    registry = CollectorRegistry()
    mediators, nodes = apps(prometheus.Prometheus(registry))
    nodes |= await cluster(**mediators)
    prometheus.observe_cluster(nodes["gateway"], registry)
    await nodes["gateway"].send(Place("tea"))
    await nodes["gateway"].send(Reserve("none"))

    def count(metric: str, cls: type, outcome: str) -> float | None:
        labels = {"message": f"{cls.__module__}.{cls.__qualname__}", "outcome": outcome}
        return registry.get_sample_value(f"{metric}_count", labels)

    assert count("catga_sent_seconds", Place, "ok") == 1
    assert count("catga_handled_seconds", Reserve, "ok") == 1
    assert count("catga_handled_seconds", Reserve, "handler_error") == 1
    assert count("catga_handled_seconds", Placed, "ok") == 1
    labels = {"node_id": "gateway", "state": "alive"}
    assert registry.get_sample_value("catga_cluster_nodes", labels) == 3
    assert registry.get_sample_value("catga_node_ready", {"node_id": "gateway"}) == 1
    await nodes["gateway"].stop()
    assert registry.get_sample_value("catga_node_ready", {"node_id": "gateway"}) == 0
    assert b"catga_node_ready" in generate_latest(registry)


async def test_a_cancelled_call_is_recorded_on_both_ends(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    telemetry, registry = Telemetry(), CollectorRegistry()
    mediators, nodes = apps(telemetry.interceptor)
    started = asyncio.Event()

    @mediators["stock"].handler
    async def hang(request: Hang) -> int:
        started.set()
        await asyncio.Event().wait()
        return 0

    for name in ("gateway", "stock"):
        mediators[name].use(prometheus.Prometheus(registry if name == "stock" else CollectorRegistry()))
    mediators["stock"].behavior(Logging())
    nodes |= await cluster(**mediators)
    send = asyncio.ensure_future(nodes["gateway"].send(Hang()))
    await started.wait()
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send

    labels = {"message": f"{Hang.__module__}.Hang", "outcome": "cancelled"}
    await eventually(lambda: registry.get_sample_value("catga_handled_seconds_count", labels))
    await eventually(lambda: len(telemetry.spans.get_finished_spans()) == 2)
    for kind in (SpanKind.CLIENT, SpanKind.SERVER):
        span = telemetry.named("Hang", kind)
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes or {})["error.type"] == "cancelled"
    for metric in ("rpc.client.call.duration", "rpc.server.call.duration"):
        (point,) = telemetry.points(metric)
        assert (point.attributes["error.type"], point.count) == ("cancelled", 1)
    assert [vars(r)["catga_error"] for r in caplog.records if r.msg == FAILED] == ["cancelled"]


async def test_an_interceptor_that_fails_inside_is_recorded_as_the_failure_that_it_is() -> None:
    class Broken:
        async def sending(self, message: Any, headers: dict[str, str], forward: Any) -> Any:
            return await forward(message, headers)

        async def handling(self, message: Any, headers: Any, handle: Any) -> Any:
            raise KeyError("a bug")

    telemetry, registry = Telemetry(), CollectorRegistry()
    app = Mediator()
    for interceptor in (telemetry.interceptor, prometheus.Prometheus(registry), Broken()):
        app.use(interceptor)
    app.handles(Place)(lambda request: 1)
    assert not (await app.send(Place("tea"))).is_success
    labels = {"message": f"{Place.__module__}.Place", "outcome": "handler_error"}
    assert registry.get_sample_value("catga_handled_seconds_count", labels) == 1
    (point,) = telemetry.points("rpc.server.call.duration")
    assert point.attributes["error.type"] == "handler_error"
    assert telemetry.named("Place", SpanKind.SERVER).status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("asked", [True, False])
async def test_the_context_becomes_baggage_where_that_is_asked_for(cluster: Any, asked: bool) -> None:
    there, mediators = Mediator(), {"gateway": Mediator()}
    seen: list[dict[str, object]] = []

    @there.handler
    async def place(request: Place) -> int:
        seen.append(dict(baggage.get_all()))
        return 1

    for app in (there, mediators["gateway"]):
        app.use(otel.OpenTelemetry(baggage=asked))
    nodes = await cluster(**mediators, there=there)
    with context(tenant="acme & sons"):
        assert (await nodes["gateway"].send(Place("tea"))).unwrap() == 1
    assert seen == [{"tenant": "acme & sons"} if asked else {}]
    assert baggage.get_all() == {}
