"""HTTP in front of a mediator, for FastAPI and Starlette alike (only Starlette is imported).

app = FastAPI(lifespan=lifespan(cluster))
app.router.routes.extend(health_routes(cluster))

@app.post("/orders")
async def create(order: CreateOrder, mediator: Annotated[Mediator, Depends(mediator)]) -> Response:
    return respond(await mediator.send(order), status=201)
"""

import json
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from typing import Any, cast

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from catga.cluster import DistributedMediator
from catga.errors import ANSWER, NESTED, CatgaError, Execution, HandlerError, what_is_refused
from catga.result import CatgaResult, Success

logger = logging.getLogger("catga.http")

_FAILED = (500, "The request failed.")
_UNAVAILABLE = (503, "The service is not available now.")
_IN_DOUBT = (502, "It is not known whether the request was carried out.")

_BUILT_IN: Mapping[str, tuple[int, str]] = {
    "invalid_message": (422, "The request is not valid."),
    "in_progress": (409, "The same request is still being carried out."),
    "rate_limited": (429, "There were too many requests."),
    "handler_error": _FAILED,
    "duplicate_handler": _FAILED,
    "missing_extra": _FAILED,
    "maybe_executed": _IN_DOUBT,
    # A gateway that has just started cannot tell a service that is down from one that never was.
    "handler_not_found": _UNAVAILABLE,
    "no_node_available": _UNAVAILABLE,
    "node_not_found": _UNAVAILABLE,
    "cluster": _UNAVAILABLE,
    "closed": _UNAVAILABLE,
    "store": _UNAVAILABLE,
    "overloaded": _UNAVAILABLE,
    "circuit_open": _UNAVAILABLE,
    "timeout": (504, "The service did not answer in time."),
}
"""By the code of each error of catga's own: status, and what a client is told."""

STATUS: Mapping[str, int] = {code: status for code, (status, _) in _BUILT_IN.items()}
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
    """A result as an HTTP response: its value as JSON (204 without a body for None), or a `problem`.

    Args:
        status: of a success.
        errors: HTTP status by error code, over `STATUS`: ``{"out_of_stock": 409}``.
    """
    if not isinstance(result, Success):
        return problem(result.error, errors=errors)
    if result.value is None:
        return Response(status_code=204)
    return Response(msgspec.json.encode(result.value, enc_hook=_dump), status, media_type="application/json")


def problem(error: CatgaError, *, errors: Mapping[str, int] | None = None, detail: str | None = None) -> Response:
    """An error as ``application/problem+json`` (RFC 9457), with its ``code`` and ``is_retryable``.

    An error class of the program's own is an answer: its text and ``details`` are told to the client. Errors of catga's
    own, and what a handler raised, have one plain text for each code; the whole error is logged here instead, once. An
    answer that does not fit its request, and a message that a handler sent and catga refused, are told as errors of the
    handler (500), as the client's request was valid. A handler's own `InvalidMessageError` is told to the client (422).

    Args:
        errors: HTTP status by error code, over `STATUS`.
        detail: a text for the client, in place of the error's.
    """
    error = _as_client_sees(error)
    answer, code = _answer_in(error), _code(error)
    own = answer.code not in _BUILT_IN and not _is_joint(answer)
    usual, text = _usual(error)
    status = (errors or {}).get(code) or usual
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "code": code,
        "is_retryable": error.is_retryable,
        "detail": detail or (answer.message if own else text),
    }
    if own:
        body["details"] = answer.details
    else:
        _log(error, status)
    return Response(_json(body), status, _retry_after(answer), media_type=PROBLEM)


def health_routes(cluster: DistributedMediator, prefix: str = "/health", *, details: bool = False) -> list[Route]:
    """``/health/live``: 200 while the process answers. ``/health/ready``: 200 while the node takes work, else 503.

    Args:
        details: tell the node's id, the number of nodes and the reason, too, which may have the broker's address in it:
            for routes that the outside does not reach. The reason is logged in any case.
    """
    logged: str | None = None

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        nonlocal logged
        reason = cluster.not_ready
        if reason != logged and reason is not None:
            logger.warning("not ready: %s", reason)
        logged = reason
        body: dict[str, Any] = {"status": "ok" if reason is None else "unavailable"}
        if details:
            body |= {"node_id": cluster.node_id}
            body |= {"nodes": len(cluster.get_nodes())} if reason is None else {"reason": reason}
        return JSONResponse(body, 200 if reason is None else 503)

    return [Route(f"{prefix}/live", live), Route(f"{prefix}/ready", ready)]


def _as_client_sees(error: CatgaError) -> CatgaError:
    """Return `error`, or that of the handler where what is invalid is not the client's request."""
    if what_is_refused(error) not in (ANSWER, NESTED):
        return error
    seen = HandlerError(error.message, details=error.details)
    seen.__cause__ = error
    return seen


def _answer_in(error: CatgaError) -> CatgaError:
    """Return what a handler answered: where one error stands for those of several services, or events, the first."""
    first = error.__cause__
    return first if _is_joint(error) and isinstance(first, CatgaError) and _code(first) == _code(error) else error


def _is_joint(error: CatgaError) -> bool:
    """Whether it stands for several, and so has the names of services, or the texts of others, in it."""
    parts: Any = _details(error).get("services") or _details(error).get("failed")
    return isinstance(parts, dict) and all(isinstance(part, dict) for part in cast("dict[str, Any]", parts).values())


def _code(error: CatgaError) -> str:
    """Return the code; where the class is not known here, the details have it."""
    return str(_details(error).get("code", error.code)) if type(error) is CatgaError else error.code


def _usual(error: CatgaError) -> tuple[int, str]:
    """Return status and text of an error. What is unavailable did not run, as far as the cluster knows."""
    usual = _BUILT_IN.get(error.code, _FAILED)
    if error.code == "timeout" and error.execution is Execution.NO:  # it waited for a node, or for the link
        return _UNAVAILABLE
    return _IN_DOUBT if usual is _UNAVAILABLE and error.execution is Execution.MAYBE else usual


def _details(error: CatgaError) -> dict[str, Any]:
    details: Any = error.details  # an error of the program's may have anything there
    return cast("dict[str, Any]", details) if isinstance(details, dict) else {}


def _log(error: CatgaError, status: int) -> None:
    """Log what the client is not told, unless it was logged in this process, where the handler raised it."""
    if isinstance(error, HandlerError) and not isinstance(error.__cause__, CatgaError | None):
        return
    level = logging.INFO if status < 500 else logging.ERROR if status == 500 else logging.WARNING
    extra = {"catga_code": error.code, "catga_details": error.details}
    logger.log(level, "answered with %d: %s: %s", status, error.code, error, extra=extra)


def _retry_after(error: CatgaError) -> dict[str, str]:
    """The header, where the error tells when another attempt makes sense."""
    seconds = _details(error).get("retry_after")
    if isinstance(seconds, int | float) and math.isfinite(seconds):
        return {"Retry-After": str(max(1, math.ceil(seconds)))}
    return {}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a number of the program's own
        return "Error"


_TEXTS = (PurePath, IPv4Address, IPv6Address, IPv4Network, IPv6Network)


def _dump(value: Any) -> Any:
    """What JSON has of a pydantic model, as FastAPI writes it, and of types that msgspec does not know."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json", by_alias=True)
    if isinstance(value, deque):
        return [*value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, _TEXTS):
        return str(value)
    raise NotImplementedError(f"objects of {type(value)!r} cannot be encoded")


def _json(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError):  # details are anything, and text may hold half of a character
        details = {str(key): str(value) for key, value in body.get("details", {}).items()}
        return json.dumps({**body, "details": details}).encode()
