"""How failures are told in traces: each exception once, where it was raised, in text that can be encoded."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from telemetry_pages import exported

from catga import (
    CatgaError,
    DistributedMediator,
    Event,
    Mediator,
    Request,
    add_cluster,
    current,
    current_cluster,
    message,
)
from catga.integrations import otel, prometheus
from catga.integrations._telemetry import outward
from catga.testing import eventually

SURROGATE = b"x\xff.txt".decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Do(Request[int]):
    what: str


@dataclass(frozen=True)
class Outer(Request[int]):
    what: str


@message(name='shop."quoted"\\n')
@dataclass(frozen=True)
class Quoted(Request[int]):
    what: str


@dataclass(frozen=True)
class Happened(Event):
    what: str


class Refused(CatgaError):
    code = "telemetry_spans_refused"


class OddCode(CatgaError):
    code = f'odd "code"\n{SURROGATE}'


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __setattr__(self, *_: object) -> None:
        raise RuntimeError("no attributes")


ALWAYS_THE_SAME = ValueError("one object for all calls")


def fail(what: str) -> NoReturn:
    """Raise what is asked for."""
    if what == "refused":
        raise Refused("sold out")
    if what == "surrogate":
        raise FileNotFoundError(2, "No such file", SURROGATE)
    if what == "odd code":
        raise OddCode(SURROGATE)
    if what == "unspeakable":
        raise Unspeakable
    if what == "group":
        raise ExceptionGroup(f"several {SURROGATE}", [ValueError(SURROGATE), KeyError("b")])
    if what == "note":
        error = ValueError("plain")
        error.add_note(f"a note {SURROGATE}")
        raise error
    if what == "long":
        raise ValueError("x" * 100_000)
    if what == "secret":
        raise ConnectionError("no route to nats://user:sesame@host:4222/?token=sesame or redis://:sesame@host")
    if what == "same":
        raise ALWAYS_THE_SAME
    raise ValueError(what)


class Traces:
    def __init__(self, *, exceptions: bool = True, sampled: bool = True) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(**({} if sampled else {"sampler": ALWAYS_OFF}))
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.interceptor = otel.OpenTelemetry(
            tracer_provider=tracers,
            meter_provider=MeterProvider([self.reader], shutdown_on_exit=False),
            exceptions=exceptions,
        )

    def app(self) -> Mediator:
        app = Mediator()
        app.use(self.interceptor)

        @app.handler
        async def do(request: Do) -> int:
            fail(request.what)

        @app.handler
        async def outer(request: Outer) -> int:
            return (await current().send(Do(request.what))).unwrap()

        @app.handler
        async def quoted(request: Quoted) -> int:
            fail(request.what)

        @app.handler
        async def first(event: Happened) -> None:
            fail(event.what)

        @app.handler
        async def second(event: Happened) -> None:
            fail("second")

        return app

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def events(self, kind: SpanKind) -> list[dict[str, Any]]:
        events = [event for span in self.spans if span.kind is kind for event in span.events]
        assert all(event.name == "exception" for event in events)
        return [dict(event.attributes or {}) for event in events]

    def assert_can_be_encoded(self) -> None:
        for span in self.spans:
            texts = [span.name, span.status.description or ""]
            for attributes in (span.attributes, *(event.attributes for event in span.events)):
                texts += [text for pair in (attributes or {}).items() for text in pair if isinstance(text, str)]
            for text in texts:
                text.encode()
        for metric in exported(self.reader):
            for point in metric.data.data_points:
                repr(dict(point.attributes)).encode()
                assert all(value.encode() for value in point.attributes.values())


@pytest.fixture(params=["in process", "cluster"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A function: what sends and publishes to the app of these traces, with the same telemetry."""
    nodes: list[DistributedMediator] = []

    async def made(traces: Traces) -> Mediator:
        if request.param == "in process":
            return traces.app()
        url, caller = f"memory://{uuid.uuid4().hex}", Mediator()
        caller.use(traces.interceptor)
        nodes.extend((add_cluster(traces.app(), url, node_id="there"), add_cluster(caller, url, node_id="here")))
        for node in nodes:
            await node.start()
        return nodes[1]

    yield made
    for node in reversed(nodes):
        await node.stop()


async def test_an_exception_is_told_once_where_it_was_raised(way: Any) -> None:
    traces = Traces()
    sender = await way(traces)
    assert not (await sender.send(Outer("wrong"))).is_success
    (told,) = traces.events(SpanKind.SERVER)
    assert (told["exception.type"], told["exception.message"]) == ("ValueError", "wrong")
    assert "in fail\n" in told["exception.stacktrace"]
    assert told["exception.stacktrace"].endswith("ValueError: wrong\n")
    assert told.keys() == {"exception.type", "exception.message", "exception.stacktrace"}
    assert traces.events(SpanKind.CLIENT) == []
    (inner,) = [s for s in traces.spans if s.events]
    assert inner.name.endswith("Do")
    assert {(s.status.status_code, s.status.description, (s.attributes or {})["error.type"]) for s in traces.spans} == {
        (StatusCode.ERROR, "ValueError: wrong", "handler_error")
    }
    assert len(traces.spans) == 4


async def test_a_handler_that_passes_on_the_error_of_another_node_does_not_tell_it_again() -> None:
    traces, url = Traces(), f"memory://{uuid.uuid4().hex}"
    asks, outer = traces.app(), Mediator()
    outer.use(traces.interceptor)

    @dataclass(frozen=True)
    class Further(Request[int]):
        what: str

    @outer.handles(Further)
    async def further(request: Further) -> int:
        if request.what == "all":
            return (await current_cluster().send_to_all(Do(request.what))).answers["there"].unwrap()
        return (await current().send(Do(request.what))).unwrap()

    async with add_cluster(asks, url, node_id="there"), add_cluster(outer, url, node_id="here") as node:
        for what in ("wrong", "refused", "all"):
            assert not (await node.send(Further(what))).is_success
    servers = [span for span in traces.spans if span.kind is SpanKind.SERVER]
    told = [(span.name.rpartition(".")[2], len(span.events)) for span in servers]
    assert told == [("Do", 1), ("Further", 0)] * 3


async def test_an_error_of_the_programs_own_is_told_as_well(way: Any) -> None:
    traces = Traces()
    await (await way(traces)).send(Do("refused"))
    (told,) = traces.events(SpanKind.SERVER)
    assert (told["exception.type"], told["exception.message"]) == (f"{__name__}.Refused", "sold out")


async def test_one_object_that_is_raised_by_each_call_is_told_in_each_trace(way: Any) -> None:
    traces = Traces()
    sender = await way(traces)
    for _ in range(3):
        await sender.send(Do("same"))
    assert len(traces.events(SpanKind.SERVER)) == 3


async def test_what_each_handler_of_an_event_raised_is_told(way: Any) -> None:
    traces = Traces()
    await (await way(traces)).publish(Happened("first"))
    told = traces.events(SpanKind.CONSUMER)
    assert [(each["exception.type"], each["exception.message"]) for each in told] == [
        ("ValueError", "first"),
        ("ValueError", "second"),
    ]
    assert traces.events(SpanKind.PRODUCER) == []


@pytest.fixture
def _unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log with half a character in it could not be sent to another process, as xdist does."""
    monkeypatch.setattr(logging.getLogger("catga.handlers"), "disabled", True)


@pytest.mark.usefixtures("_unlogged")
@pytest.mark.parametrize("what", ["surrogate", "odd code", "unspeakable", "group", "note", "long"])
async def test_whatever_is_raised_every_text_can_be_encoded(way: Any, what: str) -> None:
    traces, registry = Traces(), CollectorRegistry()
    sender = await way(traces)
    sender.use(prometheus.Prometheus(registry))
    for request in (Do(what), Quoted(what), Outer(what)):
        assert not (await sender.send(request)).is_success
    await sender.publish(Happened(what))
    assert len(traces.events(SpanKind.SERVER)) == 3
    assert len(traces.events(SpanKind.CONSUMER)) == 2
    traces.assert_can_be_encoded()
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    names = {sample.labels["message"] for family in families for sample in family.samples}
    assert 'shop."quoted"\\n' in names
    assert all(len(each["exception.message"]) <= 8192 for each in traces.events(SpanKind.SERVER))
    assert all(len(each["exception.stacktrace"]) <= 32768 for each in traces.events(SpanKind.SERVER))


async def test_passwords_of_urls_are_not_told(way: Any) -> None:
    traces = Traces()
    await (await way(traces)).send(Do("secret"))
    (told,) = traces.events(SpanKind.SERVER)
    assert "nats://user:***@host:4222/?token=*** or redis://:***@host" in told["exception.message"]
    (line,) = [line for line in told["exception.stacktrace"].splitlines() if line.startswith("ConnectionError")]
    assert "sesame" not in line
    assert not any("sesame" in (span.status.description or "") for span in traces.spans)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tls://u:a@b:c@h/x y", "tls://u:***@h/x y"),
        ("nats://token@h", "nats://***@h"),
        ("see https://h/a?b=c&Password=d e", "see https://h/a?b=c&Password=*** e"),
        ("ann@h is no URL", "ann@h is no URL"),
        (SURROGATE, "x\\udcff.txt"),
    ],
)
def test_texts_that_leave(text: str, shown: str) -> None:
    assert outward(text) == shown


async def test_texts_stay_where_that_is_asked_for(way: Any) -> None:
    traces = Traces(exceptions=False)
    await (await way(traces)).send(Do("wrong"))
    assert [span.events for span in traces.spans] == [(), ()]
    assert {(s.status.status_code, s.status.description, (s.attributes or {})["error.type"]) for s in traces.spans} == {
        (StatusCode.ERROR, None, "handler_error")
    }


async def test_spans_that_are_not_sampled_cost_no_traceback(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[BaseException] = []
    monkeypatch.setattr("catga.integrations._spans._described", made.append)
    traces = Traces(sampled=False)
    await (await way(traces)).send(Do("wrong"))
    assert made == []
    (point,) = [p for m in exported(traces.reader) if m.name == "rpc.server.call.duration" for p in m.data.data_points]
    assert point.attributes["error.type"] == "handler_error"


async def test_baggage_that_cannot_be_encoded_does_not_fail_the_call(way: Any) -> None:
    traces = Traces()
    sender = await way(traces)
    token = otel_context.attach(baggage.set_baggage("file", SURROGATE))
    try:
        result = await sender.send(Do("wrong"))
    finally:
        otel_context.detach(token)
    assert result.error.code == "handler_error"
    client, server = sorted(traces.spans, key=lambda span: span.kind.name)
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id


async def test_what_interceptors_raise_is_told_on_the_side_that_raised_it() -> None:
    class Broken:
        async def sending(self, message: Any, headers: dict[str, str], forward: Any) -> Any:
            if message.what == "sending":
                raise KeyError(SURROGATE)
            return await forward(message, headers)

        async def handling(self, message: Any, headers: Any, handle: Any) -> Any:
            raise KeyError(SURROGATE)

    for what, kind in (("sending", SpanKind.CLIENT), ("handling", SpanKind.SERVER)):
        traces = Traces()
        app = traces.app()
        app.use(Broken())
        assert not (await app.send(Do(what))).is_success
        assert [each["exception.type"] for each in traces.events(kind)] == ["KeyError"]
        assert sum(len(span.events) for span in traces.spans) == 1
        traces.assert_can_be_encoded()


async def test_a_deadline_ends_both_spans_and_leaves_nothing_current() -> None:
    traces, url = Traces(), f"memory://{uuid.uuid4().hex}"
    there, here = traces.app(), Mediator()
    here.use(traces.interceptor)

    @dataclass(frozen=True)
    class Hang(Request[int]):
        pass

    @there.handles(Hang)
    async def hang(request: Hang) -> int:
        await asyncio.Event().wait()
        return 0

    async with add_cluster(there, url, node_id="there"), add_cluster(here, url, node_id="here") as node:
        assert (await node.send(Hang(), timeout=0.2)).error.code == "timeout"  # type: ignore[union-attr]
        await eventually(lambda: len(traces.spans) == 2)
    kinds = {span.kind: (span.attributes or {})["error.type"] for span in traces.spans}
    assert kinds == {SpanKind.CLIENT: "timeout", SpanKind.SERVER: "cancelled"}
    assert [event for span in traces.spans for event in span.events] == []
    assert otel_context.get_current() == {}


async def test_without_an_sdk_calls_go_as_ever(way: Any) -> None:
    traces = Traces()
    traces.interceptor = otel.OpenTelemetry(baggage=True)
    result = await (await way(traces)).send(Outer("wrong"))
    assert result.error.message == "ValueError: wrong"
