"""HTTP in front of a mediator, for FastAPI and Starlette alike (only Starlette is imported).

app = FastAPI(lifespan=lifespan(cluster))
app.router.routes.extend(health_routes(cluster))

@app.post("/orders")
async def create(order: CreateOrder, mediator: Annotated[Mediator, Depends(mediator)]) -> Response:
    return respond(await mediator.send(order), status=201)
"""

import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from catga.cluster import DistributedMediator
from catga.errors import CatgaError, HandlerError
from catga.result import CatgaResult, Success

STATUS: Mapping[str, int] = {
    "invalid_message": 422,
    "handler_not_found": 501,
    "handler_error": 500,
    "timeout": 504,
    "rate_limited": 429,
    "in_progress": 409,
    "overloaded": 503,
    "circuit_open": 503,
    "closed": 503,
    "store": 503,
    "cluster": 503,
    "no_node_available": 503,
    "node_not_found": 503,
    "maybe_executed": 502,
}
"""HTTP status by error code; 500 for what is not here."""

PROBLEM = "application/problem+json"


def lifespan(cluster: DistributedMediator) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The application's lifespan: the node joins before the first request and leaves, drained, after the last."""

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncGenerator[None]:
        app.state.mediator = cluster
        async with cluster:
            yield

    return run


def mediator(request: Request) -> DistributedMediator:
    """The dependency for ``Depends``: the mediator that `lifespan` started."""
    found: DistributedMediator = request.app.state.mediator
    return found


def respond(result: CatgaResult[Any], *, status: int = 200, errors: Mapping[str, int] | None = None) -> Response:
    """A result as an HTTP response: its value as JSON (204 without a body for None), or a problem.

    Args:
        status: of a success.
        errors: HTTP status by error code, over `STATUS`: ``{"out_of_stock": 409}``.
    """
    if not isinstance(result, Success):
        return problem(result.error, errors=errors)
    if result.value is None:
        return Response(status_code=204)
    return Response(msgspec.json.encode(result.value, enc_hook=_dump), status, media_type="application/json")


def problem(error: CatgaError, *, errors: Mapping[str, int] | None = None) -> Response:
    """An error as ``application/problem+json`` (RFC 9457), with its ``code``, ``is_retryable`` and ``details``.

    What a handler raised is not told to the outside: of a `HandlerError` only the code is.
    """
    status = (errors or {}).get(error.code) or STATUS.get(error.code, 500)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": error.code,
        "is_retryable": error.is_retryable,
    }
    if not isinstance(error, HandlerError):
        body |= {"detail": error.message, "details": error.details}
    headers: dict[str, str] = {}
    retry_after = error.details.get("retry_after")
    if isinstance(retry_after, int | float) and math.isfinite(retry_after):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return Response(_json(body), status, headers, media_type=PROBLEM)


def health_routes(cluster: DistributedMediator, prefix: str = "/health") -> list[Route]:
    """``/health/live``: 200 while the process answers. ``/health/ready``: 200 while the node takes work, else 503
    with the reason."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        reason = cluster.not_ready
        if reason is None:
            return JSONResponse({"status": "ok", "node_id": cluster.node_id, "nodes": len(cluster.get_nodes())})
        return JSONResponse({"status": "unavailable", "node_id": cluster.node_id, "reason": reason}, 503)

    return [Route(f"{prefix}/live", live), Route(f"{prefix}/ready", ready)]


def _dump(value: Any) -> Any:
    """What a pydantic model holds."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise NotImplementedError(f"objects of {type(value)!r} cannot be encoded")
    return dump(mode="python")


def _json(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError):  # details are anything, and text may hold half of a character
        details = {str(key): str(value) for key, value in body.get("details", {}).items()}
        return json.dumps({**body, "details": details}).encode()
