"""Addresses and passwords in the texts, details and causes of catga's own errors reach no HTTP client."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.responses import Response

from catga import DistributedMediator, Event, Failure, Mediator, Request, Success, add_cluster
from catga.errors import CatgaError, Execution, HandlerError, StoreError
from catga.integrations.fastapi import health_routes, lifespan, mediator, problem, respond
from catga.result import joint_failure, told
from catga.rpc.outcomes import error_of, fault_of

SECRET = "redis://admin:hunter2@10.1.2.3:6379/billing"
PARTS = ("redis://", "admin", "hunter2", "10.1.2.3", "6379", "billing")


def kinds() -> list[type[CatgaError]]:
    def tree(cls: type[CatgaError]) -> list[type[CatgaError]]:
        return [cls] + [found for sub in cls.__subclasses__() for found in tree(sub)]

    ours = [kind for kind in tree(CatgaError) if kind.__module__ == "catga.errors" and kind is not CatgaError]
    return sorted(ours, key=lambda kind: kind.code)


class SoldOut(CatgaError):
    """The program's own, in a joint failure."""

    code = "sold_out_over_http"


def made(kind: type[CatgaError]) -> CatgaError:
    details = {"url": SECRET, "all": [SECRET], SECRET: {"node": SECRET}, "retry_after": 1.5, "detail": SECRET}
    error = kind(f"{SECRET} is out of reach", details=details)
    error.__cause__ = OSError(f"connecting to {SECRET}")
    return error


def derived(kind: type[CatgaError]) -> CatgaError:
    return made(type("Own", (kind,), {}))


def rebuilt(kind: type[CatgaError]) -> CatgaError:
    error = made(kind)
    return CatgaError.rebuild(kind.code, error.message, error.details, execution=Execution.MAYBE)


def travelled(kind: type[CatgaError]) -> CatgaError:
    return error_of(fault_of(1, made(kind)))


def travelled_as_text(kind: type[CatgaError]) -> CatgaError:
    error = made(kind)
    error.details["long"] = SECRET * 1000
    return error_of(fault_of(1, error))


def of_no_class(kind: type[CatgaError]) -> CatgaError:
    return CatgaError(SECRET, details={"code": kind.code, "url": SECRET})


def joint(kind: type[CatgaError]) -> CatgaError:
    results = {"billing": Failure(made(kind)), SECRET: Failure(made(kind)), "shop": Success(None)}
    return joint_failure(results.values(), SECRET, {"services": {s: told(r) for s, r in results.items()}}).error


def joint_alone(kind: type[CatgaError]) -> CatgaError:
    return joint_failure([Failure(made(kind))], SECRET, {"services": {SECRET: {"ok": False}}}).error


def joint_of_joints(kind: type[CatgaError]) -> CatgaError:
    return joint_failure(
        [Failure(joint(kind)), Failure(joint(kind))], SECRET, {"failed": {"0": {"text": SECRET}}}
    ).error


def joint_with_an_answer(kind: type[CatgaError]) -> CatgaError:
    results = {"shop": Failure(SoldOut("no tea")), SECRET: Failure(made(kind))}
    return joint_failure(results.values(), SECRET, {"services": {s: told(r) for s, r in results.items()}}).error


def behind_an_answer(kind: type[CatgaError]) -> CatgaError:
    error = SoldOut("no tea", details={"sku": "tea"})
    error.__cause__ = made(kind)
    return error


def of_a_handler(kind: type[CatgaError]) -> CatgaError:
    error = HandlerError(f"{kind.__name__}: {SECRET}", details={"type": kind.__name__, "message": SECRET})
    error.__cause__ = made(kind)
    return error


WAYS = [
    made,
    derived,
    rebuilt,
    travelled,
    travelled_as_text,
    of_no_class,
    joint,
    joint_alone,
    joint_of_joints,
    joint_with_an_answer,
    behind_an_answer,
    of_a_handler,
]


def shown_in(*parts: object) -> list[str]:
    text = repr(parts).lower()
    return [part for part in PARTS if part in text]


def is_silent(response: Response) -> bool:
    return shown_in(bytes(response.body), response.raw_headers) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", kinds())
def test_no_response_has_what_an_error_of_ours_tells(
    kind: type[CatgaError], way: Callable[[type[CatgaError]], CatgaError]
) -> None:
    error = way(kind)
    assert is_silent(problem(error))
    assert is_silent(problem(error, errors={kind.code: 418, "sold_out_over_http": 409}))
    assert is_silent(respond(Failure(error), errors={kind.code: 204}))
    for again in (error_of(fault_of(1, error)), error_of(fault_of(2, error_of(fault_of(1, error))))):
        assert is_silent(problem(again))


def test_a_joint_failure_that_travelled_as_text_names_no_service() -> None:
    results = {f"billing-{n}": Failure(SoldOut("no tea " * 200)) for n in range(9)}
    text = "; ".join(f"{service}: {result.error.message}" for service, result in results.items())
    error = joint_failure(results.values(), text, {"services": {s: told(r) for s, r in results.items()}}).error
    there = error_of(fault_of(1, error))
    assert isinstance(there.details["services"], str)
    response = problem(there, errors={"sold_out_over_http": 409})
    assert response.status_code == 409
    assert is_silent(response)


@dataclass(frozen=True)
class Failing(Request[int]):
    kind: int
    passes_on: bool = False


@dataclass(frozen=True)
class Failed(Event):
    kind: int


def app_of(node: Callable[[], DistributedMediator]) -> FastAPI:
    app = FastAPI(lifespan=lifespan(node))
    app.router.routes.extend(health_routes())

    @app.get("/send/{kind}/{passes_on}")
    async def send(kind: int, passes_on: bool, node: Annotated[DistributedMediator, Depends(mediator)]) -> Response:
        return respond(await node.send(Failing(kind, passes_on)))

    @app.get("/publish/{kind}")
    async def publish(kind: int, node: Annotated[DistributedMediator, Depends(mediator)]) -> Response:
        return respond(await node.publish(Failed(kind)))

    @app.get("/publish-many/{kind}")
    async def publish_many(kind: int, node: Annotated[DistributedMediator, Depends(mediator)]) -> Response:
        return respond(await node.publish_batch([Failed(kind), Failed(kind)]))

    @app.get("/raise/{kind}")
    async def raises(kind: int, node: Annotated[DistributedMediator, Depends(mediator)]) -> int:
        return (await node.send(Failing(kind))).unwrap()

    return app


@pytest.mark.parametrize("place", ["own node", "another node"])
async def test_no_client_sees_what_a_handler_or_its_store_met(place: str) -> None:
    handlers, others = Mediator(), Mediator()

    @handlers.handler
    async def fail(request: Failing) -> int:
        if request.passes_on:
            return (await handlers.send(Failing(request.kind))).unwrap()
        if request.kind == len(kinds()):
            raise OSError(SECRET)
        raise made(kinds()[request.kind])

    for of_a_service in (handlers, others):

        @of_a_service.handler
        async def failed(event: Failed) -> None:
            raise StoreError(SECRET) from OSError(SECRET) if event.kind == len(kinds()) else made(kinds()[event.kind])

    url, web = f"memory://silent-{place}", handlers if place == "own node" else Mediator()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(add_cluster(others, url, service="billing"))
        if place == "another node":
            await stack.enter_async_context(add_cluster(handlers, url, service="shop"))
        app = app_of(lambda: add_cluster(web, url, service="web"))
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://t"))
        for kind in range(len(kinds()) + 1):
            paths = (f"send/{kind}/0", f"send/{kind}/1", f"publish/{kind}", f"publish-many/{kind}", f"raise/{kind}")
            for path in (*paths, "health/ready", "health/live"):
                response = await http.get(f"/{path}")
                assert response.is_error == ("health" not in path)
                assert shown_in(response.content, response.headers.raw) == []


@pytest.mark.parametrize("seconds", [10**400, -(10**400), float("nan"), float("-inf"), True, "1; x=" + SECRET, None])
def test_a_time_that_is_none_is_no_error(seconds: Any) -> None:
    response = problem(SoldOut("no tea", details={"retry_after": seconds}))
    assert response.status_code == 500
    assert response.headers.get("retry-after") in (None, "1")
