"""HTTP in front of a mediator, for FastAPI and Starlette alike (only Starlette is imported).

app = FastAPI(lifespan=lifespan(lambda: add_cluster(handlers, url)))
app.router.routes.extend(health_routes())

@app.post("/orders")
async def create(order: CreateOrder, mediator: Annotated[Mediator, Depends(mediator)]) -> Response:
    return respond(await mediator.send(order), status=201)
"""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from inspect import isawaitable
from typing import Any, TypeAlias, cast
from weakref import WeakValueDictionary

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from catga.cluster import DistributedMediator
from catga.errors import ANSWER, NESTED, CatgaError, ClosedError, Execution, HandlerError, what_is_refused
from catga.integrations.as_json import as_json
from catga.result import CatgaResult, Failure, Success

logger = logging.getLogger("catga.http")

_WITHOUT_BODY = (204, 205, 304)

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

_LONGEST = 1e9
"""Seconds that `Retry-After` may tell."""

_NO_NODE = (
    "this application has no node: give it lifespan=lifespan(...) of catga.integrations.fastapi. A lifespan runs in "
    "the outermost application only, not in one that is mounted; and in tests only in `with TestClient(app) as client:`"
)
MakesNode: TypeAlias = Callable[[], DistributedMediator | Awaitable[DistributedMediator]]
"""A plain function or an ``async`` one."""

_started: "WeakValueDictionary[int, Starlette]" = WeakValueDictionary()
"""The applications whose lifespan has run, by the `id` of their routers, for requests to what is mounted in them."""


def lifespan(
    cluster: DistributedMediator | MakesNode,
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The application's lifespan: the node joins before the first request and leaves, drained, after the last.

    Args:
        cluster: the node, or a function that makes one: each start of the application, of which tests have many, then
            has its own. `mediator` and `health_routes` find it.

    Raises:
        TypeError: `cluster` is neither.
    """
    if not isinstance(cluster, DistributedMediator) and not callable(cluster):
        raise TypeError(f"lifespan takes a node, or a function that makes one, such as by add_cluster, got {cluster!r}")

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncGenerator[None]:
        node = cluster if isinstance(cluster, DistributedMediator) else await _made_by(cluster)
        before = getattr(app.state, "mediator", None)
        app.state.mediator = node
        _started[id(app.router)] = app
        await _start(node)
        try:
            yield
        finally:
            if _runs(before):  # the application was started twice at once, as tests may do
                app.state.mediator = before
            await node.stop()

    return run


async def mediator(connection: HTTPConnection) -> DistributedMediator:
    """The dependency for ``Depends``: what `mediator_of` finds. It takes no thread, as plain functions do there."""
    return mediator_of(connection)


def mediator_of(connection: HTTPConnection) -> DistributedMediator:
    """Return the node that `lifespan` started, for a request or a websocket.

    In a mounted application it is the node of the application that the request came to.

    Raises:
        ClosedError: there is none.
    """
    found = _node_for(connection)
    if found is None:
        raise ClosedError(_NO_NODE)
    return found


def respond(
    result: CatgaResult[Any], *, status: int | None = None, errors: Mapping[str, int] | None = None
) -> Response:
    """A result as an HTTP response: its value as JSON, as FastAPI writes it, or a `problem`.

    There is no body for None, and none where `status` forbids one (204, 205, 304).

    Args:
        status: of a success. By default it is 200, and 204 for None.
        errors: HTTP status by error code, over `STATUS`: ``{"out_of_stock": 409}``.

    Raises:
        TypeError: `result` is not the result of a verb.
        ValueError: a status is no number from 200 to 599.
    """
    _check(status, errors)
    _expect_result(result)
    if not isinstance(result, Success):
        return problem(result.error, errors=errors)
    if result.value is None or status in _WITHOUT_BODY:
        return Response(status_code=status or 204)
    return Response(as_json(result.value), status or 200, media_type="application/json")


def _expect_result(value: object) -> None:
    if isawaitable(value):
        raise TypeError("respond takes the result of a verb, so await it: respond(await cluster.send(...))")
    if not isinstance(value, Success | Failure):
        raise TypeError(f"respond takes the result of a verb, a Success or a Failure, got {value!r:.80}")


def problem(error: CatgaError, *, errors: Mapping[str, int] | None = None, detail: str | None = None) -> Response:
    """An error as ``application/problem+json`` (RFC 9457), with its ``code`` and ``is_retryable``.

    An error class of the program's own is an answer: its text and ``details`` are told to the client. Errors of catga's
    own, and what a handler raised, have one plain text for each code; the whole error is logged here instead, once. An
    answer that does not fit its request, and a message that a handler sent and catga refused, are told as errors of the
    handler (500), as the client's request was valid. A handler's own `InvalidMessageError` is told to the client (422).

    Args:
        errors: HTTP status by error code, over `STATUS`.
        detail: a text for the client, in place of the error's.

    Raises:
        ValueError: a status is no number from 200 to 599.
    """
    _check(None, errors)
    error = _as_client_sees(error)
    answer, code = _answer_in(error), _code(error)
    own = _code(answer) not in _BUILT_IN and not _is_joint(answer)
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
    if status in _WITHOUT_BODY:
        return Response(status_code=status, headers=_retry_after(answer))
    return Response(_json(body), status, _retry_after(answer), media_type=PROBLEM)


def health_routes(
    cluster: DistributedMediator | None = None, prefix: str = "/health", *, details: bool = False
) -> list[Route]:
    """``/health/live``: 200 while the process answers. ``/health/ready``: 200 while the node takes work, else 503.

    Args:
        cluster: the node; by default the one that `lifespan` started last.
        details: tell the node's id, the number of nodes and the reason, too, which may have the broker's address in it:
            for routes that the outside does not reach. The reason is logged in any case.
    """
    logged: str | None = None

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        nonlocal logged
        node = _node_for(request) if cluster is None else cluster
        reason = _NO_NODE if node is None else node.not_ready
        if reason != logged and reason is not None:
            logger.warning("not ready: %s", reason)
        logged = reason
        body: dict[str, Any] = {"status": "ok" if reason is None else "unavailable"}
        if details and node is not None:
            body |= {"node_id": node.node_id}
            body |= {"nodes": len(node.get_nodes())} if reason is None else {"reason": reason}
        return JSONResponse(body, 200 if reason is None else 503)

    return [Route(f"{prefix}/live", live), Route(f"{prefix}/ready", ready)]


async def _made_by(make: MakesNode) -> DistributedMediator:
    node: Any = make()
    node = await node if isawaitable(node) else node
    if not isinstance(node, DistributedMediator):
        raise TypeError(f"the function that lifespan was given makes no node, such as add_cluster makes, but {node!r}")
    return node


async def _start(node: DistributedMediator) -> None:
    try:
        await node.start()
    except ClosedError as error:
        text = "For an application that starts more than once: lifespan(lambda: add_cluster(...))"
        raise ClosedError(f"{error.message}. {text}") from error


def _runs(node: Any) -> bool:
    return isinstance(node, DistributedMediator) and node.health != "closed"


def _node_for(connection: HTTPConnection) -> DistributedMediator | None:
    """Return the node of the application that has the route, else of that which has it mounted."""
    app, outer = connection.scope.get("app"), connection.scope.get("router")  # of the first application
    found = getattr(getattr(app, "state", None), "mediator", None)
    if not _runs(found):  # an application that is mounted now may have run alone before
        started = _started.get(id(outer))
        found = started.state.mediator if started is not None and started.router is outer else found
    return cast("DistributedMediator | None", found)


def _check(status: Any, errors: Mapping[str, Any] | None) -> None:
    if status is not None:
        _check_status("status", status)
    for code, number in (errors or {}).items():
        _check_status(code, number)


def _check_status(what: str, number: Any) -> None:
    if not isinstance(number, int) or not 200 <= number <= 599:
        name = what if what == "status" else f"errors[{what!r}]"
        raise ValueError(f"{name}={number!r}: the status of an HTTP response is an int from 200 to 599")


def _as_client_sees(error: CatgaError) -> CatgaError:
    """Return `error`, or that of the handler where what is invalid is not the client's request."""
    if what_is_refused(error) not in (ANSWER, NESTED):
        return error
    seen = HandlerError(error.message, details=error.details)
    seen.__cause__ = error
    return seen


def _answer_in(error: CatgaError) -> CatgaError:
    """Return what a handler answered: where one error stands for those of several services, or events, the first."""
    answer = error
    while _is_joint(answer) and isinstance(first := answer.__cause__, CatgaError) and _code(first) == _code(error):
        answer = first
    return answer


def _is_joint(error: CatgaError) -> bool:
    """Whether it stands for several, and so has the names of services, or the texts of others, in it."""
    parts: Any = _details(error).get("services") or _details(error).get("failed")
    if isinstance(parts, dict):
        return all(isinstance(part, dict) for part in cast("dict[str, Any]", parts).values())
    return isinstance(parts, str) and parts.startswith("{")  # it was too long to travel but as text


def _code(error: CatgaError) -> str:
    """Return the code; where the class is not known here, the details have it."""
    return str(_details(error).get("code", error.code)) if type(error) is CatgaError else error.code


def _usual(error: CatgaError) -> tuple[int, str]:
    """Return status and text of an error. What is unavailable did not run, as far as the cluster knows."""
    code = _code(error)
    usual = _BUILT_IN.get(code, _FAILED)
    if code == "timeout" and error.execution is Execution.NO:  # it waited for a node, or for the link
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
    if isinstance(seconds, int | float) and abs(seconds) < _LONGEST:
        return {"Retry-After": str(max(1, math.ceil(seconds)))}
    return {}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a number of the program's own
        return "Error"


def _json(body: dict[str, Any]) -> bytes:
    try:
        return as_json(body)
    except Exception:  # noqa: BLE001 - details are anything
        details = body["details"]
        if isinstance(details, dict):
            return as_json({**body, "details": {str(k): str(v) for k, v in cast("dict[object, Any]", details).items()}})
        return as_json({**body, "details": str(details)})
