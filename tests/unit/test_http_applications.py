"""Where a node is found: applications that start often, in each other, in one process; websockets, threads, tasks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from catga import DistributedMediator, Mediator, Request, add_cluster
from catga.errors import ClosedError, ClusterError
from catga.integrations.fastapi import health_routes, lifespan, mediator, mediator_of, respond

Node = Annotated[DistributedMediator, Depends(mediator)]


@dataclass(frozen=True)
class Doubled(Request[int]):
    number: int


handlers = Mediator()
handlers.handles(Doubled)(lambda request: 2 * request.number)


class Nodes(list[DistributedMediator]):
    """Makes nodes, and keeps them."""

    def __call__(self) -> DistributedMediator:
        self.append(add_cluster(handlers, "memory://applications", node_id=f"web-{len(self)}", drain_timeout=1.0))
        return self[-1]


def application(**options: Any) -> FastAPI:
    """One with all kinds of routes; each has its own text."""
    app, inner, router = FastAPI(**options), FastAPI(), APIRouter(prefix="/router", dependencies=[Depends(mediator)])
    app.router.routes.extend(health_routes(details=True))

    @app.get("/node")
    async def node(node: Node) -> str:
        return node.node_id

    @app.get("/async")
    @router.get("/async")
    @inner.get("/async")
    async def in_the_loop(node: Node) -> Response:
        return respond(await node.send(Doubled(4)))

    @app.get("/own-loop")
    def in_a_loop_of_its_own(node: Node) -> Response:
        return respond(asyncio.run(node.send(Doubled(4))))

    @app.get("/from-thread")
    @inner.get("/from-thread")
    def from_a_thread(node: Node) -> Response:
        return respond(anyio.from_thread.run(node.send, Doubled(4)))

    @app.get("/later")
    async def later(node: Node, tasks: BackgroundTasks, kept: Annotated[list[int], Depends(lambda: done)]) -> int:
        async def in_a_task() -> None:
            kept.append((await node.send(Doubled(4))).unwrap())

        tasks.add_task(in_a_task)
        tasks.add_task(lambda: kept.append(asyncio.run(node.send(Doubled(4))).unwrap()))
        return 8

    @app.websocket("/socket")
    @inner.websocket("/socket")
    async def socket(socket: WebSocket, node: Node) -> None:
        await socket.accept()
        await socket.send_json((await node.send(Doubled(await socket.receive_json()))).unwrap())
        await socket.close()

    async def plain(connection: HTTPConnection) -> Response:
        return respond(await mediator_of(connection).send(Doubled(4)))

    inner.router.routes.extend(health_routes())
    inner.mount("/deep", Starlette(routes=[Route("/plain", plain)]))
    app.include_router(router)
    app.mount("/inner", inner)
    app.mount("/starlette", Starlette(routes=[Route("/plain", plain), Mount("/more", routes=[Route("/plain", plain)])]))
    app.router.routes.append(Mount("/mount", routes=[Route("/plain", plain)]))
    return app


done: list[int] = []
PATHS = [
    *("async", "own-loop", "from-thread", "later", "router/async", "inner/async", "inner/from-thread"),
    *("inner/deep/plain", "starlette/plain", "starlette/more/plain", "mount/plain"),
]


def test_every_start_has_a_node_and_every_kind_of_route_finds_it() -> None:
    nodes = Nodes()
    app = application(lifespan=lifespan(nodes))
    for number in range(3):
        done.clear()
        with TestClient(app) as http:
            assert {path: http.get(f"/{path}").text for path in PATHS} == dict.fromkeys(PATHS, "8")
            for path in ("/socket", "/inner/socket"):
                with http.websocket_connect(path) as socket:
                    socket.send_json(5)
                    assert socket.receive_json() == 10
            assert http.get("/health/ready").json() == {"status": "ok", "node_id": f"web-{number}", "nodes": 1}
            assert http.get("/inner/health/ready").json() == {"status": "ok"}
            assert [node.health for node in nodes] == ["closed"] * number + ["healthy"]
        assert done == [8, 8]
    http = TestClient(app)
    assert (http.get("/async").status_code, http.get("/health/ready").status_code) == (503, 503)
    assert nodes[-1].health == "closed"


def test_an_application_may_be_started_while_it_runs() -> None:
    nodes = Nodes()
    app = application(lifespan=lifespan(nodes))
    with TestClient(app) as http:
        with TestClient(app) as other:
            assert other.get("/node").json() == "web-1"
        assert (http.get("/node").json(), http.get("/async").text) == ("web-0", "8")


def test_a_node_that_was_given_is_started_once_and_the_second_start_says_what_to_do() -> None:
    cluster = Nodes()()
    app = application(lifespan=lifespan(cluster))
    with TestClient(app) as http:
        assert (http.get("/node").json(), http.get("/async").text) == (cluster.node_id, "8")
    with pytest.raises(ClosedError, match=r"started once.*lifespan\(lambda: add_cluster\(\.\.\.\)\)"), TestClient(app):
        pass


async def test_a_node_that_runs_already_goes_on_when_an_application_cannot_start_it() -> None:
    async with Nodes()() as cluster:
        app = application(lifespan=lifespan(cluster))
        with pytest.raises(ClosedError, match="started once"):
            async with app.router.lifespan_context(app):
                pass
        assert cluster.health == "healthy"


async def test_a_start_that_fails_leaves_nothing_and_the_next_one_works() -> None:
    urls = ["nats://127.0.0.1:1", "memory://applications"]
    app = application(lifespan=lifespan(lambda: add_cluster(handlers, urls.pop(0), connect_timeout=0.2)))
    with pytest.raises(ClusterError), TestClient(app):
        pass
    with TestClient(app) as http:
        assert http.get("/async").text == "8"


@pytest.mark.parametrize("given", [Mediator(), None, "memory://applications"])
def test_what_is_no_node_and_makes_none_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="lifespan takes a node, or a function that makes one"):
        lifespan(given)


@pytest.mark.parametrize("make", [Mediator, lambda: None])
def test_a_function_that_makes_no_node_is_named(make: Callable[[], Any]) -> None:
    with (
        pytest.raises(TypeError, match="the function that lifespan was given makes no node"),
        TestClient(FastAPI(lifespan=lifespan(make))),
    ):
        pass


def test_the_function_may_wait() -> None:
    async def make() -> DistributedMediator:
        await asyncio.sleep(0)
        return Nodes()()

    with TestClient(application(lifespan=lifespan(make))) as http:
        assert http.get("/async").text == "8"


def test_without_a_lifespan_the_error_says_what_to_do() -> None:
    inner, app = application(lifespan=lifespan(Nodes())), FastAPI()
    app.mount("/inner", inner)
    for http, path in ((TestClient(inner), "/async"), (TestClient(app), "/inner/async")):
        with pytest.raises(ClosedError, match=r"no node: .*lifespan=lifespan.*with TestClient"):
            http.get(path)
    ready = TestClient(inner).get("/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "unavailable"})


async def test_a_router_that_is_no_application_needs_its_node_named() -> None:
    async with Nodes()() as cluster:
        for routes, status in ((health_routes(cluster), 200), (health_routes(), 503)):
            transport = httpx.ASGITransport(Router(routes=routes))
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
                assert (await http.get("/health/ready")).status_code == status


def test_the_programs_own_lifespan_stands_around_that_of_the_node() -> None:
    seen: list[str] = []
    nodes = Nodes()

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append("opened")
        async with lifespan(nodes)(app):
            seen.append(nodes[-1].health)
            yield {"pool": "mine"}
        seen.append(nodes[-1].health)

    app = application(lifespan=own)

    @app.get("/pool")
    async def pool(connection: HTTPConnection, node: Node) -> str:
        return f"{connection.state.pool} {node.health}"

    for _ in range(2):
        with TestClient(app) as http:
            assert http.get("/pool").json() == "mine healthy"
    assert seen == ["opened", "healthy", "closed"] * 2


def test_applications_in_one_process_have_their_own_nodes() -> None:
    first, second = application(lifespan=lifespan(Nodes())), FastAPI(lifespan=lifespan(Nodes()))
    second.mount("/inner", application())
    with TestClient(first) as one, TestClient(second) as two:
        assert one.get("/node").json() == two.get("/inner/node").json() == "web-0"
        nodes = (first.state.mediator, second.state.mediator)
        assert nodes[0] is not nodes[1]
        assert len(nodes[0].get_nodes()) == 1


def test_an_application_that_ran_alone_has_the_outer_node_once_it_is_mounted() -> None:
    inner, outer = application(lifespan=lifespan(Nodes())), FastAPI(lifespan=lifespan(Nodes()))
    outer.mount("/inner", inner)
    for _ in range(2):
        with TestClient(inner) as http:
            assert http.get("/async").text == "8"
        with TestClient(outer) as http:
            assert http.get("/inner/async").text == http.get("/inner/starlette/plain").text == "8"
            assert http.get("/inner/health/ready").status_code == 200


async def test_the_dependency_takes_no_thread() -> None:
    """Else requests would wait for plain endpoints that hold all threads."""
    app = application(lifespan=lifespan(Nodes()))
    limiter = anyio.to_thread.current_default_thread_limiter()
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        for holder in range(int(limiter.available_tokens)):
            limiter.acquire_on_behalf_of_nowait(holder)
        assert (await asyncio.wait_for(http.get("/async"), 30.0)).text == "8"
        for holder in range(int(limiter.borrowed_tokens)):
            limiter.release_on_behalf_of(holder)


def test_health_answers_head_and_refuses_other_methods() -> None:
    with TestClient(application(lifespan=lifespan(Nodes()))) as http:
        for path in ("/health/live", "/health/ready"):
            head = http.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert http.options(path).status_code == http.post(path).status_code == 405
