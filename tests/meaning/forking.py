"""A program that forks while its node runs; the child sends before and after it makes a node of its own."""

import asyncio
import os
import warnings
from dataclasses import dataclass
from typing import Any

from catga import Mediator, Request, add_cluster


@dataclass(frozen=True)
class Ask(Request[int]):
    pass


async def main() -> None:
    app = Mediator()
    app.handles(Ask)(answer)
    async with add_cluster(app, node_id="parents", prefix="forked"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # one may not fork with threads: users do
            child = os.fork()
        if child:
            os.waitpid(child, 0)  # noqa: ASYNC222 - nothing else is to be done here
            return
        asyncio._set_running_loop(None)
        try:
            asyncio.run(send(app))
        finally:
            os._exit(0)


def answer(request: Ask) -> int:
    return 5


async def send(app: Mediator) -> None:
    result: Any = await app.send(Ask())
    os.write(1, f"{type(result.error).__name__}: {result.error.message}\n".encode())
    async with add_cluster(app, node_id="childs", prefix="forked"):
        result = await app.send(Ask())
        os.write(1, f"{result.unwrap()} by {result.metadata.node_id}\n".encode())


asyncio.run(main())
