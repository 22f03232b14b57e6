"""What both type checkers accept, and what they infer. Checked by tests/typing/test_typing.py, never run."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import assert_type

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
    message,
)
from catga.errors import CatgaError


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


@app.handles(AsModel)
async def nothing(request: AsModel) -> None: ...


@app.handles(Happened)
async def event_coroutine(event: Happened) -> None: ...


@app.handles(Happened)
def event_plain(event: Happened) -> None: ...


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
