"""OpenTelemetry: spans and metrics of every message, and one trace across nodes.

    mediator.use(OpenTelemetry())      # on each node; before add_cluster or after
    observe_cluster(cluster)           # metrics of the node itself

Names are those of the semantic conventions: requests are RPC, events are messaging. The trace context travels in
the headers by the globally configured propagators (W3C by default). Only the API is imported: without an SDK this
does nothing, slowly.
"""

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from opentelemetry import context, propagate
from opentelemetry.baggage import set_baggage
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter, get_meter_provider
from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider, get_tracer
from opentelemetry.util.types import AttributeValue

from catga._version import __version__
from catga.abc import Forward, Handle
from catga.cluster import DistributedMediator
from catga.cluster.reading import Reading
from catga.cluster.scatter import Broadcast, Gathered
from catga.errors import CatgaError
from catga.integrations._spans import fail, remember, tell
from catga.integrations._telemetry import BUCKETS, HEALTHS, STATES, Observed, clean, text_of
from catga.mediator.carried import carried, values_of
from catga.mediator.message_context import CORRELATION_ID, MESSAGE_ID
from catga.mediator.pipeline import as_catga_error, is_result
from catga.messages import is_event, wire_name
from catga.result import CatgaResult, Failure

Attributes = dict[str, AttributeValue]

logger = logging.getLogger("catga.telemetry")

CANCELLED = "cancelled"
"""The ``error.type`` of a call whose caller left, or whose deadline passed."""


class OpenTelemetry:
    """An interceptor: a span and a duration on both ends of each message.

    Args:
        tracer_provider, meter_provider: by default the global ones.
        baggage: send the values of `catga.context` as OpenTelemetry's baggage, too, for what the handlers call by
            other ways. They leave the cluster with it.
        exceptions: put the texts of errors into the spans, and on the node whose handler raised the exception with its
            traceback. With False a span has the error's code only.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        baggage: bool = False,
        exceptions: bool = True,
    ) -> None:
        self._sends_baggage, self._tells = baggage, exceptions
        tracer: Tracer = get_tracer("catga", __version__, tracer_provider)
        # What is raised in it is told by `_watched`, in text that can be encoded.
        self._span = partial(tracer.start_as_current_span, record_exception=False, set_status_on_exception=False)
        meter: Meter = get_meter("catga", __version__, meter_provider)

        def histogram(name: str, description: str) -> Callable[[float, Attributes], None]:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=BUCKETS).record

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
            with self._span(name, kind=kind, attributes={**attributes, **_ids(headers)}) as span:
                _inject(headers, self._sends_baggage)
                result = await self._watched(forward(message, headers), span, attributes)
                for error in _errors_in(result):
                    remember(span, error)  # if the sender raises it in turn, it is known already
                return result
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
        token = context.attach(_extracted(headers))
        try:
            with self._span(name, kind=kind, attributes={**attributes, **_ids(headers)}) as span:
                result: CatgaResult[Any] = await self._watched(handle(message), span, attributes)
                if isinstance(result, Failure) and self._tells:
                    tell(span, result.error)
                return result
        finally:
            context.detach(token)
            record(time.perf_counter() - started, attributes)

    async def _watched(self, call: Awaitable[Any], span: Span, attributes: Attributes) -> Any:
        """Await `call`. Its outcome goes into the span, and what of it the metric needs into `attributes`."""
        try:
            result: object = await call
        except BaseException as error:  # of an interceptor inside, or a cancellation: the slowest calls end so
            self._failed(span, attributes, *_outcome(error))
            if self._tells and not isinstance(error, asyncio.CancelledError):
                tell(span, error)
            raise
        if is_result(result) and result.metadata.node_id:
            span.set_attribute("catga.node_id", clean(result.metadata.node_id))
            span.set_attribute("catga.attempts", result.metadata.attempts)
        if isinstance(result, Failure):
            self._failed(span, attributes, result.error.code, result.error)
        return result

    def _failed(self, span: Span, attributes: Attributes, code: str, text: object) -> None:
        attributes["error.type"] = code = clean(code)
        fail(span, code, text_of(text) if self._tells else "")


def _errors_in(result: object) -> list[CatgaError]:
    """The failures that a verb returned, of whatever nodes."""
    if isinstance(result, Broadcast):
        return list(result.failed.values())
    if isinstance(result, Gathered):
        gathered: Gathered[Any] = result  # pyright: ignore[reportUnknownVariableType]
        return [answer.error for answer in gathered.answers.values() if isinstance(answer, Failure)]
    return [result.error] if isinstance(result, Failure) else []


def _outcome(error: BaseException) -> tuple[str, object]:
    """The ``error.type`` and the text of what was raised."""
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED, "the call was cancelled"
    if isinstance(error, Exception):
        return as_catga_error(error).code, error
    return type(error).__qualname__, error  # it ends the program


_observed: "weakref.WeakKeyDictionary[MeterProvider, Observed]" = weakref.WeakKeyDictionary()
_of_stand_in: list[Observed] = []
"""What was observed before the global provider was set: the API's own stands for it until then."""
_lock = threading.Lock()


def observe_cluster(cluster: DistributedMediator, *, meter_provider: MeterProvider | None = None) -> None:
    """Export metrics of one node, read when they are exported: whether it is ready, the members that it knows by
    state, its load, and its counters.

    Call it before the node starts or after, for each node of the process. The node is not kept alive; its metrics end
    some minutes after it has stopped.

    Args:
        meter_provider: by default the global one, which may also be set later.
    """
    with _lock:
        _of_provider(meter_provider).add(cluster)


def _of_provider(meter_provider: MeterProvider | None) -> Observed:
    """The nodes whose metrics go there. An instrument takes the callbacks of its first making only, so there is one
    set of instruments for all nodes."""
    current = get_meter_provider()
    provider = current if meter_provider is None else meter_provider
    found = _observed.get(provider)
    if found is None and provider is current and _of_stand_in:
        (found,) = _of_stand_in  # it has got the instruments that were made before it was set
    if found is None:
        found = Observed()
        _create_gauges(get_meter("catga", __version__, provider), found)
        if provider is current and type(provider).__module__.startswith("opentelemetry.metrics"):
            _of_stand_in.append(found)
    _observed[provider] = found
    return found


def _create_gauges(meter: Meter, nodes: Observed) -> None:
    def callback(points: Callable[[Reading], Iterable[tuple[float, Attributes]]]) -> Any:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for reading in nodes.read():
                for value, attributes in points(reading):
                    yield Observation(value, {"catga.node_id": reading.node_id, **attributes})

        return [observe]

    gauge, counter = meter.create_observable_gauge, meter.create_observable_counter
    gauge("catga.node.ready", callback(_ready), "1", "1 while the node should get traffic, else 0.")
    gauge("catga.node.health", callback(_health), "1", "1 for the state that the node is in, 0 for the others.")
    gauge("catga.cluster.nodes", callback(_nodes), "{node}", "Members in this node's view.")
    gauge("catga.node.load", callback(_load), "1", "0 idle, 1 full.")
    gauge("catga.node.pending_calls", callback(_pending), "{call}", "Calls of this node that wait for an answer.")
    counter("catga.node.events", callback(_events), "{event}", "How often what happened on this node, by name.")


def _ready(reading: Reading) -> Iterable[tuple[float, Attributes]]:
    yield int(reading.is_ready), {}


def _health(reading: Reading) -> Iterable[tuple[float, Attributes]]:
    for health in HEALTHS:
        yield int(reading.health == health), {"catga.node.health": health}


def _nodes(reading: Reading) -> Iterable[tuple[float, Attributes]]:
    if reading.phase != "ended":
        for state in STATES:
            yield reading.nodes.get(state, 0), {"catga.node.state": state.value}


def _load(reading: Reading) -> Iterable[tuple[float, Attributes]]:
    if reading.phase != "ended":
        yield reading.load, {}


def _pending(reading: Reading) -> Iterable[tuple[float, Attributes]]:
    if reading.phase != "ended":
        yield reading.pending_calls, {}


def _events(reading: Reading) -> Iterable[tuple[float, Attributes]]:
    for name, count in reading.events.items():
        yield count, {"catga.counter": name}


def _named(message: object, operation: str, kind: str) -> tuple[str, Attributes]:
    """The span's name, and the attributes of span and metric. `operation` is empty for a request."""
    name = clean(wire_name(type(message)))
    if not operation:
        return name, {"rpc.system.name": "catga", "rpc.method": name}
    return f"{operation} {name}", {
        "messaging.system": "catga",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": name,
    }


def _inject(headers: dict[str, str], with_baggage: bool) -> None:
    """Let the trace go along. A call does not fail by it: what cannot be encoded, such as baggage, stays behind."""
    given: dict[str, str] = {}
    try:
        propagate.inject(given, _with_baggage() if with_baggage else None)
    except Exception as error:  # noqa: BLE001 - a propagator's
        logger.warning("not all of the trace's context went along: %s", text_of(error))
    headers.update({name: clean(value) for name, value in given.items()})


def _extracted(headers: Mapping[str, str]) -> context.Context:
    """The context that came along, or as if none had come."""
    try:
        return propagate.extract(headers, context.Context())
    except Exception as error:  # noqa: BLE001 - a propagator's
        logger.warning("the trace's context could not be read: %s", text_of(error))
        return context.Context()


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
        found["messaging.message.id"] = clean(headers[MESSAGE_ID])
    if CORRELATION_ID in headers:
        found["messaging.message.conversation_id"] = clean(headers[CORRELATION_ID])
    return found
