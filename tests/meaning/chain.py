"""Three services whose handlers call each other: as nodes, `catga run chain:orders`, and in one process, `whole()`."""

from dataclasses import dataclass

from catga import Event, Mediator, Request, current
from catga.mediator import Router


@dataclass(frozen=True)
class PlaceOrder(Request[str]):
    number: int


@dataclass(frozen=True)
class Charge(Request[int]):
    number: int


@dataclass(frozen=True)
class Price(Request[int]):
    number: int


@dataclass(frozen=True)
class Placed(Event):
    number: int


@dataclass(frozen=True)
class Charged(Event):
    number: int


@dataclass(frozen=True)
class Mails(Request[list[str]]):
    """What one node of the service has sent."""


orders_router, billing_router, mail_router = Router(), Router(), Router()
sent: list[str] = []


@orders_router.handler
async def place(order: PlaceOrder) -> str:
    amount = (await current().send(Charge(order.number))).unwrap()
    (await current().publish(Placed(order.number))).unwrap()
    return f"{order.number} for {amount}"


class PriceHandler:
    async def handle(self, price: Price) -> int:
        return 10 * price.number


orders_router.add_handler(Price, PriceHandler)


@mail_router.handler
async def placed(event: Placed) -> None:
    sent.append(f"placed {event.number}")


@mail_router.handler
def charged(event: Charged) -> None:
    sent.append(f"charged {event.number}")


@mail_router.handler
async def mails(_: Mails) -> list[str]:
    return sent


billing = Mediator()


@billing.handler
async def charge(charge: Charge) -> int:
    amount = (await billing.send(Price(charge.number))).unwrap()
    (await billing.publish(Charged(charge.number))).unwrap()
    return amount


orders, mail = Mediator(), Mediator()
orders.include(orders_router)
mail.include(mail_router)


def whole() -> Mediator:
    """All of it in one process."""
    app = Mediator()
    for router in (orders_router, mail_router):
        app.include(router)

    @app.handler
    async def charge(charge: Charge) -> int:
        amount = (await app.send(Price(charge.number))).unwrap()
        (await app.publish(Charged(charge.number))).unwrap()
        return amount

    return app
