"""HTTP in front of a mediator: the example gateway, results as responses, health."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from catga import Failure, Mediator, Success, add_cluster
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    CircuitOpenError,
    HandlerError,
    InvalidMessageError,
    NoNodeAvailableError,
    RateLimitedError,
)
from catga.integrations.fastapi import STATUS, health_routes, lifespan, problem, respond
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
    app = Starlette(routes=health_routes(cluster))
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
        app = Starlette(routes=health_routes(cluster), lifespan=lifespan(cluster))
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


def test_values_are_json_and_none_is_no_content() -> None:
    response = respond(Success(Point(1)), status=201)
    assert (response.status_code, response.body) == (201, b'{"x":1}')
    assert respond(Success(None)).status_code == 204


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidMessageError("bad"), 422),
        (CatgaTimeoutError("late"), 504),
        (NoNodeAvailableError("none"), 503),
        (RateLimitedError("slow", details={"retry_after": 1.2}), 429),
        (CatgaError("what"), 500),
    ],
)
def test_errors_are_problems(error: CatgaError, status: int) -> None:
    response = problem(error)
    body = msgspec.json.decode(bytes(response.body))
    assert (response.status_code, body["status"], body["code"]) == (status, status, error.code)
    assert body["detail"] == error.message
    if status == 429:
        assert response.headers["retry-after"] == "2"


def test_what_a_handler_raised_is_not_told() -> None:
    error = HandlerError("KeyError: 'password'", details={"type": "KeyError", "message": "password"})
    response = respond(Failure(error))
    assert response.status_code == 500
    assert b"password" not in bytes(response.body)


def test_details_that_are_no_json_go_as_text() -> None:
    response = problem(CatgaError("odd", details={"what": object}))
    assert "class" in msgspec.json.decode(bytes(response.body))["details"]["what"]


@pytest.mark.parametrize("text", ["half \ud800", "whole"])
def test_any_error_is_a_problem_that_can_be_read(text: str) -> None:
    details = {"retry_after": float("inf"), "what": text, text: object}
    response = problem(CircuitOpenError(text, details=details))
    assert (response.status_code, json.loads(bytes(response.body))["detail"]) == (503, text)
    assert "retry-after" not in response.headers


def test_every_code_of_ours_has_a_status() -> None:
    def tree(cls: type[CatgaError]) -> set[str]:
        mine = {cls.code} if cls.__module__ == "catga.errors" else set[str]()
        return mine.union(*(tree(sub) for sub in cls.__subclasses__()))

    never_over_http = {"catga", "duplicate_handler", "missing_extra"}
    assert tree(CatgaError) - never_over_http == set(STATUS)
