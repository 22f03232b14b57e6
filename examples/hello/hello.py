"""Two nodes, one request each: python hello.py [url]."""

import asyncio
import sys
from dataclasses import dataclass

from catga import DistributedMediator, Mediator, Request, add_cluster

URL = sys.argv[1] if len(sys.argv) > 1 else "memory://demo"


@dataclass(frozen=True, slots=True)
class Greet(Request[str]):
    name: str


def node(node_id: str) -> DistributedMediator:
    app = Mediator()

    @app.handler
    async def greet(request: Greet) -> str:
        return f"Hello {request.name}, this is {node_id}"

    return add_cluster(app, URL, node_id=node_id)


async def main() -> None:
    async with node("alpha") as alpha, node("beta"):
        answers = {(await alpha.send(Greet("World"))).unwrap() for _ in range(2)}
    print(*sorted(answers), sep="\n")


asyncio.run(main())
