"""An order service with everything switched on: python order_service.py [url].

A gateway sends; ``orders`` takes orders and asks ``stock``; ``mail`` hears of each order, and fails at first.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated

from dishka import Provider, Scope, make_async_container
from msgspec import Meta

from catga import CatgaError, DistributedMediator, Event, Failure, Mediator, Request, Success, add_cluster, message
from catga.integrations.dishka import CatgaProvider, DishkaResolver
from catga.integrations.otel import OpenTelemetry
from catga.mediator import MessageContext, Router, correlate, current_message
from catga.mediator.behaviors import (
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    DeadLetters,
    Idempotency,
    Logging,
    RateLimit,
    Retry,
    Timeout,
    Validation,
)

# -- messages ---------------------------------------------------------------------------------------------


@message(idempotent=True, key="order_id", timeout=5.0)
@dataclass(frozen=True, slots=True)
class PlaceOrder(Request[str]):
    """Answered with a line for the customer."""

    order_id: str
    sku: str
    quantity: Annotated[int, Meta(ge=1, le=100)]


@message(idempotent=True)
@dataclass(frozen=True, slots=True)
class GetPrice(Request[int]):
    """Answered in cents."""

    sku: str


@dataclass(frozen=True, slots=True)
class Reserve(Request[None]):
    order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class OrderPlaced(Event):
    order_id: str
    correlation_id: str


class OutOfStock(CatgaError):
    """Crosses the wire as itself, as both sides know its code."""

    code = "out_of_stock"


# -- stock ------------------------------------------------------------------------------------------------


class Stock:
    """What the handlers of this service need."""

    def __init__(self) -> None:
        self.left = {"tea": 10, "coffee": 1}
        self.prices = {"tea": 450, "coffee": 900}


class ReserveHandler:
    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    async def handle(self, request: Reserve) -> None:
        left = self._stock.left.get(request.sku, 0)
        if left < request.quantity:
            raise OutOfStock(f"{left} {request.sku} left", details={"left": left})
        self._stock.left[request.sku] = left - request.quantity


class GetPriceHandler:
    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    def handle(self, request: GetPrice) -> int:
        return self._stock.prices[request.sku]


stock = Router()
stock.behavior(only=GetPrice)(Caching(ttl=60.0))
stock.behavior(only=Reserve)(Idempotency(key=lambda request: request.order_id))
stock.add_handler(Reserve, ReserveHandler)
stock.add_handler(GetPrice, GetPriceHandler)


# -- orders -----------------------------------------------------------------------------------------------


class PlaceOrderHandler:
    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator

    async def handle(self, order: PlaceOrder) -> str:
        price = (await self._mediator.send(GetPrice(order.sku))).unwrap()
        (await self._mediator.send(Reserve(order.order_id, order.sku, order.quantity))).unwrap()
        await self._mediator.publish(OrderPlaced(order.order_id, current_message().correlation_id))
        return f"{order.quantity} {order.sku} for {order.quantity * price / 100:.2f}"


orders = Router()
orders.behavior(RateLimit(100.0))
orders.behavior(Validation())
orders.behavior(Idempotency(key=lambda order: order.order_id))
orders.add_handler(PlaceOrder, PlaceOrderHandler)


# -- mail -------------------------------------------------------------------------------------------------

mail = Router()
letters = DeadLetters()
mail.behavior(letters)
mail.behavior(CircuitBreaker(10))
mail.behavior(ConcurrencyLimit(4))
mail.behavior(Retry(2, base=0.01, on=ConnectionError))
mail.behavior(Timeout(2.0))

mail_server_is_up = False


@mail.handler
async def send_mail(event: OrderPlaced) -> None:
    if not mail_server_is_up:
        raise ConnectionError("the mail server is down")
    print(f"mail: {event.order_id} is on its way ({event.correlation_id})")


# -- nodes ------------------------------------------------------------------------------------------------


def node(name: str, url: str, router: Router) -> DistributedMediator:
    """A node of the service `name`, with the handlers of `router`."""
    needs = Provider(scope=Scope.REQUEST)
    needs.provide_all(ReserveHandler, GetPriceHandler, PlaceOrderHandler)
    needs.provide(Stock, scope=Scope.APP)

    app = Mediator(resolver=DishkaResolver(make_async_container(needs, CatgaProvider())))
    app.use(MessageContext())
    app.use(OpenTelemetry())
    app.behavior(Logging())
    app.include(router)
    for problem in app.check():
        raise SystemExit(str(problem))
    return add_cluster(app, url, node_id=f"{name}-1", service=name)


async def main(url: str = "memory://shop") -> None:
    global mail_server_is_up
    gateway, mailer = node("gateway", url, Router()), node("mail", url, mail)
    async with AsyncExitStack() as running:
        for each in (node("stock", url, stock), node("orders", url, orders), mailer, gateway):
            await running.enter_async_context(each)
        with correlate("visit-1"):
            for order in (PlaceOrder("o1", "tea", 2), PlaceOrder("o1", "tea", 2), PlaceOrder("o2", "coffee", 5)):
                match await gateway.send(order):
                    case Success(line):
                        print(order.order_id, line)
                    case Failure(error):
                        print(order.order_id, "refused:", error)
        print("not valid:", (await gateway.send(PlaceOrder("o3", "tea", 0))).is_success)

        mail_server_is_up = True
        for letter in await letters.list():
            print(f"dead letter: {letter.error}, replayed: {(await letters.replay(mailer, letter.id)).is_success}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
