"""The tables of metrics in the documentation are those of what is exported."""

import re
from dataclasses import dataclass
from typing import Any

from documents import ROOT
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from catga import Event, Mediator, Request, add_cluster
from catga.integrations import otel, prometheus


@dataclass(frozen=True)
class Asked(Request[int]):
    is_wrong: bool


@dataclass(frozen=True)
class Happened(Event):
    is_wrong: bool


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is `first`, without the back quotes."""
    text = (ROOT / "docs/telemetry.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found.replace("`", "").splitlines()]


def words(cell: str) -> set[str]:
    return set(cell.split(", "))


async def exported() -> tuple[list[Any], list[Any], set[str]]:
    """The metrics of OpenTelemetry and those of Prometheus, after one message of each kind that succeeds and one that
    fails; and what the node counts."""
    reader, registry = InMemoryMetricReader(), CollectorRegistry()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    app = Mediator()
    app.use(otel.OpenTelemetry(meter_provider=meters))
    app.use(prometheus.Prometheus(registry))

    @app.handler
    async def asked(request: Asked) -> int:
        return 1 // (not request.is_wrong)

    @app.handler
    async def happened(event: Happened) -> None:
        assert not event.is_wrong

    async with add_cluster(app, "memory://tables") as cluster:
        otel.observe_cluster(cluster, meter_provider=meters)
        prometheus.observe_cluster(cluster, registry)
        for is_wrong in (False, True):
            await cluster.send(Asked(is_wrong))
            await cluster.publish(Happened(is_wrong))
        data = reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        families = list(text_string_to_metric_families(generate_latest(registry).decode()))
        return metrics, families, set(cluster.counters)


async def test_the_table_of_opentelemetry() -> None:
    metrics, _, _ = await exported()
    found = {}
    for metric in metrics:
        kind = "histogram" if isinstance(metric.data, Histogram) else "gauge"
        if isinstance(metric.data, Sum):
            assert metric.data.is_monotonic
            kind = "counter"
        labels = {name for point in metric.data.data_points for name in (point.attributes or {})}
        found[metric.name] = (kind, metric.unit, labels)
    assert found == {name: (kind, unit, words(labels)) for name, kind, unit, labels, _ in table("OpenTelemetry")}


async def test_the_table_of_prometheus() -> None:
    _, families, _ = await exported()
    found = {}
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    rows = table("Prometheus")
    assert found == {name: (kind, words(labels)) for name, kind, _, labels, _ in rows}
    assert all((unit == "seconds") == name.endswith("_seconds") for name, _, unit, _, _ in rows)


async def test_the_table_of_counters() -> None:
    metrics, _, counters = await exported()
    rows = {name for name, _ in table("`catga.counter`, `event`")}
    assert rows == counters - {"pending_calls"}
    points = [p for m in metrics if m.name == "catga.node.events" for p in m.data.data_points]
    assert rows == {point.attributes["catga.counter"] for point in points}
