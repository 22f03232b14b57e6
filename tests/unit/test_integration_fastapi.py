"""HTTP in front of a mediator: the example gateway, results as responses, health."""

import asyncio
import importlib.util
import json
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import httpx
import msgspec
import pydantic
import pytest
from starlette.applications import Starlette

from catga import Event, Failure, Mediator, Request, Success, add_cluster
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    Execution,
    HandlerNotFoundError,
    InvalidMessageError,
    MaybeExecutedError,
    NoNodeAvailableError,
    RateLimitedError,
)
from catga.integrations.fastapi import STATUS, health_routes, lifespan, problem, respond
from catga.result import joint_failure
from catga.testing import eventually
from catga.testing.servers import NatsServer

GATEWAY = Path(__file__).parents[2] / "examples" / "fastapi_gateway" / "gateway.py"


def load_gateway() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gateway", GATEWAY)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["gateway"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        yield http


async def test_the_example_gateway_answers_and_reports_problems() -> None:
    async with client(load_gateway().app) as http:
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ok")

        order = {"sku": "tea", "quantity": 2}
        created = await http.post("/orders", json=order, headers={"x-request-id": "visit-7"})
        assert (created.status_code, created.json()) == (201, {"order_id": "visit-7", **order})

        conflict = await http.post("/orders", json={"sku": "coffee", "quantity": 2})
        assert conflict.status_code == 409
        assert conflict.headers["content-type"] == "application/problem+json"
        assert conflict.json() == {
            "type": "about:blank",
            "title": "Conflict",
            "status": 409,
            "code": "out_of_stock",
            "is_retryable": False,
            "detail": "no coffee left",
            "details": {"sku": "coffee"},
        }
        assert (await http.post("/orders", json={"sku": "tea", "quantity": 0})).status_code == 422


async def test_ready_tells_the_reason_and_live_does_not_care() -> None:
    cluster = add_cluster(Mediator(), "memory://health", node_id="n1")
    app = Starlette(routes=health_routes(cluster, details=True))
    async with client(app) as http:
        before = await http.get("/health/ready")
        assert before.status_code == 503
        assert "has not joined the cluster" in before.json()["reason"]
        assert (await http.get("/health/live")).status_code == 200
        async with cluster:
            assert (await http.get("/health/ready")).status_code == 200
            await cluster.drain()
            assert "draining" in (await http.get("/health/ready")).json()["reason"]
        assert "has left the cluster" in (await http.get("/health/ready")).json()["reason"]


async def test_a_node_without_its_broker_is_not_ready_and_is_again_when_the_broker_is_back() -> None:
    with NatsServer() as server:
        cluster = add_cluster(Mediator(), server.url)
        app = Starlette(routes=health_routes(cluster, details=True), lifespan=lifespan(cluster))
        async with client(app) as http:

            async def reason() -> str:
                return (await http.get("/health/ready")).json().get("reason", "")

            server.kill()
            assert "the link to the broker is down" in await eventually(reason)
            await asyncio.to_thread(server.restart)

            async def is_ready() -> bool:
                return (await http.get("/health/ready")).status_code == 200

            await eventually(is_ready)


async def test_the_lifespan_starts_and_stops_the_node() -> None:
    cluster = add_cluster(Mediator(), "memory://lifespan")
    app = Starlette(lifespan=lifespan(cluster))
    async with client(app):
        assert cluster.not_ready is None
        assert app.state.mediator is cluster
    assert cluster.not_ready is not None


@dataclass
class Point:
    x: int


@dataclass(frozen=True)
class Ordered(Request[int]):
    sku: str


@dataclass(frozen=True)
class Opened(Event):
    sku: str


def test_values_are_json_and_none_is_no_content() -> None:
    response = respond(Success(Point(1)), status=201)
    assert (response.status_code, response.body) == (201, b'{"x":1}')
    assert respond(Success(None)).status_code == 204


INSIDES = "shop.PlaceOrder at node-7 of nats://10.1.2.3:4222"


def kinds_of_ours() -> list[type[CatgaError]]:
    def tree(cls: type[CatgaError]) -> list[type[CatgaError]]:
        mine = [cls] if cls.__module__ == "catga.errors" and cls is not CatgaError else []
        return mine + [found for sub in cls.__subclasses__() for found in tree(sub)]

    return tree(CatgaError)


def test_every_code_of_ours_has_a_status() -> None:
    assert {kind.code for kind in kinds_of_ours()} == set(STATUS)


@pytest.mark.parametrize("kind", kinds_of_ours())
def test_an_error_of_ours_shows_nothing_of_the_insides_and_is_logged_once(
    kind: type[CatgaError], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    error = kind(INSIDES, details={"retry_after": 1.2, "handled": {"shop.PlaceOrder": ["node-7"]}, "path": "$.sku"})
    response = problem(error)
    body = msgspec.json.decode(bytes(response.body))
    assert (response.status_code, body["status"], body["code"]) == (STATUS[kind.code], STATUS[kind.code], kind.code)
    assert body["detail"].endswith(".")
    assert not [word for word in ("shop", "node-7", "10.1.2.3", "sku") if word in str(body) + str(response.headers)]
    assert response.headers["retry-after"] == "2"
    assert [INSIDES in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidMessageError("bad"), 422),
        (CatgaTimeoutError("late"), 504),
        (NoNodeAvailableError("none"), 503),
        (HandlerNotFoundError("none"), 503),
        (MaybeExecutedError("lost"), 502),
        (RateLimitedError("slow"), 429),
        (CatgaError("what"), 500),
    ],
)
def test_errors_are_problems(error: CatgaError, status: int) -> None:
    assert problem(error).status_code == status


@pytest.mark.parametrize(
    ("error", "execution", "status"),
    [
        (CatgaTimeoutError("the link is down"), Execution.NO, 503),
        (NoNodeAvailableError("the first attempt was lost"), Execution.MAYBE, 502),
        (ClosedError("its link is down for good"), Execution.MAYBE, 502),
        (ClosedError("in a handler"), Execution.ANSWERED, 503),
    ],
)
def test_only_what_did_not_run_is_unavailable(error: CatgaError, execution: Execution, status: int) -> None:
    error.execution = execution
    assert problem(error).status_code == status


class SoldOut(CatgaError):
    code = "sold_out"


def body_of(error: CatgaError, **options: Any) -> dict[str, Any]:
    return msgspec.json.decode(bytes(problem(error, **options).body))


def test_an_answer_of_the_programs_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = body_of(SoldOut("no tea", details={"sku": "tea"}), errors={"sold_out": 409})
    assert (body["status"], body["detail"], body["details"]) == (409, "no tea", {"sku": "tea"})
    assert not caplog.records


def test_an_answer_whose_class_is_not_known_here_keeps_its_code() -> None:
    error = CatgaError.rebuild("of_another_service", "no tea", {"sku": "tea"})
    body = body_of(error, errors={"of_another_service": 409})
    assert (body["status"], body["code"], body["detail"]) == (409, "of_another_service", "no tea")


async def test_an_answer_of_one_service_is_told_without_the_names_of_the_others() -> None:
    shop, billing, web = Mediator(), Mediator(), Mediator()
    billing.handles(Opened)(lambda _: None)

    @shop.handler
    def opened(event: Opened) -> None:
        raise SoldOut("no tea", details={"sku": "tea"})

    async with (
        add_cluster(shop, "memory://joint", service="inner-shop"),
        add_cluster(billing, "memory://joint", service="inner-billing"),
        add_cluster(web, "memory://joint", service="web") as node,
    ):
        result = await node.publish(Opened("tea"))
        assert isinstance(result, Failure)
        body = body_of(result.error, errors={"sold_out": 409})
    assert (body["status"], body["detail"], body["details"]) == (409, "no tea", {"sku": "tea"})
    assert "inner" not in str(body)
    result.error.__cause__ = None  # as after a journey, when the handler of another service raised it
    body = body_of(result.error, errors={"sold_out": 409})
    assert (body["status"], body["code"]) == (409, "sold_out")
    assert "inner" not in str(body)


def test_what_ran_in_some_services_only_is_in_doubt() -> None:
    lost = Failure(NoNodeAvailableError("gone"))
    for others in (Success(None), Failure(SoldOut("no tea"))):
        joint = joint_failure([lost, others], "failed", {"services": {}})
        assert body_of(joint.error)["status"] == 502


def test_a_text_of_the_program_takes_the_place_of_ours() -> None:
    assert body_of(InvalidMessageError("x"), detail="a quantity is missing")["detail"] == "a quantity is missing"


async def test_respond_says_what_it_takes() -> None:
    forgotten: Any = Mediator().send_batch([])
    with pytest.raises(TypeError, match=r"so await it: respond\(await cluster\.send"):
        respond(forgotten)
    await forgotten
    with pytest.raises(TypeError, match="a Success or a Failure, got 42"):
        respond(42)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [499, 599, 200, HTTPStatus.CONFLICT])
def test_a_status_need_have_no_name(status: int) -> None:
    response = problem(CatgaError("x"), errors={"catga": status})
    assert (response.status_code, json.loads(bytes(response.body))["status"]) == (status, status)


@pytest.mark.parametrize("status", [0, 99, 101, 600, 409.0, "409", None, True])
def test_what_is_no_status_is_refused_before_an_error_needs_it(status: Any) -> None:
    with pytest.raises(ValueError, match=rf"errors\['sold_out'\]={status!r}: the status of .* from 200 to 599"):
        respond(Success(1), errors={"sold_out": status})
    with pytest.raises(ValueError, match="sold_out"):
        problem(CatgaError("x"), errors={"sold_out": status})
    if status is not None:
        with pytest.raises(ValueError, match="status="):
            respond(Success(1), status=status)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    error = RateLimitedError("slow", details={"retry_after": 2})
    for response in (respond(Success(1), status=status), problem(error, errors={"rate_limited": status})):
        assert (response.status_code, response.body) == (status, b"")
        assert "content-type" not in response.headers
    assert response.headers["retry-after"] == "2"


def test_a_status_of_ones_own_is_that_of_no_value_too() -> None:
    response = respond(Success(None), status=202)
    assert (response.status_code, response.body) == (202, b"")


async def test_what_a_handler_raised_is_not_told_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    app = Mediator()

    @app.handler
    def order(request: Ordered) -> int:
        raise KeyError("password")

    response = respond(await app.send(Ordered("tea")))
    assert response.status_code == 500
    assert b"password" not in bytes(response.body)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    shop = Mediator()
    shop.handles(Ordered)(lambda _: 1)
    async with add_cluster(Mediator(), "memory://down", service="web") as web:
        assert respond(await web.send(Ordered("tea"))).status_code == 503  # it never was
        async with add_cluster(shop, "memory://down", service="shop"):
            await eventually(lambda: len(web.get_nodes()) == 2)
            assert respond(await web.send(Ordered("tea"))).status_code == 200
        await eventually(lambda: len(web.get_nodes()) == 1)
        assert respond(await web.send(Ordered("tea"))).status_code == 503  # it is gone


async def test_a_link_that_is_down_is_unavailable_and_shows_no_address(caplog: pytest.LogCaptureFixture) -> None:
    shop, web = Mediator(), Mediator()
    shop.handles(Ordered)(lambda _: 1)
    soon: Any = {"drain_timeout": 0.1, "connect_timeout": 2.0}  # the end of nodes without a broker
    with NatsServer() as server:
        cluster = add_cluster(web, server.url, node_id="web-1", request_timeout=0.5, **soon)
        app = Starlette(routes=health_routes(cluster), lifespan=lifespan(cluster))
        async with add_cluster(shop, server.url, service="shop", **soon), client(app) as http:
            await eventually(lambda: len(cluster.get_nodes()) == 2)
            server.kill()
            await eventually(lambda: cluster.health == "degraded")
            response = respond(await cluster.send(Ordered("tea")))
            ready = await http.get("/health/ready")
    assert (response.status_code, ready.status_code, ready.json()) == (503, 503, {"status": "unavailable"})
    for shown in (bytes(response.body).decode(), ready.text):
        assert not [word for word in ("web-1", "127.0.0.1", str(server.port), "Ordered") if word in shown]
    assert [r.getMessage() for r in caplog.records if r.name == "catga.http" and "not ready" in r.getMessage()]


class Page(pydantic.BaseModel):
    page_url: pydantic.HttpUrl = pydantic.Field(serialization_alias="pageUrl")
    token: pydantic.SecretStr


@dataclass(frozen=True)
class Visit:
    page: Page
    addresses: deque[IPv4Address]
    path: PurePath


def test_a_value_is_told_as_fastapi_would_write_it() -> None:
    page = Page.model_validate({"page_url": "http://a.b/", "token": "secret"})
    response = respond(Success(Visit(page, deque([IPv4Address("1.2.3.4")]), PurePath("a/b"))))
    assert json.loads(bytes(response.body)) == {
        "page": {"pageUrl": "http://a.b/", "token": "**********"},
        "addresses": ["1.2.3.4"],
        "path": "a/b",
    }


def test_details_that_are_no_json_go_as_text() -> None:
    assert "class" in body_of(CatgaError("odd", details={"what": object}))["details"]["what"]


@pytest.mark.parametrize("details", [None, [1], [object], "text"])
def test_details_of_the_programs_own_may_be_anything(details: Any) -> None:
    assert body_of(SoldOut("no tea", details=details))["detail"] == "no tea"


@pytest.mark.parametrize("text", ["half \ud800", "whole"])
def test_any_error_is_a_problem_that_can_be_read(text: str) -> None:
    details = {"retry_after": float("inf"), "what": text, text: object}
    response = problem(SoldOut(text, details=details))
    assert (response.status_code, json.loads(bytes(response.body))["detail"]) == (500, text)
    assert "retry-after" not in response.headers


@dataclass(frozen=True)
class Counted(Request[int]):
    upto: int = 1


@pytest.mark.parametrize("place", ["strict", "own node", "another node"])
async def test_an_answer_that_does_not_fit_is_no_fault_of_the_client(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, url = Mediator(strict=place == "strict"), f"memory://{place}-fits"
    app.handles(Counted)(lambda _: None)  # type: ignore[arg-type,return-value]
    async with AsyncExitStack() as stack:
        caller: Mediator = app
        if place != "strict":
            caller = await stack.enter_async_context(add_cluster(app, url, node_id="worker"))
        if place == "another node":
            caller = await stack.enter_async_context(add_cluster(Mediator(), url, node_id="caller"))
        result = await caller.send(Counted())
        asked = await caller.send(Counted("x"))  # type: ignore[arg-type]
    response = respond(result, errors={"invalid_message": 400})
    shown = json.loads(response.body)
    assert (response.status_code, shown["code"], shown["detail"]) == (500, "handler_error", "The request failed.")
    assert any("the response of" in record.getMessage() for record in caplog.records)
    assert respond(asked).status_code == 422
