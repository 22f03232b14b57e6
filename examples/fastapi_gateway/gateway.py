"""HTTP in front of a cluster: uvicorn gateway:app, then

    curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"sku": "tea", "quantity": 2}'

Here the handler is in the same process; on ``CATGA_URL=nats://...`` it may be on any node.
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Response
from pydantic import BaseModel, Field

from catga import CatgaError, DistributedMediator, Mediator, Request, add_cluster
from catga.integrations.fastapi import health_routes, lifespan, mediator, respond
from catga.mediator import MessageContext, correlate, current_message


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int


class PlaceOrder(BaseModel, Request[Order]):
    sku: str
    quantity: int = Field(ge=1, le=100)


class OutOfStock(CatgaError):
    code = "out_of_stock"


handlers = Mediator()
handlers.use(MessageContext())


@handlers.handler
async def place(request: PlaceOrder) -> Order:
    if request.sku != "tea":
        raise OutOfStock(f"no {request.sku} left", details={"sku": request.sku})
    return Order(order_id=current_message().correlation_id, sku=request.sku, quantity=request.quantity)


def node() -> DistributedMediator:
    """Make the node. Each start of the application has its own, so that tests may start it as often as they like."""
    return add_cluster(handlers, os.environ.get("CATGA_URL", "memory://shop"), service="gateway")


app = FastAPI(lifespan=lifespan(node))
app.router.routes.extend(health_routes())


@app.post("/orders")
async def post_order(
    order: PlaceOrder,
    cluster: Annotated[DistributedMediator, Depends(mediator)],
    x_request_id: Annotated[str, Header()] = "",
) -> Response:
    with correlate(x_request_id):
        return respond(await cluster.send(order), status=201, errors={"out_of_stock": 409})
