"""What both type checkers must reject: every line that ends with a mark, and no other. Never run."""

from dataclasses import dataclass

import msgspec

from catga import CatgaResult, Event, Failure, Mediator, Request, add_nats_cluster, add_redis_cluster


@dataclass(frozen=True, slots=True)
class Reserve(Request[int]):
    sku: str


class Ship(msgspec.Struct, Request[str], frozen=True):
    sku: str


@dataclass(frozen=True, slots=True)
class Happened(Event):
    text: str


app = Mediator()


@app.handles(Reserve)  # error
async def wrong_parameter(request: Ship) -> int:
    return 1


@app.handles(Reserve)  # error
async def wrong_return(request: Reserve) -> str:
    return ""


@app.handles(Reserve)  # error
def wrong_plain_parameter(request: Ship) -> int:
    return 1


@app.handles(Reserve)  # error
def wrong_plain_return(request: Reserve) -> str:
    return ""


@app.handles(Ship)  # error
async def wrong_result(request: Ship) -> CatgaResult[int]:
    raise NotImplementedError


@app.handles(Ship)  # error
def wrong_plain_result(request: Ship) -> CatgaResult[int]:
    raise NotImplementedError


@app.handles(Ship)  # error
async def wrong_value_or_failure(request: Ship) -> int | Failure:
    raise NotImplementedError


@app.handles(Happened)  # error
async def wrong_event_result(event: Happened) -> CatgaResult[int]:
    raise NotImplementedError


@app.handles(Happened)  # error
async def wrong_event(event: Reserve) -> None: ...


@app.handles(Happened)  # error
async def answering_event(event: Happened) -> int:
    return 1


@app.handles(Happened)  # error
def answering_plain_event(event: Happened) -> int:
    return 1


async def sending() -> None:
    text: str = (await app.send(Reserve("a"))).unwrap()  # error
    number: int = (await app.send(Ship("a"))).unwrap()  # error
    await app.send(Happened("x"))  # error
    await app.publish(Reserve("a"))  # error
    print(text, number)


def wiring() -> None:
    add_nats_cluster(app, outlierz=1)  # error
    add_nats_cluster(app, outliers=1)  # error
    add_redis_cluster(app, outlierz=1)  # error
    add_redis_cluster(app, discovery="kv")  # error
