"""What both type checkers accept, and what they infer. Checked by tests/typing/test_typing.py, never run."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, assert_type

import attrs
import msgspec
import pydantic

from catga import (
    CatgaResult,
    ConsistentHash,
    DistributedMediator,
    Event,
    Failure,
    Mediator,
    Request,
    RoundRobin,
    Success,
    add_cluster,
    add_nats_cluster,
    add_redis_cluster,
    message,
)
from catga.cluster.outliers import OutlierEjection
from catga.errors import CatgaError

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AsDataclass(Request[int]):
    sku: str


class AsStruct(msgspec.Struct, Request[list[str]], frozen=True):
    sku: str


@attrs.frozen
class AsAttrs(Request[dict[str, float]]):
    sku: str


class AsModel(pydantic.BaseModel, Request[None]):
    sku: str


@message(idempotent=True, key="sku", timeout=2.0, name="shop.Optioned")
@dataclass(frozen=True, slots=True)
class Optioned(Request[bytes]):
    sku: str


@dataclass(frozen=True, slots=True)
class Happened(Event):
    text: str


app = Mediator()


@app.handler
async def by_annotation(request: AsDataclass) -> int:
    return len(request.sku)


@app.handles(AsDataclass)
async def coroutine(request: AsDataclass) -> int:
    return len(request.sku)


@app.handles(AsStruct)
def plain(request: AsStruct) -> list[str]:
    return [request.sku]


@app.handler(in_thread=True)
def in_thread(request: AsDataclass) -> int:
    return len(request.sku)


@app.handles(AsStruct, in_thread=True)
def handled_in_thread(request: AsStruct) -> list[str]:
    return [request.sku]


@app.handles(AsAttrs)
async def result(request: AsAttrs) -> CatgaResult[dict[str, float]]:
    return Success({request.sku: 1.0}) if request.sku else Failure(CatgaError("no sku"))


@app.handles(AsAttrs)
def plain_result(request: AsAttrs) -> CatgaResult[dict[str, float]]:
    return Success({request.sku: 1.0}) if request.sku else Failure(CatgaError("no sku"))


@app.handles(AsDataclass)
async def value_or_failure(request: AsDataclass) -> int | Failure:
    return len(request.sku) or Failure(CatgaError("no sku"))


@app.handles(AsDataclass)
def plain_value_or_failure(request: AsDataclass) -> int | Failure:
    return len(request.sku) or Failure(CatgaError("no sku"))


@app.handles(AsModel)
async def nothing(request: AsModel) -> None: ...


@app.handles(AsModel)
def nothing_or_failure(request: AsModel) -> CatgaResult[None]:
    return Failure(CatgaError("no")) if request.sku else Success(None)


@app.handles(Happened)
async def event_coroutine(event: Happened) -> None: ...


@app.handles(Happened)
def event_plain(event: Happened) -> None: ...


@app.handles(Happened)
async def event_result(event: Happened) -> CatgaResult[None]:
    return Success(None) if event.text else Failure(CatgaError("no text"))


@app.handles(Happened)
def event_plain_result(event: Happened) -> CatgaResult[None]:
    return Success(None) if event.text else Failure(CatgaError("no text"))


@app.handles(Happened)
async def event_failure(event: Happened) -> Failure | None:
    return None if event.text else Failure(CatgaError("no text"))


class Sends(Protocol):
    """What a program may ask for in place of a mediator."""

    async def send(self, request: Request[R], /) -> CatgaResult[R]: ...
    async def publish(self, event: Event, /) -> CatgaResult[None]: ...


def asking_for_less(mediator: Mediator, node: DistributedMediator) -> list[Sends]:
    return [mediator, node]


async def handlers_keep_their_types() -> None:
    assert_type(await coroutine(AsDataclass("a")), int)
    assert_type(plain(AsStruct("a")), list[str])
    assert_type(await result(AsAttrs("a")), CatgaResult[dict[str, float]])
    assert_type(plain_result(AsAttrs("a")), CatgaResult[dict[str, float]])
    assert_type(await event_result(Happened("x")), CatgaResult[None])
    assert_type(event_plain_result(Happened("x")), CatgaResult[None])
    await event_coroutine(Happened("x"))


async def sending(mediator: Mediator, node: DistributedMediator) -> None:
    assert_type((await mediator.send(AsDataclass("a"))).unwrap(), int)
    assert_type((await mediator.send(AsStruct("a"))).unwrap(), list[str])
    assert_type((await mediator.send(AsAttrs("a"))).unwrap(), dict[str, float])
    assert_type((await mediator.send(Optioned("a"))).unwrap(), bytes)
    (await mediator.send(AsModel(sku="a"))).unwrap()
    assert_type(await node.send(AsStruct("a")), CatgaResult[list[str]])
    assert_type((await node.send_to_node(AsDataclass("a"), "b")).unwrap(), int)
    assert_type(await node.send_batch([AsDataclass("a"), AsDataclass("b")]), list[CatgaResult[int]])
    assert_type(node.send_stream([AsDataclass("a")]), AsyncIterator[CatgaResult[int]])
    assert_type(await node.publish(Happened("x")), CatgaResult[None])


async def matching(mediator: Mediator) -> int:
    answer = await mediator.send(AsDataclass("a"))
    if isinstance(answer, Success):
        assert_type(answer.value, int)
    else:
        assert_type(answer.error, CatgaError)
    match answer:
        case Success(value):
            return assert_type(value, int)
        case Failure(error):
            return len(assert_type(error, CatgaError).code)


def wiring() -> None:
    assert_type(in_thread(AsDataclass("a")), int)
    add_cluster(app, "memory://x", node_id="a", routing=ConsistentHash())
    add_cluster(app, routing=RoundRobin(), metadata={"zone": "a"}, load=lambda: 0.5)
    add_cluster(app, outliers=OutlierEjection())
    add_nats_cluster(app, outliers=OutlierEjection(), queues=True, discovery="kv", token="t")
    add_redis_cluster(app, outliers=OutlierEjection(), signing_keys=[b"x" * 16], db=1)
