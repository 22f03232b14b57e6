"""OpenTelemetry: spans and metrics of every message, and one trace across nodes.

    mediator.use(OpenTelemetry())      # on each node; before add_cluster or after
    observe_cluster(cluster)           # metrics of the node itself

Names are those of the semantic conventions: requests are RPC, events are messaging. The trace context travels in
the headers by the globally configured propagators (W3C by default). Only the API is imported: without an SDK this
does nothing, slowly.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from opentelemetry import context, propagate
from opentelemetry.baggage import set_baggage
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider, get_tracer
from opentelemetry.util.types import AttributeValue

from catga._version import __version__
from catga.abc import Forward, Handle
from catga.cluster import DistributedMediator
from catga.mediator.carried import carried, values_of
from catga.mediator.message_context import CORRELATION_ID, MESSAGE_ID
from catga.mediator.pipeline import as_catga_error, is_result
from catga.messages import is_event, wire_name
from catga.result import CatgaResult, Failure

Attributes = dict[str, AttributeValue]

CANCELLED = "cancelled"
"""The ``error.type`` of a call whose caller left, or whose deadline passed."""


class OpenTelemetry:
    """An interceptor: a span and a duration on both ends of each message.

    Args:
        tracer_provider, meter_provider: by default the global ones.
        baggage: send the values of `catga.context` as OpenTelemetry's baggage, too, for what the handlers call by
            other ways. They leave the cluster with it.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        baggage: bool = False,
    ) -> None:
        self._sends_baggage = baggage
        self._tracer: Tracer = get_tracer("catga", __version__, tracer_provider)
        meter: Meter = get_meter("catga", __version__, meter_provider)

        def histogram(name: str, description: str) -> Callable[[float, Attributes], None]:
            return meter.create_histogram(name, "s", description).record

        self._call_sent = histogram("rpc.client.call.duration", "Requests, as their senders see them.")
        self._call_handled = histogram("rpc.server.call.duration", "Requests, as their handlers' nodes see them.")
        self._event_sent = histogram("messaging.client.operation.duration", "Events, as their publishers see them.")
        self._event_handled = histogram("messaging.process.duration", "Events, as their handlers' nodes see them.")

    async def sending(self, message: object, headers: dict[str, str], forward: Forward) -> Any:
        """A client or producer span, whose context goes along."""
        event = is_event(type(message))
        name, attributes = _named(message, "publish" if event else "", "send")
        kind = SpanKind.PRODUCER if event else SpanKind.CLIENT
        record = self._event_sent if event else self._call_sent
        started = time.perf_counter()
        try:
            with self._tracer.start_as_current_span(
                name, kind=kind, attributes={**attributes, **_ids(headers)}
            ) as span:
                propagate.inject(headers, _with_baggage() if self._sends_baggage else None)
                return await _watched(forward(message, headers), span, attributes)
        finally:
            record(time.perf_counter() - started, attributes)

    async def handling(self, message: object, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        """A server or consumer span, a child of the sender's."""
        event = is_event(type(message))
        name, attributes = _named(message, "process" if event else "", "process")
        kind = SpanKind.CONSUMER if event else SpanKind.SERVER
        record = self._event_handled if event else self._call_handled
        started = time.perf_counter()
        # A fresh context: what is current in a receive loop is nobody's parent.
        token = context.attach(propagate.extract(headers, context.Context()))
        try:
            with self._tracer.start_as_current_span(
                name, kind=kind, attributes={**attributes, **_ids(headers)}
            ) as span:
                result: CatgaResult[Any] = await _watched(handle(message), span, attributes)
                return result
        finally:
            context.detach(token)
            record(time.perf_counter() - started, attributes)


def observe_cluster(cluster: DistributedMediator, *, meter_provider: MeterProvider | None = None) -> None:
    """Metrics of one node, read when they are exported: members by state, its load, and its counters."""
    meter = get_meter("catga", __version__, meter_provider)
    node: Attributes = {"catga.node_id": cluster.node_id}

    def nodes(_: CallbackOptions) -> Iterable[Observation]:
        if cluster.not_ready is None:
            for state, count in count_states(cluster).items():
                yield Observation(count, {**node, "catga.node.state": state})

    def load(_: CallbackOptions) -> Iterable[Observation]:
        if cluster.not_ready is None:
            yield Observation(cluster.current_node.load, node)

    def counters(_: CallbackOptions) -> Iterable[Observation]:
        if cluster.not_ready is None:
            for name, count in cluster.counters.items():
                yield Observation(count, {**node, "catga.counter": name})

    meter.create_observable_gauge("catga.cluster.nodes", [nodes], "{node}", "Members in this node's view.")
    meter.create_observable_gauge("catga.node.load", [load], "1", "0 idle, 1 full.")
    meter.create_observable_gauge("catga.node.events", [counters], "{event}", "Counters of this node, by name.")


def count_states(cluster: DistributedMediator) -> dict[str, int]:
    """How many members are in which state."""
    counts: dict[str, int] = {}
    for node in cluster.get_nodes():
        counts[node.state.value] = counts.get(node.state.value, 0) + 1
    return counts


def _named(message: object, operation: str, kind: str) -> tuple[str, Attributes]:
    """The span's name, and the attributes of span and metric. `operation` is empty for a request."""
    name = wire_name(type(message))
    if not operation:
        return name, {"rpc.system.name": "catga", "rpc.method": name}
    return f"{operation} {name}", {
        "messaging.system": "catga",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": name,
    }


def _with_baggage() -> context.Context:
    """The current context, with what `catga.context` gave."""
    current = context.get_current()
    for name, value in values_of(carried.get()).items():
        current = set_baggage(name, value, current)
    return current


def _ids(headers: Mapping[str, str]) -> Attributes:
    """The ids that `MessageContext` gave, where it is installed outside."""
    found: Attributes = {}
    if MESSAGE_ID in headers:
        found["messaging.message.id"] = headers[MESSAGE_ID]
    if CORRELATION_ID in headers:
        found["messaging.message.conversation_id"] = headers[CORRELATION_ID]
    return found


async def _watched(call: Awaitable[Any], span: Span, attributes: Attributes) -> Any:
    """Await `call`. Its outcome goes into the span, and what of it the metric needs into `attributes`."""
    try:
        result: object = await call
    except asyncio.CancelledError:  # the slowest calls end so
        attributes["error.type"] = CANCELLED
        _fail(span, CANCELLED, "the call was cancelled")
        raise
    except Exception as error:  # of an interceptor inside: the span tells of it already
        attributes["error.type"] = as_catga_error(error).code
        raise
    if is_result(result) and result.metadata.node_id:
        span.set_attribute("catga.node_id", result.metadata.node_id)
        span.set_attribute("catga.attempts", result.metadata.attempts)
    if isinstance(result, Failure):
        attributes["error.type"] = result.error.code
        _fail(span, result.error.code, str(result.error))
    return result


def _fail(span: Span, code: str, text: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR, text)
