"""A program that forks while its node runs; the child prints what comes of sending by it."""

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
    async with add_cluster(Mediator(), node_id="parents", prefix="forked") as node:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # one may not fork with threads: users do
            child = os.fork()
        if child:
            os.waitpid(child, 0)  # noqa: ASYNC222 - nothing else is to be done here
            return
        asyncio._set_running_loop(None)
        try:
            result: Any = asyncio.run(send(node))
            os.write(1, f"{type(result.error).__name__}: {result.error.message}".encode())
        finally:
            os._exit(0)


async def send(node: Mediator) -> Any:
    return await node.send(Ask())


asyncio.run(main())
