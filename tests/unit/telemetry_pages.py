"""What is exported of nodes, by OpenTelemetry and by Prometheus, in one form."""

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from catga import DistributedMediator
from catga.integrations import otel, prometheus

EXPORTERS = ("otel", "prometheus")


class Page:
    """The metrics of nodes at an exporter."""

    def __init__(self, exporter: str) -> None:
        self.exporter = exporter
        self.registry = CollectorRegistry()
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    def observe(self, cluster: DistributedMediator) -> None:
        if self.exporter == "otel":
            otel.observe_cluster(cluster, meter_provider=self.meters)
        else:
            prometheus.observe_cluster(cluster, self.registry)

    def read(self) -> dict[tuple[str, ...], float]:
        """The name and the values of the labels, the node's id first → the value. None of them comes twice."""
        points = list(self._otel() if self.exporter == "otel" else self._prometheus())
        found = dict(points)
        assert len(found) == len(points)
        return found

    def of(self, metric: str) -> dict[str, float]:
        """The values of a metric that is there once for each node, by the node's id."""
        return {key[1]: value for key, value in self.read().items() if key[0] == metric}

    def _otel(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for metric in exported(self.reader):
            for point in metric.data.data_points:
                labels = dict(point.attributes)
                name = metric.name.replace(".", "_").removeprefix("catga_")
                yield (name, labels.pop("catga.node_id"), *labels.values()), point.value

    def _prometheus(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                labels = dict(sample.labels)
                yield (family.name.removeprefix("catga_"), labels.pop("node_id"), *labels.values()), sample.value


def exported(reader: InMemoryMetricReader) -> list[Any]:
    """The metrics that OpenTelemetry exports now."""
    data = reader.get_metrics_data()
    return [m for r in (data.resource_metrics if data else ()) for s in r.scope_metrics for m in s.metrics]
