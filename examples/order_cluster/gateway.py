"""HTTP in front of the nodes: POST /orders, GET /nodes, GET /health/live and /health/ready."""

import msgspec
from examples.order_cluster.messages import PlaceOrder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from catga import DistributedMediator
from catga.errors import InvalidMessageError
from catga.integrations.fastapi import health_routes, lifespan, problem, respond


def web(cluster: DistributedMediator) -> Starlette:
    """The application; it joins the cluster when it starts, and drains and leaves when it is told to stop."""

    async def post_order(request: Request) -> Response:
        try:
            order = msgspec.json.decode(await request.body(), type=PlaceOrder)
        except msgspec.DecodeError as error:
            return problem(InvalidMessageError(str(error)), detail=str(error))
        result = await cluster.send(order)
        response = respond(result, status=201)
        response.headers["x-node"] = result.metadata.node_id
        response.headers["x-attempts"] = str(result.metadata.attempts)
        return response

    async def get_nodes(_: Request) -> Response:
        nodes = cluster.get_nodes()
        return JSONResponse([{"node_id": n.node_id, "service": n.service, "state": n.state.value} for n in nodes])

    return Starlette(
        routes=[
            Route("/orders", post_order, methods=["POST"]),
            Route("/nodes", get_nodes),
            *health_routes(cluster),
        ],
        lifespan=lifespan(cluster),
    )
