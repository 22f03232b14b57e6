"""The metrics of nodes: at every moment of their lives, of several in one process, and read in any thread."""

import asyncio
import gc
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from telemetry_pages import EXPORTERS, Page, exported

from catga import DistributedMediator, Mediator, Request, RoundRobin, add_cluster
from catga.cluster.reading import EVENTS
from catga.errors import ClosedError
from catga.integrations import _telemetry, otel, prometheus
from catga.testing import eventually
from catga.testing.servers import NatsServer


@dataclass(frozen=True)
class Ping(Request[int]):
    n: int


@pytest.fixture(params=EXPORTERS)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(request.param)


def made(node_id: str, url: str = "memory://telemetry") -> DistributedMediator:
    app = Mediator()

    @app.handler
    async def ping(request: Ping) -> int:
        return request.n

    return add_cluster(app, url, node_id=node_id)


async def test_a_node_whose_link_is_down_tells_that_and_what_it_knows(page: Page) -> None:
    with NatsServer() as server:
        async with made("a", server.url) as a, made("b", server.url):
            page.observe(a)
            await a.send(Ping(1))
            before = page.read()
            assert (before["node_ready", "a"], before["node_health", "a", "healthy"]) == (1, 1)
            server.stop()
            await eventually(lambda: a.health == "degraded")
            down = page.read()
            assert set(down) == set(before)
            assert (down["node_ready", "a"], down["node_health", "a", "degraded"]) == (0, 1)
            assert down["node_health", "a", "healthy"] == 0
            assert down["cluster_nodes", "a", "alive"] + down["cluster_nodes", "a", "suspect"] == 2
            assert down["node_events", "a", "batches"] >= before["node_events", "a", "batches"]
            server.start()
            await eventually(lambda: page.of("node_ready")["a"])


async def test_a_node_is_there_before_its_start_and_its_last_counts_after_its_stop(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = made("a")
    page.observe(a)
    new = page.read()
    assert (new["node_ready", "a"], new["node_health", "a", "closed"], new["node_load", "a"]) == (0, 1, 0)
    assert [new["cluster_nodes", "a", state] for state in ("alive", "suspect", "draining")] == [0, 0, 0]
    assert {key[2]: value for key, value in new.items() if key[0] == "node_events"} == dict.fromkeys(EVENTS, 0)

    async with a, made("b") as b:
        await b.send_to_node(Ping(1), "a")
        running = page.read()
        assert set(running) == set(new)
        assert (running["node_ready", "a"], running["cluster_nodes", "a", "alive"]) == (1, 2)
        assert running["node_events", "a", "batches"] >= 1
    ended = page.read()
    assert {key[0] for key in ended} == {"node_ready", "node_health", "node_events"}
    assert (ended["node_ready", "a"], ended["node_health", "a", "closed"]) == (0, 1)
    assert all(ended[key] >= running[key] for key in ended if key[0] == "node_events")
    monkeypatch.setattr(_telemetry, "LINGER", 0.0)
    assert page.read() == {}


def test_what_a_node_has_counted_has_the_names_that_are_there_before() -> None:
    async def counted() -> set[str]:
        async with made("a") as a:
            return set(a.counters)

    assert asyncio.run(counted()) == {*EVENTS, "pending_calls"}


async def test_all_nodes_of_a_process_are_exported(page: Page) -> None:
    async with made("a") as a, made("b") as b:
        for cluster in (a, b, a):
            page.observe(cluster)
        assert page.of("node_ready") == {"a": 1, "b": 1}
        async with made("c") as c:
            page.observe(c)
            assert page.of("node_ready") == {"a": 1, "b": 1, "c": 1}
        assert page.of("node_load").keys() == {"a", "b"}
        other = Page(page.exporter)
        other.observe(a)
        assert other.of("node_ready") == {"a": 1}
        assert page.of("node_load").keys() == {"a", "b"}


async def test_a_node_with_the_id_of_a_former_one_goes_on_counting(page: Page) -> None:
    counts = []
    for _ in range(3):
        a = made("a")
        page.observe(a)
        counts.append(page.of("node_ready"))
        async with a, made("b") as b:
            await b.send_to_node(Ping(1), "a")
            counts.append(page.read()["node_events", "a", "batches"])
        counts.append(page.read()["node_events", "a", "batches"])
    assert counts[::3] == [{"a": 0}] * 3
    batches = [count for count in counts if not isinstance(count, dict)]
    assert all(later >= earlier for earlier, later in pairwise(batches))
    assert batches[-1] >= 3 * batches[0] > 0


async def test_of_two_with_one_id_the_one_that_runs_is_exported(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    first, second = made("a"), made("a", "memory://elsewhere")
    page.observe(first)
    await first.start()
    page.observe(second)
    assert "two nodes of this process have the id a" in caplog.text
    assert page.of("node_ready") == {"a": 1}
    await first.stop()
    assert page.of("node_ready") == {"a": 0}
    async with second:
        assert page.of("node_ready") == {"a": 1}


def test_a_node_that_is_observed_is_not_kept_alive(page: Page) -> None:
    async def run() -> "weakref.ref[DistributedMediator]":
        cluster = made("a")
        page.observe(cluster)
        async with cluster, made("b") as b:
            await b.send_to_node(Ping(1), "a")
            assert page.of("node_ready") == {"a": 1}
        return weakref.ref(cluster)

    gone = asyncio.run(run())
    gc.collect()
    assert gone() is None
    assert page.of("node_ready") == {"a": 0}
    assert page.read()["node_events", "a", "batches"] >= 1
    page.observe(made("never started"))
    gc.collect()
    assert page.of("node_ready").keys() == {"a"}


def test_a_node_whose_event_loop_has_ended_is_not_ready(page: Page) -> None:
    cluster = made("a")
    page.observe(cluster)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(cluster.start())
    assert page.of("node_ready") == {"a": 1}
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert page.of("node_ready") == {"a": 0}
    assert not page.of("node_load")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
async def test_a_forked_process_does_not_export_the_nodes_of_its_parent(page: Page) -> None:
    async with made("a") as a, made("b") as b:
        page.observe(a)
        page.observe(b)
        await b.stop()
        assert page.of("node_ready") == {"a": 1, "b": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads run, but hold none of the page's locks
            pid = os.fork()
        if pid == 0:
            os._exit(len(page.read()))
        assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, pid, 0))[1]) == 0


async def test_pages_are_whole_whatever_thread_reads_them_while_nodes_come_and_go(page: Page) -> None:
    done, failures = threading.Event(), []

    def scrape() -> None:
        while not done.is_set():
            try:
                page.read()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        async with made("a") as a, made("b") as b:
            page.observe(a)
            page.observe(b)
            await asyncio.gather(*(a.send_to_node(Ping(n), "b") for n in range(20)))
    done.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failures == []
    assert page.of("node_ready") == {"a": 0, "b": 0}


@pytest.mark.parametrize("looks", range(6))
async def test_a_node_may_end_between_any_two_looks_of_another_thread(
    page: Page, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other thread finds the node so many times, and then no more: `stop` may come at each of these moments."""
    async with made("a") as a:
        page.observe(a)
        node = a._node

        def found(ask: Callable[[], object]) -> object:
            left = [node] * looks
            look = property(lambda _: left.pop() if left else None)
            with monkeypatch.context() as patch:
                patch.setattr(DistributedMediator, "_node", look, raising=False)
                try:
                    return ask()
                except ClosedError as error:
                    return error.message

        assert found(lambda: page.of("node_ready")) in ({"a": 0}, {"a": 1})
        assert found(lambda: a.health) in ("healthy", "closed")
        assert found(lambda: a.not_ready) in (None, "node a has not joined the cluster: use it as `async with`")
        assert found(lambda: a.counters)
        assert found(lambda: a.route(Ping, RoundRobin())) is None


async def test_reading_asks_no_load_function_in_another_thread(page: Page) -> None:
    threads = set()

    def load() -> float:
        threads.add(threading.get_ident())
        return 0.25

    async with add_cluster(Mediator(), "memory://telemetry", node_id="a", load=load) as a:
        page.observe(a)
        assert (await asyncio.to_thread(page.of, "node_load")) == {"a": 0.25}
    assert threads == {threading.get_ident()}


async def test_a_node_whose_event_loop_stands_still_is_full(page: Page) -> None:
    async with made("a") as a:
        page.observe(a)
        time.sleep(1.2)  # noqa: ASYNC251 - it is this that is told
        assert page.of("node_load") == {"a": 1}


async def test_what_is_exported_as_differences_is_never_negative() -> None:
    reader = InMemoryMetricReader(preferred_temporality={ObservableCounter: AggregationTemporality.DELTA})
    meters = MeterProvider([reader], shutdown_on_exit=False)
    batches = []
    for _ in range(3):
        async with made("a") as a, made("b") as b:
            otel.observe_cluster(a, meter_provider=meters)
            await b.send_to_node(Ping(1), "a")
            points = [p for m in exported(reader) if m.name == "catga.node.events" for p in m.data.data_points]
            batches += [p.value for p in points if p.attributes["catga.counter"] == "batches"]
            assert all(p.value >= 0 for p in points)
    assert len(batches) == 3


async def test_the_registry_knows_the_names_and_finds_metrics_by_them() -> None:
    registry = CollectorRegistry()
    async with made("a") as a:
        prometheus.observe_cluster(a, registry)
        text = generate_latest(registry.restricted_registry(["catga_node_ready"])).decode()
        assert [line for line in text.splitlines() if line[0] != "#"] == ['catga_node_ready{node_id="a"} 1.0']
        prometheus.observe_cluster(a, registry)
        (collector,) = registry._collector_to_names
        registry.unregister(collector)  # as some tests do with the global one
        prometheus.observe_cluster(a, registry)
        assert registry.get_sample_value("catga_node_ready", {"node_id": "a"}) == 1


async def test_several_interceptors_share_the_histograms_of_a_registry() -> None:
    registry = CollectorRegistry()
    apps = [Mediator(), Mediator()]
    for app in apps:
        app.use(prometheus.Prometheus(registry))
        app.handles(Ping)(lambda request: request.n)
        await app.send(Ping(1))
    labels = {"message": f"{__name__}.Ping", "outcome": "ok"}
    assert registry.get_sample_value("catga_handled_seconds_count", labels) == 2


async def test_the_global_registry_takes_several_nodes() -> None:
    async with made("a") as a, made("b") as b:
        prometheus.observe_cluster(a)
        prometheus.observe_cluster(b)
        ready = [REGISTRY.get_sample_value("catga_node_ready", {"node_id": node_id}) for node_id in "ab"]
        assert ready == [1, 1]
