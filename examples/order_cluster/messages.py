"""What the gateway and the nodes say to each other."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from catga import Request, message

Name = Annotated[str, Meta(min_length=1, max_length=64)]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the customer gets. `taken_by` is the node that booked the order."""

    order_id: str
    taken_by: str


@message(name="orders.Place", idempotent=True, key="customer", timeout=10.0)
@dataclass(frozen=True, slots=True)
class PlaceOrder(Request[Receipt]):
    """Booked once, however often it is sent: `order_id` tells. All orders of a customer go to one node."""

    order_id: Name
    customer: Name
    sku: Name
    quantity: Annotated[int, Meta(ge=1, le=100)]
